"""Folds: each unit tests once, nobody is in two splits, and the published divisions are as published."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import datasets, params, protocols, splits
from components.clip import Clip, Split
from components.datasets import crema_d, iemocap, msp_improv, ravdess
from components.protocols import EvaluationProtocol
from components.task import Task

TASK = Task("classes", ("happy", "sad"))
VALUES = Task("values", ("valence",), scale=(1.0, 5.0))


@given(st.integers(3, 40), st.integers(2, 12), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 5))
def test_each_unit_tests_once_and_is_in_one_part(num_units: int, num_folds: int, share: float, seed: int) -> None:
    units = [f"s{number:02d}" for number in range(num_units)]
    protocol = EvaluationProtocol("some", "some folds", "speaker", num_folds, validation_share=share)
    if num_units < num_folds:
        with pytest.raises(ValueError, match="take fewer folds"):
            protocol.fold(units, 0, seed=seed)
        return
    # The last fold is the largest one.
    num_rest = num_units - -(-num_units // num_folds)
    if num_rest <= round(share * num_units) or (num_folds == 2 and not share) or (share and num_rest == 1):
        with pytest.raises(ValueError, match="leaves no speaker for training"):
            protocol.fold(units, num_folds - 1, seed=seed)
        return
    tested: Counter[str] = Counter()
    sizes = set()
    for number in range(num_folds):
        fold = protocol.fold(units[::-1], number, seed=seed)
        assert fold == protocol.fold(units, number, seed=seed)
        assert fold.test
        assert fold.validation
        assert not fold.test & fold.validation
        assert fold.test | fold.validation < set(units)
        tested.update(fold.test)
        sizes.add(len(fold.test))
    assert tested == Counter(units)
    assert max(sizes) - min(sizes) <= 1


def test_drawn_validation_follows_the_seed_and_test_does_not() -> None:
    units = [f"s{number:02d}" for number in range(20)]
    folds = [protocols.by_speaker(5, validation_share=0.2).fold(units, 2, seed=seed) for seed in range(6)]
    assert {fold.test for fold in folds} == {frozenset(units[8:12])}
    assert len({fold.validation for fold in folds}) > 1
    assert {len(fold.validation) for fold in folds} == {4}


def test_iemocap_tests_each_session_and_each_speaker_once() -> None:
    sessions = iemocap.PROTOCOLS["sessions"]
    names = [f"Ses{number:02d}" for number in range(1, 6)]
    folds = [sessions.fold(names, number, seed=0) for number in range(5)]
    assert [set(fold.test) for fold in folds] == [{name} for name in names]
    assert [set(fold.validation) for fold in folds] == [{name} for name in [*names[1:], names[0]]]
    speakers = [f"{name}{letter}" for name in names for letter in "FM"]
    by_speaker = [iemocap.PROTOCOLS["speakers"].fold(speakers, number, seed=0) for number in range(10)]
    assert sorted(name for fold in by_speaker for name in fold.test) == speakers
    for fold in by_speaker:
        (test,), (validation,) = fold.test, fold.validation
        assert test[:5] != validation[:5]


def test_crema_d_folds_are_actors_in_order() -> None:
    actors = [str(number) for number in range(1001, 1092)]
    protocol = crema_d.PROTOCOLS["actors"]
    folds = [protocol.fold(actors, number, seed=0) for number in range(5)]
    assert [len(fold.test) for fold in folds] == [18, 18, 18, 18, 19]
    assert sorted(folds[0].test) == actors[:18]
    assert sorted(folds[4].test) == actors[72:]
    assert [fold.validation for fold in folds] == [fold.test for fold in [*folds[1:], folds[0]]]


def test_msp_improv_sessions_are_divided_as_in_the_published_lists() -> None:
    names = [f"session{number}" for number in range(1, 7)]
    folds = [msp_improv.PROTOCOLS["sessions"].fold(names, number, seed=0) for number in range(6)]
    assert [set(fold.test) for fold in folds] == [{f"session{number}"} for number in (4, 3, 2, 1, 6, 5)]
    assert [set(fold.validation) for fold in folds] == [{f"session{number}"} for number in (3, 2, 1, 6, 5, 4)]


def test_ravdess_has_six_folds_of_four_actors() -> None:
    actors = [f"Actor_{number:02d}" for number in range(1, 25)]
    folds = [ravdess.PROTOCOLS["actors"].fold(actors, number, seed=0) for number in range(6)]
    assert [sorted(fold.test) for fold in folds] == [actors[first : first + 4] for first in range(0, 24, 4)]
    assert all(len(fold.validation) == 4 for fold in folds)
    with pytest.raises(ValueError, match=r"ingest.fold = 3 of protocol actors: none of its speakers \(Actor_13"):
        ravdess.PROTOCOLS["actors"].fold(actors[:8], 3, seed=0)
    with pytest.raises(ValueError, match="leaves no speaker for training: 8 are too few"):
        ravdess.PROTOCOLS["actors"].fold(actors[:8], 0, seed=0)


def test_wrong_names_and_numbers_are_refused() -> None:
    corpus = params.Corpus(dataset="ravdess", root="somewhere")
    chosen = datasets.protocol_of(corpus, params.Ingest(protocol="actors", fold=5))
    assert chosen == ravdess.PROTOCOLS["actors"]
    assert datasets.protocol_of(corpus, params.Ingest()) is None
    with pytest.raises(ValueError, match=r"ravdess has no protocol 'actor'; did you mean actors\?"):
        datasets.protocol_of(corpus, params.Ingest(protocol="actor"))
    with pytest.raises(ValueError, match=r"ingest.fold = 6: actors has 6 folds, 0 to 5"):
        chosen.fold([f"Actor_{number:02d}" for number in range(1, 25)], 6, seed=0)
    with pytest.raises(ValueError, match=r"leave ingest\.num_folds empty"):
        datasets.protocol_of(corpus, params.Ingest(protocol="actors", num_folds=3))
    with pytest.raises(ValueError, match=r"without folds: set ingest\.protocol or ingest\.num_folds"):
        datasets.protocol_of(corpus, params.Ingest(fold=1))
    with pytest.raises(ValueError, match="leave one of the two out"):
        datasets.protocol_of(corpus, params.Ingest(num_folds=4, test_speakers=["Actor_01"]))
    with pytest.raises(ValueError, match=r"set ingest\.num_folds instead"):
        datasets.protocol_of(params.Corpus(dataset="table", root="a.csv"), params.Ingest(protocol="actors"))
    with pytest.raises(ValueError, match="does not know speaker 'ann'"):
        chosen.fold(["Actor_01", "ann"], 0, seed=0)


def people(*, num_sessions: int = 6, task: Task = TASK) -> list[Clip]:
    """Two speakers a session; each has a clip of each class, and one without a label."""
    clips = []
    for session in range(1, num_sessions + 1):
        for speaker in "FM":
            for number, name in enumerate(("happy", "sad", "")):
                labels = {name: 1.0} if task is TASK else {"valence": 1.0 + number}
                clips.append(
                    Clip(
                        f"{session}{speaker}{number}",
                        f"{speaker}{session:02d}",
                        f"session{session}",
                        transcript="",
                        labels=labels if name else {},
                    )
                )
    return clips


@pytest.mark.parametrize("task", [TASK, VALUES], ids=lambda each: each.kind)
def test_sessions_keep_all_their_speakers_and_clips_together(task: Task) -> None:
    protocol = msp_improv.PROTOCOLS["sessions"]
    clips = people(task=task)
    division = splits.divide(clips, params.Ingest(fold=1), task=task, protocol=protocol, seed=0)
    assert {name for name, split in division.items() if split == "test"} == {"F03", "M03"}
    assert {name for name, split in division.items() if split == "validation"} == {"F02", "M02"}
    found: dict[Split | None, set[str]] = {}
    for clip in clips:
        found.setdefault(splits.assign(clip, division), set()).add(clip.session_id)
    assert found == {
        "train": {"session1", "session4", "session5", "session6"},
        "unlabelled": {"session1", "session4", "session5", "session6"},
        "validation": {"session2"},
        "test": {"session3"},
        None: {"session2", "session3"},
    }


def test_speaker_of_a_held_out_session_is_held_out_without_labels_too() -> None:
    clips = people()
    clips.append(Clip("guest", "guest", "session3", transcript=""))
    division = splits.divide(clips, params.Ingest(fold=1), task=TASK, protocol=msp_improv.PROTOCOLS["sessions"], seed=0)
    assert splits.assign(clips[-1], division) is None


def test_speaker_in_two_sessions_is_told() -> None:
    clips = people()
    clips.append(Clip("visit", "F01", "session3", transcript="", labels={"sad": 1.0}))
    protocol = msp_improv.PROTOCOLS["sessions"]
    with pytest.raises(ValueError, match="speaker F01 is in sessions session1, session3"):
        splits.divide(clips, params.Ingest(fold=1), task=TASK, protocol=protocol, seed=0)
    clips[-1] = Clip("visit", "F09", transcript="", labels={"sad": 1.0})
    with pytest.raises(ValueError, match="clip visit has no session_id"):
        splits.divide(clips, params.Ingest(fold=1), task=TASK, protocol=protocol, seed=0)


def test_own_splits_and_folds_contradict() -> None:
    own: tuple[Split, ...] = ("train", "validation", "test")
    clips = [
        Clip(f"{name}{number}", f"s{number}", split=split, transcript="", labels={name: 1.0})
        for name in ("happy", "sad")
        for number, split in enumerate(own)
    ]
    protocol = protocols.by_speaker(3, validation_share=0.2)
    with pytest.raises(ValueError, match="protocol or num_folds is set, but the corpus has splits of its own"):
        splits.divide(clips, params.Ingest(num_folds=3), task=TASK, protocol=protocol, seed=0)


def test_labels_that_leave_nothing_to_learn() -> None:
    several = Task("multilabel", ("happy", "sad"), threshold=1.0)
    with pytest.raises(ValueError, match=r"no label of any clip exceeds 1\.0"):
        splits.divide(people(), params.Ingest(), task=several, seed=0)
    flat = [Clip(f"c{number}", f"s{number}", transcript="", labels={"valence": 3.0}) for number in range(5)]
    with pytest.raises(ValueError, match="the same values"):
        splits.divide(flat, params.Ingest(), task=VALUES, seed=0)
