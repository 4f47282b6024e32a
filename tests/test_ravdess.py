"""RAVDESS's own tree: names, takes in several modalities, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from components import datasets, media, params, splits
from components.clip import Clip
from components.datasets import Refusal, ravdess
from tests.conftest import SHARED_DATA
from tests.corpus_files import asked

TASK = asked("ravdess")


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_codes_become_a_clip(tmp_path: Path) -> None:
    make(tmp_path, "Actor_07/03-01-06-02-01-02-07.wav")
    (clip,) = ravdess.read(tmp_path, TASK)
    assert isinstance(clip, Clip)
    assert clip == Clip(
        clip_id="03-01-06-02-01-02-07",
        speaker_id="Actor_07",
        audio_uri=str(tmp_path / "Actor_07/03-01-06-02-01-02-07.wav"),
        transcript="Kids are talking by the door",
        speaker_sex="male",
        labels={"fearful": 1.0},
    )


def test_take_in_several_modalities_is_one_clip(tmp_path: Path) -> None:
    make(
        tmp_path,
        "Audio/Actor_02/03-01-03-01-02-01-02.wav",
        "Video/Actor_02/01-01-03-01-02-01-02.mp4",
        "Video/Actor_02/02-01-03-01-02-01-02.mp4",
        "Video/Actor_02/02-01-04-01-02-01-02.mp4",
    )
    both, silent = ravdess.read(tmp_path, TASK)
    assert isinstance(both, Clip)
    assert isinstance(silent, Clip)
    assert both.clip_id == "01-01-03-01-02-01-02"
    assert both.audio_uri is not None
    assert both.audio_uri.endswith("03-01-03-01-02-01-02.wav")
    assert both.video_uri is not None
    assert both.video_uri.endswith("01-01-03-01-02-01-02.mp4")
    assert (silent.audio_uri, silent.transcript) == (None, "Dogs are sitting by the door")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Actor_01/notes.txt", "name-unknown"),
        ("Actor_01/03-01-09-01-01-01-01.wav", "name-unknown"),
        ("Actor_01/03-01-01-01-01-01-01.mp4", "name-unknown"),
        ("Actor_01/03-02-02-01-01-01-01.wav", "song"),
        ("Actor_01/03-01-02-01-01-01-05.wav", "speaker-unclear"),
        ("Copy/Actor_01/03-01-01-01-01-01-01.wav", "duplicate-name"),
    ],
)
def test_other_files_are_refused_by_reason(tmp_path: Path, name: str, reason: str) -> None:
    make(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/.DS_Store", name)
    items = list(ravdess.read(tmp_path, TASK))
    assert [item.reason for item in items if isinstance(item, Refusal)] == [reason]
    assert sum(isinstance(item, Clip) for item in items) == 1


def test_nothing_there_names_the_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Zenodo record 1188976"):
        list(ravdess.read(tmp_path / "missing", TASK))
    with pytest.raises(ValueError, match="Zenodo record 1188976"):
        list(ravdess.read(tmp_path, TASK))


@pytest.mark.skipif(not (SHARED_DATA / "ravdess").is_dir(), reason="the shared recordings are not here")
def test_real_release() -> None:
    clips = [item for item in ravdess.read(SHARED_DATA / "ravdess", TASK) if isinstance(item, Clip)]
    assert len(clips) == 480
    assert len({clip.speaker_id for clip in clips}) == 8
    assert {name for clip in clips for name in clip.labels} == set(TASK.labels)
    assert [clip.labels for clip in ravdess.read(SHARED_DATA / "ravdess", None) if isinstance(clip, Clip)] == [{}] * 480
    assert clips[0].audio_uri is not None
    recording = media.decode(Path(clips[0].audio_uri), sample_rate_hz=16_000, frame_rate_hz=12.5)
    assert 2 < recording.duration_s < 6


@pytest.mark.skipif(not (SHARED_DATA / "ravdess").is_dir(), reason="the shared recordings are not here")
def test_real_release_in_folds_of_two_actors() -> None:
    clips = [item for item in ravdess.read(SHARED_DATA / "ravdess", TASK) if isinstance(item, Clip)]
    tested: Counter[str] = Counter()
    for number in range(4):
        settings = params.Ingest(num_folds=4, fold=number)
        protocol = datasets.protocol_of(params.Corpus(dataset="ravdess", root="somewhere"), settings)
        division = splits.divide(clips, settings, task=TASK, protocol=protocol, seed=0)
        test = sorted(name for name, split in division.items() if split == "test")
        assert test == [f"Actor_{2 * number + 1:02d}", f"Actor_{2 * number + 2:02d}"]
        assert Counter(division.values()) == {"train": 5, "validation": 1, "test": 2}
        tested.update(clip.clip_id for clip in clips if division[clip.speaker_id] == "test")
    assert len(tested) == 480
    assert set(tested.values()) == {1}
