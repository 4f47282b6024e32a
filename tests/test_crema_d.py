"""CREMA-D: the clone's own tree with real little media, and its real label tables."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from components.clip import Clip
from components.datasets import crema_d
from components.inspection import Bounds, inspect
from tests.conftest import SHARED_DATA
from tests.corpus_files import LFS_POINTER, asked, clips_of, refusals_of, write_film, write_sound, write_text

ACTED = asked("crema_d")
CROWD = asked("crema_d", "crowd")
VOICE = asked("crema_d", "crowd_voice")
FACE = asked("crema_d", "crowd_face")
BROKEN = {"1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD"}
LABELS = SHARED_DATA / "cremad_labels"
real_tables = pytest.mark.skipif(not LABELS.is_dir(), reason="the shared label tables are not here")

TABLE = (
    '"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote"',
    '"100001",0,0,0,1,9,0,"1001_DFA_ANG_XX",10,0.9,"N"',
    '"200001",5,5,0,0,0,0,"1001_DFA_ANG_XX",10,0.5,"A:D"',
    '"300001",8,2,0,0,0,0,"1001_DFA_ANG_XX",10,0.8,"A"',
    '"300002",0,0,0,0,0,0,"1002_IEO_HAP_HI",0,0,""',
)


def make(root: Path, *names: str) -> None:
    for name in names:
        write_sound(root / "AudioWAV" / f"{name}.wav")
        write_film(root / "VideoFlash" / f"{name}.flv", codec="flv")


def test_acted_labels_are_those_in_the_names(tmp_path: Path) -> None:
    make(tmp_path, "1001_DFA_ANG_XX", "1002_IEO_HAP_HI")
    (tmp_path / "AudioWAV" / ".DS_Store").write_bytes(b"x")
    first, second = crema_d.read(tmp_path, ACTED)
    assert first == Clip(
        clip_id="1001_DFA_ANG_XX",
        speaker_id="1001",
        audio_uri=str(tmp_path / "AudioWAV/1001_DFA_ANG_XX.wav"),
        video_uri=str(tmp_path / "VideoFlash/1001_DFA_ANG_XX.flv"),
        transcript="Don't forget a jacket",
        labels={"anger": 1.0},
    )
    assert isinstance(second, Clip)
    assert (second.transcript, second.labels) == ("It's eleven o'clock", {"happy": 1.0})
    found = inspect(first, Bounds(0.3, 60, ACTED.labels))
    assert found.duration_s == pytest.approx(0.4, abs=0.05)
    assert [clip.labels for clip in clips_of(list(crema_d.read(tmp_path, None)))] == [{}, {}]


def test_crowd_labels_are_shares_of_the_votes(tmp_path: Path) -> None:
    make(tmp_path, "1001_DFA_ANG_XX", "1002_IEO_HAP_HI")
    write_text(tmp_path / "processedResults/tabulatedVotes.csv", *TABLE)
    by_task = {task: clips_of(list(crema_d.read(tmp_path, task))) for task in (CROWD, VOICE, FACE)}
    assert by_task[CROWD][0].labels == {"anger": 0.8, "disgust": 0.2}
    assert by_task[VOICE][0].labels == {"happy": 0.1, "neutral": 0.9}
    assert by_task[FACE][0].labels == {"anger": 0.5, "disgust": 0.5}
    # Nobody voted on the second clip: it is there, without a label.
    assert all(clips[1].labels == {} for clips in by_task.values())


def test_sources_are_named_apart() -> None:
    assert ACTED.source == "acted emotion in the file name"
    assert {task.name for task in (crema_d.TASKS or {}).values()} == {"acted", "crowd", "crowd_voice", "crowd_face"}
    assert len({task.source for task in (crema_d.TASKS or {}).values()}) == 4
    assert all(name == task.name for name, task in (crema_d.TASKS or {}).items())


def test_the_four_broken_clips_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "1001_DFA_ANG_XX", *BROKEN)
    items = list(crema_d.read(tmp_path, ACTED))
    assert [clip.clip_id for clip in clips_of(items)] == ["1001_DFA_ANG_XX"]
    refused = refusals_of(items)
    assert {Path(refusal.uri).stem for refusal in refused} == BROKEN
    assert {refusal.reason for refusal in refused} == {"broken-release"}


def test_pointers_of_git_lfs_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "1001_DFA_ANG_XX", "1002_IEO_HAP_HI")
    for name in ("AudioWAV/1002_IEO_HAP_HI.wav", "VideoFlash/1002_IEO_HAP_HI.flv", "VideoFlash/1001_DFA_ANG_XX.flv"):
        (tmp_path / name).write_bytes(LFS_POINTER)
    items = list(crema_d.read(tmp_path, ACTED))
    refused = refusals_of(items)
    assert [(Path(refusal.uri).name, refusal.reason) for refusal in refused] == [
        ("1002_IEO_HAP_HI.wav", "git-lfs-stub"),
        ("1001_DFA_ANG_XX.flv", "git-lfs-stub"),
        ("1002_IEO_HAP_HI.flv", "git-lfs-stub"),
    ]
    assert "git lfs pull" in refused[0].detail
    (clip,) = clips_of(items)
    assert (clip.clip_id, clip.video_uri) == ("1001_DFA_ANG_XX", None)
    assert clip.audio_uri is not None
    write_text(tmp_path / "processedResults/tabulatedVotes.csv", LFS_POINTER.decode().strip())
    with pytest.raises(ValueError, match=r"tabulatedVotes\.csv is a git-lfs pointer"):
        list(crema_d.read(tmp_path, CROWD))


def test_mp3_is_read_where_there_is_no_wav(tmp_path: Path) -> None:
    for name in ("AudioWAV/1001_DFA_ANG_XX.wav", "AudioMP3/1001_DFA_ANG_XX.mp3", "AudioMP3/1002_IEO_HAP_HI.mp3"):
        write_sound(tmp_path / name)
    clips = clips_of(list(crema_d.read(tmp_path, ACTED)))
    assert [Path(clip.audio_uri or "").suffix for clip in clips] == [".wav", ".mp3"]


def test_what_is_missing_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere; get the corpus from https://github.com/Cheyney"):
        list(crema_d.read(tmp_path / "nowhere", ACTED))
    with pytest.raises(ValueError, match=r"has no folder AudioWAV, AudioMP3 or VideoFlash; get them from https"):
        list(crema_d.read(tmp_path, ACTED))
    make(tmp_path, "1001_DFA_ANG_XX")
    with pytest.raises(ValueError, match=r"tabulatedVotes\.csv is missing; it belongs to the release"):
        list(crema_d.read(tmp_path, CROWD))
    write_text(tmp_path / "processedResults/tabulatedVotes.csv", '"","A","D","F","H","N","fileName"')
    with pytest.raises(ValueError, match="no column 'S'"):
        list(crema_d.read(tmp_path, CROWD))
    write_text(tmp_path / "processedResults/tabulatedVotes.csv", *TABLE, '"3x",1,0,0,0,0,0,"1001_DFA_ANG_XX"')
    with pytest.raises(ValueError, match="row 6 is no row of votes"):
        list(crema_d.read(tmp_path, CROWD))


@pytest.mark.parametrize("name", ["1001_DFA_ANG_XX.txt", "1001_DFA_JOY_XX.wav", "1001_XYZ_ANG_XX.wav", "notes.wav"])
def test_strange_files_are_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, "1001_DFA_ANG_XX")
    (tmp_path / "AudioWAV" / name).write_bytes(b"something")
    items = list(crema_d.read(tmp_path, ACTED))
    assert [(Path(refusal.uri).name, refusal.reason) for refusal in refusals_of(items)] == [(name, "name-unknown")]
    assert len(clips_of(items)) == 1


def all_names() -> list[str]:
    lines = (LABELS / "SentenceFilenames.csv").read_text().splitlines()[1:]
    return [line.split(",")[1].strip('"') for line in lines]


def test_actors_without_a_table_are_of_no_known_sex_and_a_damaged_table_is_told(tmp_path: Path) -> None:
    make(tmp_path, "1001_DFA_ANG_XX")
    assert [clip.speaker_sex for clip in clips_of(list(crema_d.read(tmp_path, ACTED)))] == [None]
    write_text(tmp_path / "VideoDemographics.csv", '"ActorID","Age","Sex"', '1001,51,"Male"')
    (clip,) = clips_of(list(crema_d.read(tmp_path, ACTED)))
    assert (clip.speaker_sex, clip.speaker_age) == ("male", 51)
    write_text(tmp_path / "VideoDemographics.csv", '"ActorID","Age"', "1001,51")
    with pytest.raises(ValueError, match="no table of actors"):
        list(crema_d.read(tmp_path, ACTED))


@real_tables
def test_real_names_and_votes(tmp_path: Path) -> None:
    """The release's 7,442 names as a tree of its shape, with its own vote table."""
    (tmp_path / "AudioWAV").mkdir()
    for name in all_names():
        (tmp_path / "AudioWAV" / f"{name}.wav").write_bytes(b"RIFF")
    shutil.copytree(LABELS / "processedResults", tmp_path / "processedResults")
    shutil.copyfile(LABELS / "VideoDemographics.csv", tmp_path / "VideoDemographics.csv")
    items = list(crema_d.read(tmp_path, ACTED))
    clips = clips_of(items)
    assert {Path(refusal.uri).stem for refusal in refusals_of(items)} == BROKEN
    assert len(clips) == 7442 - 4
    assert len({clip.speaker_id for clip in clips}) == 91
    # 48 men and 43 women from 20 to 74, says the paper.
    assert Counter({clip.speaker_id: clip.speaker_sex for clip in clips}.values()) == {"male": 48, "female": 43}
    ages = [clip.speaker_age or 0 for clip in clips]
    assert (min(ages), max(ages)) == (20, 74)
    counts = Counter(name for clip in clips for name in clip.labels)
    assert counts == {"anger": 1271, "disgust": 1270, "fear": 1271, "happy": 1271, "neutral": 1086, "sad": 1269}
    # The published lists have 7,437: the four, and one more that nobody names.
    sizes = []
    for number in range(5):
        fold = crema_d.PROTOCOLS["actors"].fold([clip.speaker_id for clip in clips], number, seed=0)
        sizes.append(sum(clip.speaker_id in fold.test for clip in clips))
    assert sum(sizes) == 7438
    assert sum(abs(ours - theirs) for ours, theirs in zip(sizes, (1463, 1470, 1475, 1474, 1555), strict=True)) == 1
    agreement = {}
    for task in (CROWD, VOICE, FACE):
        voted = clips_of(list(crema_d.read(tmp_path, task)))
        assert all(sum(clip.labels.values()) == pytest.approx(1) for clip in voted)
        agreement[task.name] = sum(
            [name for name, share in clip.labels.items() if share == max(clip.labels.values())] == list(acted.labels)
            for clip, acted in zip(voted, clips, strict=True)
        ) / len(voted)
    assert agreement == pytest.approx({"crowd": 0.722, "crowd_face": 0.663, "crowd_voice": 0.416}, abs=0.01)
