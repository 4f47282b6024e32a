"""Recordings as a browser's MediaRecorder makes them: WebM with Opus and VP8, in chunks of 250 ms, without a length."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from components import media

CHUNK_S = 0.25
_OPUS_HZ = 48_000
_FRAMES_HZ = 25


class _Written:
    """A file that can only be written on, as a socket; what was written is taken away."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, content: bytes) -> int:
        self.content += content
        return len(content)

    def take(self) -> bytes:
        taken = bytes(self.content)
        self.content.clear()
        return taken


def chunks(source: bytes, *, duration_s: float = 5.0, has_video: bool = True) -> list[bytes]:
    """A clip, repeated until it is that long, as the messages that a browser would send."""
    recording = media.decode(source, sample_rate_hz=_OPUS_HZ, frame_rate_hz=_FRAMES_HZ)
    assert recording.waveform_T is not None
    written = _Written()
    # Each packet is written at once, as Chromium does.
    options = {"live": "1", "cluster_time_limit": "1", "flush_packets": "1"}
    made = []
    with av.open(written, "w", format="webm", options=options) as container:
        audio = container.add_stream("libopus", rate=_OPUS_HZ, layout="mono")
        video = None
        if has_video:
            assert recording.frames_THW is not None
            video = container.add_stream("libvpx", rate=_FRAMES_HZ, options={"deadline": "realtime", "cpu-used": "8"})
            _, video.height, video.width = recording.frames_THW.shape
            video.pix_fmt = "yuv420p"
        for number in range(round(duration_s / CHUNK_S)):
            packets = list(audio.encode(_sound(recording.waveform_T, number)))
            if video is not None and recording.frames_THW is not None:
                for picture in _pictures(recording.frames_THW, number):
                    packets += video.encode(picture)
            for packet in sorted(packets, key=lambda packet: (packet.pts or 0) * packet.time_base):
                container.mux(packet)
            made.append(written.take())
    return [*made, written.take()]


def _sound(waveform_T: NDArray[np.float32], number: int) -> av.AudioFrame:
    num_samples = round(CHUNK_S * _OPUS_HZ)
    places = np.arange(number * num_samples, (number + 1) * num_samples) % len(waveform_T)
    frame = av.AudioFrame.from_ndarray(waveform_T[places][None], "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = _OPUS_HZ, number * num_samples, Fraction(1, _OPUS_HZ)
    return frame


def _pictures(frames_THW: NDArray[np.uint8], number: int) -> Iterator[av.VideoFrame]:
    for place in range(round(number * CHUNK_S * _FRAMES_HZ), round((number + 1) * CHUNK_S * _FRAMES_HZ)):
        frame = av.VideoFrame.from_ndarray(frames_THW[place % len(frames_THW)], "gray").reformat(format="yuv420p")
        frame.pts, frame.time_base = place, Fraction(1, _FRAMES_HZ)
        yield frame
