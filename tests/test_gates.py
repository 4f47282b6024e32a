"""The gates: each judges alone, all are shown, and the stage says by how much a candidate failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from components import bundle, evaluate, gates, metrics_calibration, params
from components.bundle_files import version_of
from components.gates.__main__ import main as judge_bundle
from components.gates.calibration import Calibrated
from components.gates.champion import NotWorseThanChampion
from components.gates.disturbing import DISTURBANCES
from components.gates.evidence import Disturbed, Evidence, Package, Slice, read_package
from components.gates.floor import HeadlineFloor
from components.gates.gathering import gather
from components.gates.golden import GoldenReproduced
from components.gates.missing_modality import ModalitiesFloor
from components.gates.robustness import WithstandsDisturbance
from components.gates.slices import SliceNotWorse, groups_of
from components.gates.verdict import GateResult
from components.media import Recording
from components.metrics import Outcomes
from tests.conftest import REPOSITORY
from tests.finished_run import LABELS, FinishedRun, write_model
from tests.test_bundle import requests

NUM_SPEAKERS, CLIPS_EACH, NUM_CLASSES = 12, 20, 4


def answers(*, num_wrong_each: int, num_speakers: int = NUM_SPEAKERS) -> Outcomes:
    """Every speaker has each class equally often, and the first clips of each are answered wrongly."""
    actual_N = np.tile(np.arange(CLIPS_EACH) % NUM_CLASSES, num_speakers)
    is_wrong_N = np.tile(np.arange(CLIPS_EACH) < num_wrong_each, num_speakers)
    predicted_N = np.where(is_wrong_N, (actual_N + 1) % NUM_CLASSES, actual_N)
    return Outcomes(actual_N, predicted_N, [f"speaker-{n // CLIPS_EACH}" for n in range(len(actual_N))], NUM_CLASSES)


def evidence(candidate: Outcomes, champion: Outcomes | None, *, golden_error: float = 0.0) -> Evidence:
    return Evidence(candidate, "candidate", champion, "champion" if champion else None, golden_error)


def test_the_floor_is_reached_or_missed_by_so_much() -> None:
    candidate = answers(num_wrong_each=8)
    passed = HeadlineFloor(0.5, 200).judge(evidence(candidate, None))
    assert passed.passed
    assert passed.value == pytest.approx(0.6)
    assert "0.100 above the floor of 0.500" in passed.message
    failed = HeadlineFloor(0.75, 200).judge(evidence(candidate, None))
    assert not failed.passed
    assert "0.150 below the floor of 0.750" in failed.message
    assert HeadlineFloor(0.0, 200).judge(evidence(candidate, None)).passed


def test_the_first_model_has_nobody_to_beat() -> None:
    result = NotWorseThanChampion(0.02, 200).judge(evidence(answers(num_wrong_each=8), None))
    assert result.passed
    assert result.value is None
    assert "first release" in result.message


def test_the_same_bundle_is_not_worse_than_itself() -> None:
    outcomes = answers(num_wrong_each=8)
    same = replace(evidence(outcomes, outcomes), candidate_version="abc", champion_version="abc")
    result = NotWorseThanChampion(0.0, 200).judge(same)
    assert result.passed
    assert "identical (version abc)" in result.message


def test_a_champion_of_other_labels_cannot_be_compared() -> None:
    strange = replace(evidence(answers(num_wrong_each=8), None), champion_version="abc")
    result = NotWorseThanChampion(0.0, 200).judge(strange)
    assert result.passed
    assert "version abc) knows none of these labels" in result.message


def test_a_better_model_passes_and_a_worse_one_fails_by_so_much() -> None:
    good, bad = answers(num_wrong_each=4), answers(num_wrong_each=8)
    better = NotWorseThanChampion(0.02, 200).judge(evidence(good, bad))
    assert better.passed
    assert better.value == pytest.approx(0.2)
    worse = NotWorseThanChampion(0.02, 200).judge(evidence(bad, good))
    assert not worse.passed
    assert worse.low == pytest.approx(-0.2)
    assert "the low end is 0.180 below -0.020" in worse.message


def test_a_loss_that_may_be_chance_fails_unless_it_is_allowed() -> None:
    champion = answers(num_wrong_each=6)
    predicted_N = champion.predicted_N.copy()
    # Two speakers lose half of their clips, two others gain theirs: no difference on average, but not surely.
    predicted_N[: 2 * CLIPS_EACH] = (champion.actual_N[: 2 * CLIPS_EACH] + 2) % NUM_CLASSES
    predicted_N[-2 * CLIPS_EACH :] = champion.actual_N[-2 * CLIPS_EACH :]
    candidate = replace(champion, predicted_N=predicted_N)
    strict = NotWorseThanChampion(0.0, 500).judge(evidence(candidate, champion))
    assert strict.low is not None
    assert strict.low < 0
    assert not strict.passed
    assert NotWorseThanChampion(abs(strict.low) + 1e-9, 500).judge(evidence(candidate, champion)).passed


def test_one_test_speaker_is_said() -> None:
    good, bad = (answers(num_wrong_each=wrong, num_speakers=1) for wrong in (4, 8))
    assert "one test speaker only" in NotWorseThanChampion(0.02, 200).judge(evidence(good, bad)).message


@pytest.mark.parametrize(("error", "passed"), [(0.0, True), (1e-5, True), (1.1e-5, False), (1.0, False)])
def test_golden_answers_must_be_reproduced(error: float, passed: bool) -> None:
    outcomes = answers(num_wrong_each=4)
    result = GoldenReproduced().judge(evidence(outcomes, None, golden_error=error))
    assert result.passed is passed
    assert ("too much" in result.message) is not passed


def rows(**changes: object) -> list[dict[str, object]]:
    """The clips of `answers()`: half of the speakers women, of all ages, some short clips."""
    return [
        {
            "speaker_id": f"speaker-{number // CLIPS_EACH}",
            "speaker_sex": ("female", "male")[number // CLIPS_EACH % 2],
            "speaker_age": 20.0 + 5 * (number // CLIPS_EACH),
            "corpus": "hand",
            "duration_s": 1.0 + number % CLIPS_EACH / 10,
            **changes,
        }
        for number in range(NUM_SPEAKERS * CLIPS_EACH)
    ]


def test_groups_are_made_of_what_is_known_and_large_enough() -> None:
    groups = groups_of(rows(), min_clips=20)
    assert {name: int(is_in_N.sum()) for name, is_in_N in groups.items()} == {
        "speaker_sex=female": 120,
        "speaker_sex=male": 120,
        "speaker_age=under 30 years": 40,
        "speaker_age=30 to 45 years": 60,
        "speaker_age=45 to 60 years": 60,
        "speaker_age=60 years or more": 80,
        # All clips are of one corpus: that is no group.
        "length=under 2 s": 120,
        "length=2 to 4 s": 120,
    }
    assert set(groups_of(rows(speaker_sex=None, speaker_age=None), min_clips=20)) == {
        "length=under 2 s",
        "length=2 to 4 s",
    }
    assert "speaker_age=under 30 years" not in groups_of(rows(), min_clips=41)
    assert not groups_of(rows(speaker_id="one"), min_clips=2)


def test_a_group_that_pays_is_found_and_a_loss_by_chance_is_not() -> None:
    good, bad = answers(num_wrong_each=4), answers(num_wrong_each=8)
    whole = evidence(good, bad)
    assert SliceNotWorse(Slice("sex=a", good, bad), 0.1, 0.25, 200).judge(whole).passed
    paid = SliceNotWorse(Slice("sex=a", bad, good), 0.1, 0.25, 200).judge(whole)
    assert (paid.name, paid.passed, paid.threshold) == ("slice/sex=a", False, -0.1)
    assert paid.value == pytest.approx(-0.2)
    assert "0.100 more than the 0.100 that may be lost" in paid.message
    # One of two speakers loses all of a lot, the other nothing: that may be chance.
    pair = answers(num_wrong_each=4, num_speakers=2)
    predicted_N = pair.predicted_N.copy()
    predicted_N[:CLIPS_EACH] = (pair.actual_N[:CLIPS_EACH] + 1) % NUM_CLASSES
    lucky = SliceNotWorse(Slice("sex=a", replace(pair, predicted_N=predicted_N), pair), 0.1, 0.25, 200).judge(whole)
    assert lucky.passed
    assert "this may be chance" in lucky.message


def test_a_group_of_a_first_model_is_held_against_the_whole() -> None:
    whole = evidence(answers(num_wrong_each=4), None)
    group = Slice("sex=a", answers(num_wrong_each=10), None)
    assert not SliceNotWorse(group, 0.0, 0.25, 200).judge(whole).passed
    near = SliceNotWorse(group, 0.0, 0.35, 200).judge(whole)
    assert near.passed
    assert near.value == pytest.approx(-0.3, abs=0.01)
    assert "against 0.800 on all clips" in near.message


def test_a_subset_of_the_modalities_keeps_its_share_of_the_lead() -> None:
    found = replace(evidence(answers(num_wrong_each=4), None), constant=0.1)
    failed = ModalitiesFloor("audio", answers(num_wrong_each=14), 0.5, 200).judge(found)
    assert (failed.name, failed.passed) == ("modalities/audio", False)
    # Half of the way from 0.1 to 0.8.
    assert failed.threshold == pytest.approx(0.45)
    assert "0.154 below 0.450" in failed.message
    assert ModalitiesFloor("audio", answers(num_wrong_each=14), 0.2, 200).judge(found).passed


def test_every_subset_but_the_whole_is_judged() -> None:
    whole, audio = answers(num_wrong_each=4), answers(num_wrong_each=8)
    found = replace(evidence(whole, None), by_modalities={"audio": audio, "text": audio, "audio+text": whole})
    names = [gate.name for gate in gates.gates_of(params.Gates(), found)]
    assert [name for name in names if name.startswith("modalities/")] == ["modalities/audio", "modalities/text"]


def test_a_disturbance_may_cost_something() -> None:
    good, bad = answers(num_wrong_each=4), answers(num_wrong_each=8)
    found = evidence(good, None)
    disturbed = Disturbed("noise_x", "noise", bad, good, "the recordings as they are")
    failed = WithstandsDisturbance(disturbed, 0.1, 200).judge(found)
    assert (failed.name, failed.passed) == ("robustness/noise_x", False)
    assert "on 240 clips against the recordings as they are -0.200" in failed.message
    assert WithstandsDisturbance(disturbed, 0.21, 200).judge(found).passed


def test_recordings_are_disturbed_as_said() -> None:
    generator = np.random.default_rng(1)
    sound_T = (0.1 * np.sin(np.arange(16_000) / 7)).astype(np.float32)
    frames_THW = np.arange(50, dtype=np.uint8)[:, None, None]
    whole = Recording(sound_T, frames_THW, np.arange(50) / 25, 2.0)
    changed = {each.name: each.apply(whole, generator) for each in DISTURBANCES}
    assert set(changed) == {"noise_20_db", "gain_-12_db", "gain_+12_db", "dropped_frames", "silence"}
    sounds = {name: each.waveform_T for name, each in changed.items() if each.waveform_T is not None}
    noise_T = sounds["noise_20_db"] - sound_T
    assert 10 * np.log10(np.square(sound_T).mean() / np.square(noise_T).mean()) == pytest.approx(20, abs=0.3)
    assert np.abs(sounds["gain_-12_db"]).max() == pytest.approx(0.1 / 3.98, abs=1e-3)
    assert np.abs(sounds["gain_+12_db"]).max() == pytest.approx(0.398, abs=1e-3)
    assert not sounds["silence"].any()
    shown_T = changed["dropped_frames"].frames_THW
    assert shown_T is not None
    assert shown_T.shape == frames_THW.shape
    # Time goes on and never back, and about half of the frames were lost.
    assert (np.diff(shown_T[:, 0, 0].astype(int)) >= 0).all()
    assert len(set(shown_T[:, 0, 0].tolist())) == pytest.approx(25, abs=8)


def test_calibration_is_within_a_limit_or_not() -> None:
    outcomes = answers(num_wrong_each=5)
    # Three quarters are right, and all are said to be sure.
    sure_NC = np.eye(NUM_CLASSES)[outcomes.predicted_N]
    sure = metrics_calibration.of_classes(outcomes.actual_N, sure_NC, outcomes.speaker_ids)
    found = replace(evidence(outcomes, None), calibration=sure)
    failed = Calibrated(0.2, 200).judge(found)
    assert failed.value == pytest.approx(0.25)
    assert not failed.passed
    assert "0.050 over the limit" in failed.message
    assert Calibrated(0.3, 200).judge(found).passed
    assert "calibration" not in {gate.name for gate in gates.gates_of(params.Gates(), evidence(outcomes, None))}


def judged(package: Package | None, **limits: float) -> dict[str, GateResult]:
    """The verdicts on a packaged bundle."""
    found = replace(evidence(answers(num_wrong_each=4), None), package=package)
    made = gates.gates_of(params.Gates.model_validate(limits), found)
    return {result.name: result for result in gates.judge(made, found).gates}


def test_a_package_is_held_against_its_limits() -> None:
    latencies_s = tuple(0.01 * number for number in range(1, 101))
    package = Package("abc", 3 * 2**20, latencies_s, 100 * 2**20, 1e-7)
    good = judged(package, max_latency_s=1.0, max_memory_mib=200, max_size_mib=4)
    assert good["latency_p95"].value == pytest.approx(0.95, abs=0.01)
    assert good["latency_p95"].low is not None
    assert good["latency_p95"].low < 0.95
    assert (good["memory"].value, good["size"].value) == (100, 3)
    assert all(good[name].passed for name in ("latency_p95", "memory", "size", "golden_reproduced"))
    bad = judged(package, max_latency_s=0.5, max_memory_mib=99, max_size_mib=2)
    assert not any(bad[name].passed for name in ("latency_p95", "memory", "size"))
    assert "over the limit of 99" in bad["memory"].message


def test_what_was_not_measured_does_not_pass() -> None:
    for package, words in (
        (None, "was not measured"),
        (Package("abc", 1, failure="a server of the bundle does not come up: no"), "does not come up: no"),
    ):
        found = judged(package)
        assert not any(found[name].passed for name in ("latency_p95", "memory", "size"))
        assert words in found["latency_p95"].message
    over_http = judged(Package("abc", 1, (0.1,), 1, golden_error=0.01))["golden_reproduced"]
    assert not over_http.passed
    assert "asked over HTTP" in over_http.message


def test_all_gates_judge_also_after_one_has_failed(tmp_path: Path) -> None:
    settings = params.Gates(min_macro_f1=0.99, max_champion_loss=0.0, num_resamples=100)
    found = evidence(answers(num_wrong_each=8), answers(num_wrong_each=4), golden_error=0.5)
    verdict = gates.judge(gates.gates_of(settings, found), found)
    assert not verdict.passed
    names = ["macro_f1_floor", "not_worse_than_champion", "latency_p95", "memory", "size", "golden_reproduced"]
    assert [gate.name for gate in verdict.failures] == names
    assert verdict.failures == verdict.gates
    (tmp_path / "gates.json").write_text(gates.to_json(verdict))
    assert gates.read_verdict(tmp_path / "gates.json") == verdict
    assert all("\n" not in gate.message for gate in verdict.gates)


def test_a_damaged_verdict_is_named(tmp_path: Path) -> None:
    (tmp_path / "gates.json").write_text('{"passed": true, "ga')
    with pytest.raises(ValueError, match=r"gates\.json is no verdict"):
        gates.read_verdict(tmp_path / "gates.json")


@dataclass(frozen=True)
class TwoBundles:
    """A finished run whose bundle is the candidate, and a champion with other weights."""

    build: Path
    champion: Path


@pytest.fixture(scope="module")
def two_bundles(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> TwoBundles:
    folder = tmp_path_factory.mktemp("gates")
    for name, seed in (("champion", 1), ("candidate", 0)):
        build = folder / name / "build"
        shutil.copytree(finished_run.build, build)
        write_model(build, finished_run.settings, seed=seed)
        evaluate.evaluate(finished_run.settings, build=build)
        bundle.write(build / "bundle", settings=finished_run.settings, requests=requests(), build=build)
    return TwoBundles(folder / "candidate" / "build", folder / "champion" / "build" / "bundle")


def arguments(two: TwoBundles, *, champion: Path | str, candidate: Path | None = None) -> list[str]:
    found = ["--champion", str(champion), "--build", str(two.build), "--output", str(two.build / "gates.json")]
    return [*found, "--bundle", str(candidate or two.build / "bundle")]


def test_the_stage_judges_against_the_champion_on_the_same_clips(
    two_bundles: TwoBundles, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_bundle(arguments(two_bundles, champion=two_bundles.champion))
    verdict = gates.read_verdict(two_bundles.build / "gates.json")
    assert verdict.champion_version is not None
    assert verdict.champion_version != verdict.candidate_version
    floor, comparison, golden = verdict.gates[0], verdict.gates[1], verdict.gates[-1]
    own = evaluate.read_outcomes(two_bundles.build / "evaluation", LABELS)
    theirs = evaluate.read_outcomes(two_bundles.champion.parent / "evaluation", LABELS)
    expected = NotWorseThanChampion(0.02, 1000).judge(evidence(own, theirs))
    assert (comparison.value, comparison.low) == (expected.value, expected.low)
    assert golden.passed
    # A model that was never trained does not reach the floor, and the stage ends well all the same.
    assert not floor.passed
    assert "FAILED  macro_f1_floor" in capsys.readouterr().out
    assert json.loads((two_bundles.build / "gates.json").read_text())["passed"] is False


def test_the_stage_without_a_champion_and_against_itself(two_bundles: TwoBundles) -> None:
    settings = params.Gates()
    evidence_alone = gather(two_bundles.build / "bundle", None, settings=settings, build=two_bundles.build)
    assert evidence_alone.champion is None
    folder = two_bundles.build / "bundle"
    itself = gather(folder, folder, settings=settings, build=two_bundles.build)
    result = NotWorseThanChampion(0.0, 100).judge(itself)
    assert result.passed
    assert "identical" in result.message


def test_the_stage_against_a_champion_of_other_labels(two_bundles: TwoBundles, tmp_path: Path) -> None:
    strange = Path(shutil.copytree(two_bundles.champion, tmp_path / "strange"))
    (strange / "labels.json").write_text('["a", "b", "c", "d", "e", "f"]')
    found = gather(two_bundles.build / "bundle", strange, settings=params.Gates(), build=two_bundles.build)
    assert found.champion is None
    assert found.champion_version == version_of(strange)


def test_a_damaged_bundle_ends_the_stage_with_one_line(two_bundles: TwoBundles, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(two_bundles.build / "bundle", folder)
    (folder / "model.safetensors").unlink()
    command = [sys.executable, "-m", "components.gates"]
    command += arguments(two_bundles, champion="none", candidate=folder)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "model.safetensors is missing" in done.stderr


def measured(folder: Path, output: Path) -> str:
    """What `serving.package_check` prints about a bundle."""
    command = [sys.executable, "-m", "serving.package_check", "--bundle", str(folder), "--output", str(output)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_packaged_bundle_is_measured_over_http_and_judged(two_bundles: TwoBundles, tmp_path: Path) -> None:
    folder, output = two_bundles.build / "bundle", tmp_path / "package.json"
    assert "30 requests answered" in measured(folder, output)
    package = read_package(output)
    assert package.version == version_of(folder)
    assert package.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert len(package.latencies_s) == 30
    # PyTorch alone takes as much.
    assert package.memory_bytes > 100 * 2**20
    assert package.golden_error <= 1e-5
    # The same bundle need not be measured twice, and another one must not pass with its figures.
    assert "measured before" in measured(folder, output)
    judge_bundle([*arguments(two_bundles, champion="none"), "--package", str(output)])
    verdict = {gate.name: gate for gate in gates.read_verdict(two_bundles.build / "gates.json").gates}
    assert all(verdict[name].passed for name in ("latency_p95", "memory", "size", "golden_reproduced"))
    assert {"modalities/text", "robustness/silence", "robustness/dropped_frames", "calibration"} <= set(verdict)
    of_another = arguments(two_bundles, champion="none", candidate=two_bundles.champion)
    with pytest.raises(ValueError, match="measure this one"):
        judge_bundle([*of_another, "--package", str(output)])


def test_a_bundle_that_cannot_be_served_fails_its_gates(two_bundles: TwoBundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_bundles.build / "bundle", tmp_path / "bundle"))
    # It answers as the champion, and remembers other answers.
    shutil.copyfile(two_bundles.champion / "graph.pt", folder / "graph.pt")
    told = measured(folder, tmp_path / "package.json")
    assert "does not come up" in told
    assert "golden requests" in told
    assert read_package(tmp_path / "package.json").failure in told
