"""VoxCeleb2 as it is unpacked: paired, never listed as a whole, and cut to the shorter of sound and picture."""

from __future__ import annotations

import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from components import media
from components.clip import Clip
from components.datasets import Refusal, voxceleb2
from components.features import clip_features
from components.inspection import Bounds, inspect
from components.params import Features

BOUNDS = Bounds(0.3, 120.0, None)


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")


def read(root: Path) -> tuple[list[Clip], list[Refusal]]:
    items = list(voxceleb2.read(root, None))
    return [i for i in items if isinstance(i, Clip)], [i for i in items if isinstance(i, Refusal)]


@pytest.mark.parametrize(
    ("pictures", "sounds"),
    [
        ("dev/mp4", "dev/aac"),
        ("VoxCeleb2/video/file~/dev/mp4", "VoxCeleb2/audio/dev/aac"),
        (".", "."),
        ("voxceleb2", "wav16k"),
    ],
)
def test_roots_of_any_layout_are_paired(tmp_path: Path, pictures: str, sounds: str) -> None:
    make(
        tmp_path,
        f"{pictures}/id00012/21Uxsk56VDQ/00001.mp4",
        f"{sounds}/id00012/21Uxsk56VDQ/00001.m4a",
        f"{sounds}/id00012/21Uxsk56VDQ/00002.m4a",
        f"{pictures}/id00017/_-xxsk56VDQ/00003.mp4",
    )
    clips, refusals = read(tmp_path)
    assert not refusals
    both, heard, seen = clips
    assert both == Clip(
        clip_id="id00012/21Uxsk56VDQ/00001",
        speaker_id="id00012",
        session_id="21Uxsk56VDQ",
        split="unlabelled",
        audio_uri=str(tmp_path / sounds / "id00012/21Uxsk56VDQ/00001.m4a"),
        video_uri=str(tmp_path / pictures / "id00012/21Uxsk56VDQ/00001.mp4"),
    )
    assert (heard.video_uri, seen.audio_uri) == (None, None)
    assert seen.speaker_id == "id00017"


def test_dev_and_test_are_read_and_strange_files_named(tmp_path: Path) -> None:
    make(
        tmp_path,
        "test/mp4/id00017/01dfn2spqyE/00001.mp4",
        "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4",
        "dev/mp4/id00012/21Uxsk56VDQ/._00001.mp4",
        "dev/mp4/id00012/21Uxsk56VDQ/00001.txt",
        "copy/id00012/21Uxsk56VDQ/00001.mp4",
        "dev/mp4/id00012/notes/00001.mp4",
    )
    stub = tmp_path / "dev/mp4/id00012/21Uxsk56VDQ/00009.mp4"
    stub.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    clips, refusals = read(tmp_path)
    assert [clip.clip_id for clip in clips] == ["id00012/21Uxsk56VDQ/00001", "id00017/01dfn2spqyE/00001"]
    assert sorted(refusal.reason for refusal in refusals) == ["duplicate-name", "git-lfs-stub", "name-unknown"]


def test_meta_table_with_blanks_says_who_belongs_to_it(tmp_path: Path) -> None:
    make(tmp_path, "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "dev/mp4/id99999/21Uxsk56VDQ/00001.mp4")
    table = tmp_path / "vox2_meta.csv"
    table.write_text("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \n\n")
    assert voxceleb2.read_meta(table) == {"id00012": {"VGGFace2 ID": "n000012", "Gender": "m", "Set": "dev"}}
    clips, refusals = read(tmp_path)
    assert [clip.speaker_id for clip in clips] == ["id00012"]
    assert [(refusal.uri, refusal.reason) for refusal in refusals] == [("id99999", "speaker-unknown")]
    table.write_text("a,b\n")
    with pytest.raises(ValueError, match="its first column is not VoxCeleb2 ID"):
        read(tmp_path)


def test_missing_tree_names_the_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*voxceleb"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folder id00012/YOUTUBE_ID"):
        read(tmp_path)


def test_clips_are_streamed_not_listed(tmp_path: Path) -> None:
    """A hundred times the corpus needs hardly more memory, and what lies behind the reader is not looked at."""
    for name, num_videos in (("small", 2), ("large", 200)):
        for speaker in range(3):
            for video in range(num_videos):
                folder = tmp_path / name / f"dev/mp4/id{speaker:05d}/{video:011d}"
                folder.mkdir(parents=True)
                for clip in range(8):
                    (folder / f"{clip:05d}.mp4").touch()

    def peak(root: Path) -> tuple[int, int]:
        """Number of clips, and the least peak of some passes: now and then Python's table of names grows in one."""
        peaks = []
        for _ in range(4):
            tracemalloc.start()
            count = sum(1 for _ in voxceleb2.read(root, None))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return count, min(peaks)

    num_small, small = peak(tmp_path / "small")
    num_large, large = peak(tmp_path / "large")
    assert (num_small, num_large) == (48, 4800)
    # The names of one speaker's videos are all that grows: less than a fifth of what the clips' own names would be.
    names = sum(sys.getsizeof(f"id00000/{n:011d}/00000") for n in range(num_large))
    assert large - small < names / 5

    clips = voxceleb2.read(tmp_path / "large", None)
    assert len(list(islice(clips, 3))) == 3
    late = tmp_path / "large/dev/mp4/id00002" / f"{0:011d}"
    for path in late.iterdir():
        path.unlink()
    (late / "00042.mp4").touch()
    rest = [item.clip_id for item in clips if isinstance(item, Clip) and item.clip_id.startswith(f"id00002/{0:011d}/")]
    assert rest == [f"id00002/{0:011d}/00042"]


def write_m4a(path: Path, duration_s: float) -> None:
    sound = np.sin(np.arange(round(duration_s * 16_000)) / 20).astype(np.float32) / 3
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("heard_s", "seen_s"), [(3.0, 2.0), (1.2, 2.0)])
def test_clip_ends_with_the_shorter_of_sound_and_picture(tmp_path: Path, heard_s: float, seen_s: float) -> None:
    folder = tmp_path / "id00012/21Uxsk56VDQ"
    folder.mkdir(parents=True)
    frames = np.full((round(seen_s * 25), 48, 64, 3), 90, np.uint8)
    media.write_mp4(folder / "00001.mp4", frames, frame_rate_hz=25)
    write_m4a(folder / "00001.m4a", heard_s)
    (clip,) = read(tmp_path)[0]
    found = inspect(clip, BOUNDS)
    shorter = min(heard_s, seen_s)
    assert found.duration_s == pytest.approx(shorter, abs=0.1)
    assert found.clip.end_s == pytest.approx(shorter, abs=0.1)
    recording = clip_features.record(
        audio=folder / "00001.m4a", video=folder / "00001.mp4", config=Features(), end_s=found.clip.end_s
    )
    assert recording.waveform_T is not None
    assert recording.frames_THW is not None
    assert len(recording.waveform_T) / 16_000 == pytest.approx(shorter, abs=0.1)
    assert len(recording.frames_THW) / 12.5 == pytest.approx(shorter, abs=0.1)


def test_equal_lengths_leave_the_clip_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "id00012/21Uxsk56VDQ"
    folder.mkdir(parents=True)
    media.write_mp4(folder / "00001.mp4", np.full((50, 48, 64, 3), 90, np.uint8), frame_rate_hz=25)
    write_m4a(folder / "00001.m4a", 2.0)
    (clip,) = read(tmp_path)[0]
    assert inspect(clip, BOUNDS).clip.end_s is None
