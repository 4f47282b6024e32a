"""MSP-IMPROV: the release's own tree and format of ratings, with real little media."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.clip import Clip
from components.datasets import msp_improv
from components.inspection import Bounds, inspect
from tests.corpus_files import LFS_POINTER, asked, clips_of, refusals_of, write_film, write_sound, write_text

EMOTION = asked("msp_improv")
DIMENSIONS = asked("msp_improv", "dimensions")

# The release's first clip is the first here, with its own figures.
RATINGS = (
    "UTD-IMPROV-S01A-F02-R-FF01.avi; N; A:3.333333; V:2.333333; D:3.000000 ; N:3.500000;",
    "annotator1; Neutral,; A:3.000000; V:2.000000; D:3.000000 ; N:3.000000;",
    "annotator2; Neutral,Sad,; A:4.000000; V:3.000000; D:3.000000 ; N:4.000000;",
    "",
    "UTD-IMPROV-S01A-F01-S-FM02.avi; A; A:1.500000; V:1.250000; D:4.500000 ; N:4.000000;",
    "annotator1; Angry,; A:1.500000; V:1.250000; D:4.500000 ; N:4.000000;",
    "",
    "UTD-IMPROV-S20H-M06-T-MM01.avi; H; A:2.000000; V:4.500000; D:3.000000 ; N:4.000000;",
    "",
    "UTD-IMPROV-S05S-M03-P-MF11.avi; S; A:5.000000; V:1.000000; D:NaN ; N:NaN;",
    "",
    "UTD-IMPROV-S05N-F04-P-FM03.avi; X; A:3.000000; V:3.000000; D:3.000000 ; N:3.000000;",
    "",
    "UTD-IMPROV-S05N-F05-P-FM03.avi; O; A:NaN; V:NaN; D:NaN ; N:NaN;",
)
CODES = tuple(line.split(".avi")[0].removeprefix("UTD-IMPROV-") for line in RATINGS if line.startswith("UTD"))


def make(root: Path, *, sound: str = "Audio/", film: str = "Video/", ratings: str = "Evalution.txt") -> None:
    """The tree as it is unpacked: session, sentence and emotion, scenario."""
    for code in CODES:
        sentence, speaker, scenario, _ = code.split("-")
        place = f"session{int(speaker[1:])}/{sentence}/{scenario}/MSP-IMPROV-{code}"
        write_sound(root / f"{sound}{place}.wav", sample_rate_hz=48_000)
        write_film(root / f"{film}{place}.avi", codec="mpeg4")
    words = root / "Human_transcriptions/All_human_transcriptions/MSP-IMPROV-S01A-F02-R-FF01.txt"
    write_text(words, "How can I not?")
    write_text(root / ratings, *RATINGS)


def by_code(root: Path, *, is_emotion: bool = True) -> dict[str, Clip]:
    clips = clips_of(list(msp_improv.read(root, EMOTION if is_emotion else DIMENSIONS)))
    return {clip.clip_id.removeprefix("MSP-IMPROV-"): clip for clip in clips}


@pytest.mark.parametrize(
    ("sound", "film", "ratings"),
    [("Audio/", "Video/", "Evalution.txt"), ("", "", "Evaluation.txt"), ("Audio/", "Video/", "labels/Evalution.txt")],
)
def test_release_is_read_in_each_spelling(tmp_path: Path, sound: str, film: str, ratings: str) -> None:
    make(tmp_path, sound=sound, film=film, ratings=ratings)
    clips = by_code(tmp_path)
    assert len(clips) == 6
    assert clips["S01A-F02-R-FF01"] == Clip(
        clip_id="MSP-IMPROV-S01A-F02-R-FF01",
        speaker_id="F02",
        session_id="session2",
        audio_uri=str(tmp_path / f"{sound}session2/S01A/R/MSP-IMPROV-S01A-F02-R-FF01.wav"),
        video_uri=str(tmp_path / f"{film}session2/S01A/R/MSP-IMPROV-S01A-F02-R-FF01.avi"),
        transcript="How can I not?",
        speaker_sex="female",
        labels={"neutral": 1.0},
    )
    assert {code: set(clip.labels) for code, clip in clips.items()} == {
        "S01A-F02-R-FF01": {"neutral"},
        "S01A-F01-S-FM02": {"angry"},
        "S20H-M06-T-MM01": {"happy"},
        "S05S-M03-P-MF11": {"sad"},
        "S05N-F04-P-FM03": set(),
        "S05N-F05-P-FM03": set(),
    }
    assert clips["S20H-M06-T-MM01"].transcript is None


def test_order_of_the_values_and_activation_turned_round(tmp_path: Path) -> None:
    make(tmp_path)
    clips = by_code(tmp_path, is_emotion=False)
    # EMO-SUPERB's list says of this clip: EmoAct 2.666667, EmoVal 2.333333, EmoDom 3.0.
    first = clips["S01A-F02-R-FF01"].labels
    assert first == pytest.approx({"arousal": 2.666667, "valence": 2.333333, "dominance": 3.0}, abs=1e-6)
    assert clips["S01A-F01-S-FM02"].labels == {"arousal": 4.5, "valence": 1.25, "dominance": 4.5}
    assert clips["S05S-M03-P-MF11"].labels == {"arousal": 1.0, "valence": 1.0}
    assert clips["S05N-F05-P-FM03"].labels == {}
    assert (DIMENSIONS.kind, DIMENSIONS.scale) == ("values", (1.0, 5.0))
    assert clips_of(list(msp_improv.read(tmp_path, None)))[0].labels == {}


def test_media_can_be_used(tmp_path: Path) -> None:
    make(tmp_path)
    clip = by_code(tmp_path)["S20H-M06-T-MM01"]
    found = inspect(clip, Bounds(0.3, 60, EMOTION.labels))
    assert found.duration_s == pytest.approx(0.4, abs=0.05)
    assert (clip.speaker_id, clip.session_id) == ("M06", "session6")


def test_scenario_letters() -> None:
    scenarios = {code: msp_improv.SCENARIOS[msp_improv.scenario_of(f"MSP-IMPROV-{code}")] for code in CODES}
    assert scenarios["S01A-F02-R-FF01"] == "target sentence, read"
    assert scenarios["S20H-M06-T-MM01"] == "target sentence, improvised"
    assert scenarios["S01A-F01-S-FM02"].startswith("improvised by another")
    assert scenarios["S05S-M03-P-MF11"].startswith("natural interaction")


def test_rated_clip_without_media_and_media_without_rating(tmp_path: Path) -> None:
    make(tmp_path)
    for path in tmp_path.rglob("MSP-IMPROV-S01A-F01-S-FM02.*"):
        path.unlink()
    write_sound(tmp_path / "Audio/session1/S02A/P/MSP-IMPROV-S02A-M01-P-FM09.wav")
    items = list(msp_improv.read(tmp_path, EMOTION))
    (refusal,) = refusals_of(items)
    assert (refusal.uri, refusal.reason) == ("MSP-IMPROV-S01A-F01-S-FM02", "missing")
    unrated = next(clip for clip in clips_of(items) if clip.clip_id == "MSP-IMPROV-S02A-M01-P-FM09")
    assert (unrated.labels, unrated.session_id, unrated.video_uri) == ({}, "session1", None)


def test_strange_files_are_refused_by_reason(tmp_path: Path) -> None:
    make(tmp_path)
    write_sound(tmp_path / "copy/MSP-IMPROV-S01A-F02-R-FF01.wav")
    write_sound(tmp_path / "Audio/session1/S01A/S/MSP-IMPROV-S01A-F01-Q-FM02.wav")
    (tmp_path / "Audio/session1/S01A/S/._MSP-IMPROV-S01A-F01-S-FM02.wav").write_bytes(b"x")
    (tmp_path / "Video/session6/S20H/T/MSP-IMPROV-S20H-M06-T-MM01.avi").write_bytes(LFS_POINTER)
    items = list(msp_improv.read(tmp_path, EMOTION))
    assert {(Path(refusal.uri).parent.name, refusal.reason) for refusal in refusals_of(items)} == {
        ("copy", "duplicate-name"),
        ("S", "name-unknown"),
        ("T", "git-lfs-stub"),
    }
    assert len(clips_of(items)) == 6


def test_what_is_missing_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*; get the corpus from https://ecs.utdallas.edu"):
        list(msp_improv.read(tmp_path / "nowhere", EMOTION))
    make(tmp_path)
    (tmp_path / "Evalution.txt").unlink()
    with pytest.raises(ValueError, match=r"no Evalution\.txt \(or Evaluation\.txt\) below"):
        list(msp_improv.read(tmp_path, EMOTION))
    # The order of another corpus of the same laboratory.
    write_text(
        tmp_path / "Evalution.txt", *RATINGS[:3], "", RATINGS[4].replace("A:1.5", "V:1.5").replace("V:1.25", "A:1.25")
    )
    with pytest.raises(ValueError, match=r"line 5: 'UTD-IMPROV-S01A-F01-S-FM02\.avi; A; V:1\.5"):
        list(msp_improv.read(tmp_path, EMOTION))
    write_text(tmp_path / "Evalution.txt", "")
    with pytest.raises(ValueError, match="rates nothing"):
        list(msp_improv.read(tmp_path, EMOTION))
