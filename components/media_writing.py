"""Writing small recordings: for the generated corpus and for tests. The same input gives the same bytes.

Shape suffixes: T samples or frames, H and W pixels, 3 colours, C channels.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

# Of libx264: written in no time, and large.
_QUICK: Final = {"preset": "ultrafast", "crf": "26"}


def write_mp4(
    path: Path,
    frames_THW3: NDArray[np.uint8],
    *,
    frame_rate_hz: float,
    waveform_T: NDArray[np.float32] | None = None,
    sample_rate_hz: int = 16_000,
    encoder: Mapping[str, str] = _QUICK,
) -> None:
    """Write RGB frames (T, H, W, 3), H and W even, and a mono waveform as H.264 and AAC.

    The same input gives the same bytes: one thread, no time stamps, no encoder names. `encoder` are options of libx264;
    none are its own defaults, which most films are written with.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        rate = Fraction(frame_rate_hz).limit_denominator(1001)
        video = container.add_stream("libx264", rate=rate, options={**encoder, "threads": "1"})
        _, video.height, video.width, _ = frames_THW3.shape
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        audio = None
        if waveform_T is not None:
            audio = container.add_stream("aac", rate=sample_rate_hz, layout="mono", options={"aac_coder": "fast"})
            audio.bit_rate = 48_000
            audio.codec_context.flags |= av.codec.context.Flags.bitexact
        for index, frame_HW3 in enumerate(frames_THW3):
            # OpenCV converts the colours in a third of the encoder's own time.
            planes = np.asarray(cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and waveform_T is not None:
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform_T, np.float32)[None], "fltp", "mono")
            sound.sample_rate = sample_rate_hz
            sound.pts = 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))


def write_wav(path: Path, waveform_T: NDArray[np.float32], *, sample_rate_hz: int = 16_000) -> None:
    """Write a mono waveform (T,), or channels (C, T), in [-1, 1] as 16-bit PCM."""
    channels_CT = np.atleast_2d(waveform_T)
    samples = np.round(np.clip(channels_CT, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels_CT))
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(samples.T.tobytes())
