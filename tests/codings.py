"""A clip in other formats and codings."""

from __future__ import annotations

import io
from fractions import Fraction

import av
from av.video.frame import PictureType


def coded(clip: bytes, container: str, picture: str | None, sound: str) -> bytes:
    """The first second of a clip in other codings."""
    file = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as given, av.open(file, "w", format=container) as made:
        video = made.add_stream(picture, rate=25) if picture else None
        assert isinstance(video, av.VideoStream | None)
        audio = made.add_stream(sound, rate=48_000)
        assert isinstance(audio, av.AudioStream)
        if video:
            video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        num_pictures = 0
        for frame in given.decode(video=0, audio=0):
            if isinstance(frame, av.AudioFrame) and (frame.time or 0) < 1:
                frame.pts = None
                made.mux(audio.encode(frame))
            elif video and isinstance(frame, av.VideoFrame) and num_pictures < 25:
                drawn = frame.reformat(width=160, height=120, format="yuv420p")
                drawn.pict_type, drawn.time_base, drawn.pts = PictureType.NONE, Fraction(1, 25), num_pictures
                num_pictures += 1
                made.mux(video.encode(drawn))
        made.mux(audio.encode(None))
        if video:
            made.mux(video.encode(None))
    return file.getvalue()
