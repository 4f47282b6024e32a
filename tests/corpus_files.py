"""Little media files for trees in the layout of a published corpus."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from components import datasets, media, params
from components.clip import Clip
from components.datasets import Refusal
from components.task import Task

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def asked(dataset: str, name: str | None = None) -> Task:
    """A corpus's task by name, or its first."""
    task = datasets.task_of(params.Corpus(dataset=dataset, task=name))
    assert task is not None
    return task


def write_sound(path: Path, duration_s: float = 0.4, *, sample_rate_hz: int = 16_000) -> Path:
    """A tone whose pitch follows from the file's name, so that no two files are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_T = np.arange(round(sample_rate_hz * duration_s)) / sample_rate_hz
    pitch_hz = 150 + sum(path.name.encode()) % 400
    media.write_wav(
        path, (0.3 * np.sin(2 * np.pi * pitch_hz * time_T)).astype(np.float32), sample_rate_hz=sample_rate_hz
    )
    return path


def write_film(path: Path, *, codec: str, num_frames: int = 10, frame_rate_hz: int = 25) -> Path:
    """A grey film without sound, in the container that the file's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=frame_rate_hz)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            frame_HW3 = np.full((48, 64, 3), 60 + 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def clips_of(items: list[Clip | Refusal]) -> list[Clip]:
    return [item for item in items if isinstance(item, Clip)]


def refusals_of(items: list[Clip | Refusal]) -> list[Refusal]:
    return [item for item in items if isinstance(item, Refusal)]
