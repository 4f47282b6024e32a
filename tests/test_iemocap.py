"""IEMOCAP: the release's own tree with real little recordings, and the counts under the usual four emotions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from components import params, splits
from components.clip import Clip
from components.datasets import iemocap
from components.inspection import Bounds, inspect
from tests.corpus_files import asked, clips_of, refusals_of, write_sound, write_text

EMOTION = asked("iemocap")
DIMENSIONS = asked("iemocap", "dimensions")

# Ratings of a dialog, with the raters' own lines as they follow each turn.
RATINGS = (
    "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]",
    "",
    "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]",
    "C-E2:\tNeutral;\t()",
    "C-F1:\tNeutral;\t()",
    "A-E3:\tval 3; act 2; dom  2;\t()",
    "",
    "[10.0100 - 11.3925]\tSes01F_impro01_M000\texc\t[4.0000, 3.5000, 3.0000]",
    "C-E2:\tExcited;\t()",
    "",
    "[14.8872 - 18.0175]\tSes01F_impro01_M001\txxx\t[2.0000, 4.0000, 3.6667]",
    "",
)
WORDS = (
    "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.",
    "Ses01F_impro01_M000 [010.0100-011.3925]: Do you have your forms?",
    "M: [LAUGHTER]",
    "Ses01F_impro01_FXX0 [012.0000-012.5000]: Yeah.",
)
TURNS = ("Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses01F_impro01_M001")

# neutral, happy, excited, sad, angry of each session, as published.
COUNTS = {
    1: {"neu": 384, "hap": 135, "exc": 143, "sad": 194, "ang": 229},
    2: {"neu": 362, "hap": 117, "exc": 210, "sad": 197, "ang": 137},
    3: {"neu": 320, "hap": 135, "exc": 151, "sad": 305, "ang": 240},
    4: {"neu": 258, "hap": 65, "exc": 238, "sad": 143, "ang": 327},
    5: {"neu": 384, "hap": 143, "exc": 299, "sad": 245, "ang": 170},
}


def make(root: Path) -> None:
    """One dialog of the first session, with what else lies beside it in the release."""
    session = root / "Session1"
    write_text(session / "dialog/EmoEvaluation/Ses01F_impro01.txt", *RATINGS)
    # One rater's answers, and the twin that macOS leaves: neither counts.
    write_text(
        session / "dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Neutral; ()"
    )
    write_text(session / "dialog/EmoEvaluation/Attribute/Ses01F_impro01_e3_atr.txt", *RATINGS)
    (session / "dialog/EmoEvaluation/._Ses01F_impro01.txt").write_bytes(b"\0\5\xff\xfe")
    write_text(session / "dialog/transcriptions/Ses01F_impro01.txt", *WORDS)
    for turn in TURNS:
        write_sound(session / f"sentences/wav/Ses01F_impro01/{turn}.wav")
    for number in range(2, 6):
        (root / f"Session{number}/dialog/EmoEvaluation").mkdir(parents=True)


@pytest.mark.parametrize("folder", [".", "IEMOCAP_full_release"])
def test_turns_of_a_dialog(tmp_path: Path, folder: str) -> None:
    release = tmp_path / folder
    make(release)
    items = list(iemocap.read(tmp_path, EMOTION))
    assert not refusals_of(items)
    neutral, excited, unsettled = clips_of(items)
    assert neutral == Clip(
        clip_id="Ses01F_impro01_F000",
        speaker_id="Ses01F",
        session_id="Ses01",
        audio_uri=str(release / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"),
        transcript="Excuse me.",
        speaker_sex="female",
        labels={"neutral": 1.0},
    )
    assert (excited.labels, excited.transcript) == ({"happy": 1.0}, "Do you have your forms?")
    assert (unsettled.labels, unsettled.transcript) == ({}, None)
    assert inspect(neutral, Bounds(0.3, 60, EMOTION.labels)).duration_s == pytest.approx(0.4)
    assert [clip.labels for clip in clips_of(list(iemocap.read(tmp_path, None)))] == [{}, {}, {}]


def test_speaker_is_who_speaks_not_who_wears_the_markers(tmp_path: Path) -> None:
    make(tmp_path)
    clips = clips_of(list(iemocap.read(tmp_path, EMOTION)))
    assert [(clip.clip_id[5], clip.speaker_id) for clip in clips] == [("F", "Ses01F"), ("F", "Ses01M"), ("F", "Ses01M")]


def test_values_are_a_second_task(tmp_path: Path) -> None:
    make(tmp_path)
    clips = clips_of(list(iemocap.read(tmp_path, DIMENSIONS)))
    assert clips[1].labels == {"valence": 4.0, "activation": 3.5, "dominance": 3.0}
    assert clips[2].labels == {"valence": 2.0, "activation": 4.0, "dominance": 3.6667}
    assert (DIMENSIONS.kind, DIMENSIONS.scale) == ("values", (1.0, 5.0))


def test_missing_sound_is_told_when_the_clip_is_inspected(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").unlink()
    with pytest.raises(ValueError, match=r"Ses01F_impro01_F000\.wav does not exist"):
        inspect(clips_of(list(iemocap.read(tmp_path, EMOTION)))[0], Bounds(0.3, 60, None))


def test_missing_parts_are_named_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*; get the corpus from https://sail.usc.edu"):
        list(iemocap.read(tmp_path / "nowhere", EMOTION))
    with pytest.raises(ValueError, match=r"no Session1 to Session5 in .*; get IEMOCAP_full_release from https"):
        list(iemocap.read(tmp_path, EMOTION))
    make(tmp_path)
    (tmp_path / "Session4/dialog/EmoEvaluation").rmdir()
    (refusal,) = refusals_of(list(iemocap.read(tmp_path, EMOTION)))
    assert (Path(refusal.uri).name, refusal.reason) == ("Session4", "session-missing")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of the release's size: every session with its published counts, beside turns of other emotions."""
    root = tmp_path_factory.mktemp("iemocap")
    for session, counts in COUNTS.items():
        codes = [code for code, count in {**counts, "fru": 300, "xxx": 400, "sur": 20}.items() for _ in range(count)]
        for dialog in range(len(codes) // 100 + 1):
            # Each half of a dialog's turns belongs to one of the two; who wears the markers changes.
            kind = ("impro", "script")[dialog // 10]
            name = f"Ses{session:02d}{'FM'[dialog % 2]}_{kind}0{dialog % 10 // 2 + 1}{'ab'[dialog % 2]}"
            lines = [
                f"[{number}.0000 - {number}.9000]\t{name}_{'FM'[number % 2]}{number:03d}\t{code}\t[3.0, 3.0, 3.0]"
                for number, code in enumerate(codes[100 * dialog : 100 * (dialog + 1)])
            ]
            write_text(root / f"Session{session}/dialog/EmoEvaluation/{name}.txt", "", *lines)
    return root


def test_loader_counts_5531_turns_by_session_as_published(whole: Path) -> None:
    clips = clips_of(list(iemocap.read(whole, EMOTION)))
    labelled = [clip for clip in clips if clip.labels]
    assert len({clip.clip_id for clip in clips}) == len(clips) == 5531 + 5 * 720
    assert len(labelled) == 5531
    assert Counter(clip.session_id for clip in labelled) == {
        "Ses01": 1085,
        "Ses02": 1023,
        "Ses03": 1151,
        "Ses04": 1031,
        "Ses05": 1241,
    }
    assert Counter(name for clip in labelled for name in clip.labels) == {
        "neutral": 1708,
        "happy": 1636,
        "sad": 1084,
        "angry": 1103,
    }
    assert len({clip.speaker_id for clip in labelled}) == 10


@pytest.mark.parametrize(("name", "num_folds"), [("sessions", 5), ("speakers", 10)])
def test_each_turn_tests_once_and_validation_comes_from_the_training_sessions(
    whole: Path, name: str, num_folds: int
) -> None:
    clips = clips_of(list(iemocap.read(whole, EMOTION)))
    protocol = iemocap.PROTOCOLS[name]
    tested: Counter[str] = Counter()
    for number in range(num_folds):
        settings = params.Ingest(protocol=name, fold=number)
        division = splits.divide(clips, settings, task=EMOTION, protocol=protocol, seed=0)
        of_split: dict[str, list[Clip]] = {"train": [], "validation": [], "test": [], "unlabelled": [], "None": []}
        for clip in clips:
            of_split[str(splits.assign(clip, division))].append(clip)
        tested.update(clip.clip_id for clip in of_split["test"])
        speakers = {split: {clip.speaker_id for clip in found} for split, found in of_split.items()}
        sessions = {split: {clip.session_id for clip in found} for split, found in of_split.items()}
        assert not speakers["test"] & (speakers["train"] | speakers["validation"] | speakers["unlabelled"])
        assert not speakers["validation"] & (speakers["train"] | speakers["unlabelled"])
        assert sessions["validation"].isdisjoint(sessions["test"])
        assert (len(speakers["train"]), len(speakers["validation"]), len(speakers["test"])) == (
            (6, 2, 2) if name == "sessions" else (8, 1, 1)
        )
        if name == "sessions":
            assert sessions["train"].isdisjoint(sessions["test"] | sessions["validation"])
    assert len(tested) == 5531
    assert set(tested.values()) == {1}
