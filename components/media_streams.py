"""Collecting the two streams of a recording while it is decoded: sound as a waveform, picture as chosen frames.

Shape suffixes: T samples or frames, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from components.media_limits import Limits, MediaError, too_long, too_many

MAX_WIDTH: Final = 640
_MAX_HEIGHT: Final = 1280
_PLANAR_LUMA: Final = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuva420p", "nv12", "gray")
_MAX_FRAME_RATE_HZ: Final = 1000.0
_SAMPLE_RATES_HZ: Final = (1_000, 768_000)
_MAX_BAD_SHARE: Final = 0.1


@dataclass(frozen=True)
class Span:
    """The wanted part, in seconds from the file's first instant; `end_s` may be infinite."""

    start_s: float
    end_s: float


class Sound:
    """Collects one audio stream: channels averaged, resampled, cut to the span."""

    def __init__(self, name: str, sample_rate_hz: int, span: Span, limits: Limits) -> None:
        self.name, self.rate_hz, self.span, self.limits = name, sample_rate_hz, span, limits
        self.resampler: av.AudioResampler | None = None
        self.chunks: list[NDArray[np.float32]] = []
        self.begin_s: float | None = None
        self.has_taken = False
        self.num_samples = self.num_bad = self.num_packets = 0

    @property
    def reached_s(self) -> float:
        return (self.begin_s or 0.0) + self.num_samples / self.rate_hz

    @property
    def is_done(self) -> bool:
        return self.begin_s is not None and self.reached_s >= self.span.end_s

    def add(self, frame: av.AudioFrame | None, time_s: float | None) -> None:
        if frame is not None:
            if not _SAMPLE_RATES_HZ[0] <= frame.sample_rate <= _SAMPLE_RATES_HZ[1]:
                raise MediaError("bad-rate", f"{self.name}: {frame.sample_rate} samples a second; use 8 to 192 kHz")
            if frame.layout.nb_channels > self.limits.max_channels:
                raise MediaError("too-many-channels", too_many(self.name, frame.layout.nb_channels, self.limits))
            if self.resampler is None:
                self.resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=self.rate_hz)
                self.begin_s = time_s or 0.0
        if self.resampler is None:
            return
        for resampled in self.resampler.resample(frame):
            self.chunks.append(resampled.to_ndarray().mean(axis=0, dtype=np.float32))
            self.num_samples += resampled.samples
        if self.reached_s - self.span.start_s > self.limits.max_duration_s and not self.is_done:
            raise MediaError("too-long", too_long(self.name, self.limits))

    def check(self, name: str) -> None:
        if self.num_samples == 0 or self.num_bad > _MAX_BAD_SHARE * self.num_packets:
            raise MediaError("damaged", f"{name}: its sound cannot be decoded; make the file again from its source")

    def take(self) -> NDArray[np.float32]:
        """The samples since the former call, for who does not wait for the end; the first ones from time 0 on."""
        if not self.chunks:
            return np.zeros(0, np.float32)
        fresh_T = np.concatenate(self.chunks)
        self.chunks.clear()
        if not np.isfinite(fresh_T).all():
            raise MediaError("not-finite", f"{self.name}: its sound has samples that are no numbers; export it again")
        if not self.has_taken:
            late_T = np.zeros(max(0, round((self.begin_s or 0.0) * self.rate_hz)), np.float32)
            fresh_T, self.has_taken = np.concatenate([late_T, fresh_T]), True
        return np.clip(fresh_T, -1.0, 1.0)

    def waveform(self) -> NDArray[np.float32] | None:
        """The span's samples, with silence before a sound that starts late; None when it is all outside."""
        begin = round((self.span.start_s - (self.begin_s or 0.0)) * self.rate_hz)
        joined_T = np.concatenate(self.chunks)[max(0, begin) :]
        if not math.isinf(self.span.end_s):
            joined_T = joined_T[: max(0, round((self.span.end_s - self.span.start_s) * self.rate_hz) + min(0, begin))]
        if joined_T.size == 0:
            return None
        if not np.isfinite(joined_T).all():
            raise MediaError("not-finite", f"{self.name}: its sound has samples that are no numbers; export it again")
        if begin < 0:
            joined_T = np.concatenate([np.zeros(-begin, np.float32), joined_T])
        return np.clip(joined_T, -1.0, 1.0)


class Picture:
    """Collects one video stream: the frame nearest to each grid time, as luma."""

    def __init__(self, name: str, frame_rate_hz: float, span: Span, limits: Limits) -> None:
        self.name, self.rate_hz, self.span, self.limits = name, frame_rate_hz, span, limits
        self.picked: list[NDArray[np.uint8]] = []
        self.num_taken = 0
        self.shape: tuple[int, ...] | None = None
        self.last: av.VideoFrame | None = None
        self.last_luma: NDArray[np.uint8] | None = None
        self.last_s = -math.inf
        self.period_s = 0.04
        self.num_frames = self.num_bad = self.num_packets = 0

    @property
    def next_s(self) -> float:
        return self.span.start_s + (self.num_taken + len(self.picked)) / self.rate_hz

    @property
    def reached_s(self) -> float:
        return self.last_s + self.period_s if self.last is not None else 0.0

    @property
    def duration_s(self) -> float:
        return max(0.0, min(self.reached_s, self.span.end_s) - self.span.start_s) if self.shape else 0.0

    @property
    def is_done(self) -> bool:
        return self.next_s >= self.span.end_s

    def add(self, frame: av.VideoFrame | None, time_s: float | None) -> None:
        if frame is None:
            self._pick_until(min(self.reached_s, self.span.end_s) - 1e-6)
            return
        if frame.width * frame.height > self.limits.max_pixels or frame.width < 1 or frame.height < 1:
            raise MediaError("bad-size", f"{self.name}: {frame.width}x{frame.height} pixels; shrink it to 4K or less")
        self.num_frames += 1
        now_s = time_s if time_s is not None else (self.last_s + self.period_s if self.last else 0.0)
        now_s = max(now_s, self.last_s, 0.0)
        if min(now_s, self.span.end_s) - self.span.start_s > self.limits.max_duration_s:
            raise MediaError("too-long", too_long(self.name, self.limits))
        if self.num_frames > _MAX_FRAME_RATE_HZ * (now_s + 1.0):
            raise MediaError("bad-rate", f"{self.name}: over {_MAX_FRAME_RATE_HZ:.0f} frames a second; encode it anew")
        if self.last is not None:
            # The former frame is the nearest one up to the middle between the two.
            self._pick_until(min((self.last_s + now_s) / 2, self.span.end_s - 1e-6))
        self.last, self.last_luma, self.last_s = frame, None, now_s

    def _pick_until(self, until_s: float) -> None:
        while self.last is not None and self.next_s <= until_s:
            if self.last_luma is None:
                self.last_luma = _luma(self.last)
                self.shape = self.shape or self.last_luma.shape
                if self.last_luma.shape != self.shape:
                    height, width = self.shape
                    self.last_luma = np.asarray(cv2.resize(self.last_luma, (width, height)), dtype=np.uint8)
            self.picked.append(self.last_luma)
            if len(self.picked) * self.last_luma.size > self.limits.max_decoded_bytes:
                raise MediaError("too-large", f"{self.name}: too many pixels over its whole length; cut or shrink it")

    def check(self, name: str) -> None:
        if self.num_frames == 0 or self.num_bad > _MAX_BAD_SHARE * self.num_packets:
            raise MediaError("damaged", f"{name}: its picture cannot be decoded; make the file again from its source")

    def take(self) -> list[NDArray[np.uint8]]:
        """The frames since the former call, for who does not wait for the end."""
        fresh = self.picked
        self.picked, self.num_taken = [], self.num_taken + len(fresh)
        return fresh

    def frames(self) -> NDArray[np.uint8] | None:
        return np.stack(self.picked) if self.picked else None


def _luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """(H, W): the frame's brightness, upright, at most 640 wide and 1280 high."""
    if frame.format.name in _PLANAR_LUMA:
        plane = frame.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        luma = rows[: frame.height, : frame.width]
    else:
        luma = np.asarray(frame.to_ndarray(format="gray"), np.uint8)
    # Telephones write the picture as the sensor lies and note by how much it is to be turned.
    if frame.rotation % 90 == 0 and frame.rotation:
        luma = np.rot90(luma, frame.rotation // 90)
    height, width = luma.shape
    scale = min(1.0, MAX_WIDTH / width, _MAX_HEIGHT / height)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(cv2.resize(np.ascontiguousarray(luma), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.array(luma, dtype=np.uint8, order="C")
