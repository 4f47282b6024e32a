"""Recordings that nobody means well with, each small and made on the spot: name, content, and the problem it deserves.

`None` for the problem: an odd recording that is one all the same, and gets an answer.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, Final

import av
import numpy as np

from tests.test_media import float_wav, pcm

RATE_HZ: Final = 16_000
_SECOND: Final = np.zeros((RATE_HZ, 1), np.int16)


def recordings() -> Iterator[tuple[str, bytes, str | None]]:
    """Name, content and code of the problem, or None where an answer is due."""
    voice = pcm(_noise(2.0), RATE_HZ)
    yield "empty", b"", "empty"
    yield "zeros", bytes(100_000), "not-media"
    yield "a wav without samples", pcm(np.zeros((0, 1), np.int16), RATE_HZ), "damaged"
    yield "a wav cut in its header", voice[:30], "truncated"
    yield "a wav cut in its samples", voice[:9_000], "truncated"
    yield "a wav that says it is 4 GB", voice[:40] + b"\xff\xff\xff\xff" + voice[44:], None
    yield "ten hours by its time stamps", _spread(36_000.0), None
    yield "no two frames apart", _spread(0.0), None
    yield "a frame a day", _video(1, rate="1/86400"), None
    yield "a picture of one pixel", _video(4, width=1, height=1), None
    yield "a picture of 8k", _video(2, width=7680, height=4320), "bad-size"
    yield "a picture that is all width", _video(2, width=16_000, height=2), None
    yield "sound of 1 Hz", pcm(_SECOND[:60], 1), "bad-rate"
    yield "sound of 768 kHz", pcm(_noise(1.0), 768_000), None
    yield "64 channels", pcm(np.zeros((800, 64), np.int16), RATE_HZ), "too-many-channels"
    yield "no channel", _with_format(voice, channels=0), "damaged"
    yield "65535 channels", _with_format(voice, channels=65_535), "damaged"
    yield "a rate of zero", _with_format(voice, rate_hz=0), "truncated"
    yield "samples that are no numbers", float_wav(np.full(8_000, np.nan, np.float32)), "not-finite"
    yield "samples that are infinite", float_wav(np.full(8_000, np.inf, np.float32)), "not-finite"
    yield "samples at the end of what floats hold", float_wav(np.full(8_000, 3e38, np.float32)), None
    yield "a zip", _zip(voice), "not-media"
    yield "a zip bomb", _zip(bytes(50_000_000)), "not-media"
    yield "a gzip", gzip.compress(voice), "not-media"
    yield "a gzip bomb", gzip.compress(bytes(200_000_000)), "not-media"
    yield "a playlist of the server's files", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not-media"
    yield "a playlist of another host", b"#EXTM3U\n#EXTINF:9,\nhttp://169.254.169.254/\n#EXT-X-ENDLIST\n", "not-media"
    yield "a list to concatenate", b"ffconcat version 1.0\nfile /etc/passwd\n", "not-media"
    yield (
        "a session description",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        ("not-media"),
    )
    yield "a still picture", _still(), "not-media"
    yield "a program", b"\x7fELF" + bytes(4_000), "not-media"
    yield "a page", b"<!doctype html><script>alert(1)</script>" * 50, "not-media"


def _noise(duration_s: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.random.default_rng(0).integers(-9_000, 9_000, (round(duration_s * RATE_HZ), 1)).astype(np.int16)


def _video(
    num_frames: int,
    *,
    width: int = 64,
    height: int = 48,
    rate: str = "25",
    time_of: Callable[[int], float] | None = None,
) -> bytes:
    """Grey frames without loss in Matroska; `time_of` gives the seconds of each."""
    from fractions import Fraction

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        if time_of is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((height, width), 40 + number, np.uint8), format="gray")
            if time_of is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), round(1000 * time_of(number))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _spread(duration_s: float) -> bytes:
    """Four frames over that time."""
    return _video(4, time_of=lambda number: number * duration_s / 3 + number / 1000)


def _with_format(wav: bytes, *, channels: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    """The file with other numbers in its header."""
    return wav[:22] + struct.pack("<HI", channels, rate_hz) + wav[28:]


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip.wav", content)
    return file.getvalue()


def _still() -> bytes:
    import cv2

    done, content = cv2.imencode(".png", np.zeros((3_000, 3_000), np.uint8))
    assert done
    return content.tobytes()
