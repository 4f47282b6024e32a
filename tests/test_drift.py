"""Drift: windows of other speakers are none, another world is one, and a dead input is something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from components import drift, drift_answers, drift_report, drift_windows
from components.drift import SpokenRows, Summary
from components.drift_comparison import Comparison, Part, compare
from components.drift_samples import Sample
from components.features import ClipFeatures
from components.monitoring import Monitor
from components.storage import Storage
from components.task import Task
from flows import watching
from tests.talkers import LABELS, NUM_TRAINING, Observer, Talker, children, frozen, noisy, talkers, unheard

CLIPS_A_DAY = 160
TASK = Task("classes", LABELS, source="drawn")
SETTINGS = Monitor()


@dataclass(frozen=True, eq=False)
class World:
    """A model, and the clips of speakers that it never saw."""

    observer: Observer
    held_out: list[Talker]
    samples: list[Sample]
    folder: Path

    def compare(self, day: Sequence[Sample]) -> Comparison:
        return compare(self.observer.reference, day, SETTINGS, task=TASK)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("talkers")
    drawn = talkers(folder, clips_per_speaker=8)
    training = [clip for clip in drawn if int(clip.speaker[-3:]) < NUM_TRAINING - 3]
    validation = [clip for clip in drawn if NUM_TRAINING - 3 <= int(clip.speaker[-3:]) < NUM_TRAINING]
    held_out = [clip for clip in drawn if int(clip.speaker[-3:]) >= NUM_TRAINING]
    observer = Observer(training, validation)
    return World(observer, held_out, [observer.sample(clip) for clip in held_out], folder)


def day_of(world: World, generator: np.random.Generator, number: int = CLIPS_A_DAY) -> list[Sample]:
    """A day's requests: four of the held-out speakers, some of whom ask more than others."""
    speakers = sorted({clip.speaker for clip in world.held_out})
    asking = generator.choice(speakers, 4, replace=False)
    share = generator.dirichlet(np.full(4, 5.0))
    chosen = generator.choice(asking, number, p=share)
    own = {name: [at for at, clip in enumerate(world.held_out) if clip.speaker == name] for name in asking}
    return [world.samples[generator.choice(own[name])] for name in chosen]


def test_a_hundred_days_of_other_speakers_alarm_once_at_most(world: World) -> None:
    generator = np.random.default_rng(11)
    found = [world.compare(day_of(world, generator)) for _ in range(100)]
    assert all(part.tests for day in found for part in day.parts), "nothing was compared"
    assert sum(bool(day.drifted or day.dead) for day in found) <= 1, [day.drifted for day in found if day.drifted]


@pytest.mark.parametrize(
    ("change", "drifted", "dead"),
    [
        pytest.param(noisy, {"audio"}, set(), id="noise"),
        pytest.param(lambda clip, _generator: unheard(clip), set(), {"audio"}, id="dead microphone"),
        pytest.param(lambda clip, _generator: frozen(clip), set(), {"video"}, id="frozen camera"),
    ],
)
def test_what_is_planted_is_found_within_a_day_and_named(
    change: Callable[[Talker, np.random.Generator], Talker], drifted: set[str], dead: set[str], world: World
) -> None:
    generator = np.random.default_rng(3)
    changed = [world.observer.sample(change(clip, generator)) for clip in world.held_out]
    # A third of the day is as before.
    day = [changed[generator.integers(len(changed))] for _ in range(CLIPS_A_DAY)] + day_of(world, generator, 80)
    found = world.compare(day)
    assert set(found.dead) == dead
    # Where the sound drifts, what is answered may follow.
    assert drifted <= set(found.drifted) <= (drifted | {"answers"} if drifted else set())
    assert watching.verdict_of(found) == ("dead-input" if dead else "drift")


def test_other_people_are_found_in_sound_and_picture(world: World) -> None:
    others = [world.observer.sample(clip) for clip in children(world.folder, 5, 6)]
    generator = np.random.default_rng(4)
    day = [others[generator.integers(len(others))] for _ in range(CLIPS_A_DAY)]
    found = world.compare(day)
    assert {"audio", "video"} <= set(found.drifted)
    assert not found.dead
    page = drift_report.build(found, world.observer.reference, day, title="Requests", facts={"Window": "a day"})
    assert page.count("data:image/svg+xml") == 3
    assert "<script" not in page
    assert "audio: drift" in page


def test_statistics_equal_slow_loops() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 3)).astype(np.float32)
    window = generator.normal(0.5, size=(40, 3)).astype(np.float32)
    usual = drift_windows.usual(
        SpokenRows(rows, np.repeat(np.arange(10), 6).astype(np.int32)), num_clips=20, num_speakers=3
    )
    psi, ks, mmd = usual.tests(window)
    edges = np.quantile(rows, np.linspace(0, 1, 11)[1:-1], axis=0)
    indices, distances = [], []
    for column in range(3):
        shares = []
        for values in (window, rows):
            counts = np.array([0.5] * 10)
            for value in values[:, column]:
                counts[sum(value >= edge for edge in edges[:, column].astype(np.float32))] += 1
            shares.append(counts / counts.sum())
        indices.append(sum((p - q) * np.log(p / q) for p, q in zip(*shares, strict=True)))
        distances.append(stats.ks_2samp(window[:, column], rows[:, column]).statistic)
    assert psi.value == pytest.approx(np.mean(indices), rel=1e-5)
    # At the deciles alone, and with half a clip more in each bin.
    assert ks.value == pytest.approx(max(distances), abs=0.1)
    assert mmd.value == pytest.approx(slow_mmd(window, rows, usual.width), rel=1e-3)
    assert psi.p_value == (1 + np.sum(usual.statistics_B3[:, 0] >= psi.value)) / (1 + drift_windows.NUM_WINDOWS)


def slow_mmd(window: NDArray[np.float32], rows: NDArray[np.float32], width: float) -> float:
    left, right = ((each - rows.mean(0)) / rows.std(0) for each in (window, rows))

    def mean(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(np.mean([np.exp(-((a - b) ** 2).sum() / width) for a in one for b in other]))

    return mean(left, left) + mean(right, right) - 2 * mean(left, right)


def test_answers_of_speakers_apart_are_an_ordinary_chi_square() -> None:
    # One clip a speaker: so many clips are worth as many.
    known = np.repeat(np.eye(3, dtype=np.float32), (30, 20, 10), axis=0)
    window = np.repeat(np.eye(3, dtype=np.float32), (10, 20, 30), axis=0)
    task = Task("classes", ("a", "b", "c"), source="drawn")
    spoken = SpokenRows(known, np.arange(60, dtype=np.int32))
    [found] = drift_answers.shifts(spoken, window, task, thresholds=(), num_speakers=60)
    expected = stats.chi2_contingency([[30, 20, 10], [10, 20, 30]])
    assert (found.chi_square, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    # Of four speakers the same clips are worth far less.
    [fewer] = drift_answers.shifts(spoken, window, task, thresholds=(), num_speakers=4)
    assert fewer.p_value > 10 * found.p_value


@pytest.mark.parametrize("kind", ["multilabel", "values"])
def test_each_label_and_each_value_is_compared(kind: str) -> None:
    generator = np.random.default_rng(0)
    known = generator.uniform(0, 1, (200, 2)).astype(np.float32)
    window = np.stack([generator.uniform(0, 1, 200), generator.uniform(0.6, 1, 200)], axis=1).astype(np.float32)
    task = Task("multilabel", ("a", "b"), source="drawn")
    if kind == "values":
        task = Task("values", ("a", "b"), source="drawn", scale=(0.0, 1.0))
    spoken = SpokenRows(known, (np.arange(200) % 20).astype(np.int32))
    same, moved = drift_answers.shifts(spoken, window, task, thresholds=(0.5, 0.5), num_speakers=20)
    assert (same.name, moved.name) == ("answers/a", "answers/b")
    assert same.p_value > 0.01 > moved.p_value
    assert moved.psi > 0.2 > same.psi


def test_what_cannot_be_compared_is_told(world: World, tmp_path: Path) -> None:
    day = day_of(world, np.random.default_rng(0))
    bare = replace(world.observer.reference, clips={}, answers=None)
    bare.save(tmp_path / "older.npz")
    older = compare(drift.load(tmp_path / "older.npz"), day, SETTINGS, task=TASK)
    assert "retrain once" in older.note
    assert watching.verdict_of(older) == "unknown"
    assert "fewer than 100" in world.compare(day[:99]).note
    clips = world.observer.reference.clips["audio"]
    three = replace(
        world.observer.reference, clips={"audio": SpokenRows(clips.rows_NF, clips.speaker_N % 3)}, answers=None
    )
    told = {part.name: part.note for part in compare(three, day, SETTINGS, task=TASK).parts}
    assert told == {
        "audio": "training had 3 speakers, too few to know the usual",
        "video": "training had none",
        "text": "training had none",
    }


def test_a_reference_keeps_its_clips_and_names_nobody(world: World, tmp_path: Path) -> None:
    world.observer.reference.save(tmp_path / "reference.npz")
    loaded = drift.load(tmp_path / "reference.npz")
    for name, rows in world.observer.reference.clips.items():
        np.testing.assert_array_equal(loaded.clips[name].speaker_N, rows.speaker_N)
        np.testing.assert_allclose(loaded.clips[name].rows_NF, rows.rows_NF, rtol=2e-3, atol=2e-3)
    assert loaded.movements == pytest.approx(world.observer.reference.movements)
    assert loaded.dead_shares == pytest.approx(world.observer.reference.dead_shares)
    assert loaded.answers is not None
    assert b"speaker-0" not in (tmp_path / "reference.npz").read_bytes()


def test_only_some_clips_of_many_are_kept_and_always_the_same() -> None:
    rows = [np.array([number], np.float32) for number in range(9000)]
    speakers = [f"s{number % 90}" for number in range(9000)]
    kept, again = drift.spoken_rows(rows, speakers), drift.spoken_rows(rows, speakers)
    assert kept.num_speakers == drift.MAX_SPEAKERS
    assert len(kept) == drift.MAX_SPEAKERS * drift.MAX_CLIPS_PER_SPEAKER
    np.testing.assert_array_equal(kept.rows_NF, again.rows_NF)


def test_drift_starts_a_training_within_its_cooldown_and_budget(tmp_path: Path) -> None:
    storage, now = Storage(str(tmp_path)), datetime(2026, 3, 8, 12, tzinfo=UTC)
    drifted = Comparison(200, (Part("audio", 200, drifted=True),))
    settings = Monitor(cooldown_h=24, max_retrains_per_week=2)

    def due(at: datetime, found: Comparison = drifted) -> str:
        return watching.retrain_now(found, settings, storage, at)

    assert due(now, Comparison(200, (Part("audio", 200),))) == "no"
    assert due(now, Comparison(200, (*drifted.parts, Part("video", 200, dead=True)))) == "dead-input"
    assert due(now) == "due"
    watching.note_retrain(storage, now, "a")
    assert due(now + timedelta(hours=23)) == "cooldown"
    assert due(now + timedelta(hours=25)) == "due"
    watching.note_retrain(storage, now + timedelta(hours=25), "b")
    assert due(now + timedelta(hours=50)) == "budget"
    assert due(now + timedelta(days=7, minutes=1)) == "due"


def test_a_summary_is_of_whole_clips_and_tells_what_stands_still() -> None:
    still = drift.summary_of(
        ClipFeatures(np.ones((5, 3), np.float16), np.zeros((0, 2), np.float16), np.zeros(0, np.int32))
    )
    assert still.movements == {"audio": 0.0}
    assert isinstance(still, Summary)
    assert list(still.rows) == ["audio"]
