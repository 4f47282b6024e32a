"""Following a recording that is still being made: the same samples and frames as of the finished one, in windows."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import pytest

from components import media, params
from components.features import clip_features
from components.features.live import LiveFrames, can_follow
from components.media_limits import Limits, MediaError
from components.media_live import follow
from tests.bundles import requests
from tests.webm import chunks

CONFIG = params.Features(max_duration_s=2.0)
RATE_HZ, FRAMES_HZ = CONFIG.audio.sample_rate_hz, CONFIG.video.frame_rate_hz


@dataclass
class Pipe:
    """Bytes that can only be read on, a few at a time."""

    content: bytes
    size: int = 10_000
    file: io.BytesIO = field(init=False)

    def __post_init__(self) -> None:
        self.file = io.BytesIO(self.content)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.size))


@pytest.fixture(scope="module")
def recorded() -> bytes:
    video = requests()[1].video
    assert video is not None
    return b"".join(chunks(video, duration_s=3.0))


def test_what_is_followed_is_what_is_decoded_at_the_end(recorded: bytes) -> None:
    whole = media.decode(recorded, sample_rate_hz=RATE_HZ, frame_rate_hz=FRAMES_HZ)
    assert whole.waveform_T is not None
    assert whole.frames_THW is not None
    parts = list(follow(Pipe(recorded), sample_rate_hz=RATE_HZ, frame_rate_hz=FRAMES_HZ, limits=Limits()))
    waveform_T = np.concatenate([part.waveform_T for part in parts])
    frames_THW = np.stack([frame for part in parts for frame in part.frames_HW])
    # The end of a finished file is flushed, which a stream's is not.
    assert len(whole.waveform_T) - len(waveform_T) < 0.05 * RATE_HZ
    assert 0 <= len(whole.frames_THW) - len(frames_THW) <= 1
    np.testing.assert_array_equal(waveform_T, whole.waveform_T[: len(waveform_T)])
    np.testing.assert_array_equal(frames_THW, whole.frames_THW[: len(frames_THW)])


def test_a_window_is_the_last_seconds_described_as_a_clip(recorded: bytes) -> None:
    live = LiveFrames(CONFIG)
    heard, windows = [], []
    for part in follow(Pipe(recorded), sample_rate_hz=RATE_HZ, frame_rate_hz=FRAMES_HZ, limits=Limits()):
        live.hear(part.waveform_T)
        live.see(part.frames_HW)
        heard.append(part.waveform_T)
        windows.append(live.window())
    last = windows[-1]
    assert last.end_s == live.reached_s
    assert last.end_s - last.start_s == pytest.approx(CONFIG.max_duration_s, abs=1 / FRAMES_HZ)
    # The sound, to the bit.
    waveform_T = np.concatenate(heard)[round(last.start_s * RATE_HZ) :]
    recording = media.Recording(waveform_T, None, np.zeros(0), len(waveform_T) / RATE_HZ)
    np.testing.assert_array_equal(
        last.frames.audio_TF, clip_features.compute_frames(recording, CONFIG).audio_TF, strict=True
    )
    # The face, found with the past alone, nearly as in the finished clip.
    whole = media.decode(
        recorded, sample_rate_hz=RATE_HZ, frame_rate_hz=FRAMES_HZ, start_s=last.start_s, end_s=last.end_s
    )
    finished_TF = clip_features.compute_frames(whole, CONFIG).video_TF
    num_steps = min(len(finished_TF), len(last.frames.video_TF))
    assert num_steps > 20
    likeness = np.corrcoef(finished_TF[:num_steps].ravel(), last.frames.video_TF[:num_steps].ravel())[0, 1]
    assert likeness > 0.8
    assert last.frames.warnings == ()


def test_silence_and_a_picture_without_a_face_are_told() -> None:
    live = LiveFrames(CONFIG)
    live.hear(np.zeros(RATE_HZ, np.float32))
    live.see([np.full((120, 160), 128, np.uint8)] * 12)
    window = live.window()
    assert set(window.frames.warnings) == {"silence", "no-face"}
    assert (len(window.frames.audio_TF), len(window.frames.video_TF)) == (0, 0)


def test_only_what_the_model_looks_at_is_described() -> None:
    live = LiveFrames(CONFIG.model_copy(update={"modalities": ("text",)}))
    live.hear(np.ones(RATE_HZ, np.float32))
    live.see([np.full((120, 160), 128, np.uint8)])
    frames = live.window().frames
    assert (len(frames.audio_TF), len(frames.video_TF), frames.warnings) == (0, 0, ())


def test_a_neural_encoder_cannot_follow() -> None:
    audio = params.AudioFeatures.model_construct(kind="encoder")
    assert can_follow(CONFIG)
    assert not can_follow(CONFIG.model_copy(update={"audio": audio}))


@pytest.mark.parametrize(
    ("content", "limits", "code"),
    [
        (b"this is no recording" * 500, Limits(), "not-media"),
        (b"", Limits(), "not-media"),
        (None, Limits(max_duration_s=1.0), "too-long"),
        (None, Limits(max_pixels=10), "bad-size"),
    ],
)
def test_what_cannot_be_followed_is_named(recorded: bytes, content: bytes | None, limits: Limits, code: str) -> None:
    source = Pipe(recorded if content is None else content)
    with pytest.raises(MediaError) as refused:
        list(follow(source, sample_rate_hz=RATE_HZ, frame_rate_hz=FRAMES_HZ, limits=limits))
    assert refused.value.code == code
