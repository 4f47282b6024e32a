"""Whether one clip can be used: its files are decoded in full, so that nothing later meets a broken one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from components import media
from components.clip import Clip

# Only whether it decodes matters here: few frames and few samples are kept.
_SAMPLE_RATE_HZ: Final = 8_000
_FRAME_RATE_HZ: Final = 1.0
# Encoders begin with silence and fill up their last block: such a difference is none.
_SAME_LENGTH_S: Final = 0.25
_MAX_BYTES: Final = 8 * 1024**3


class ClipError(ValueError):
    """A clip that cannot be used for a reason that is not in its media; `code` as in `media.MediaError`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Bounds:
    """What a clip must keep to.

    Attributes:
        min_duration_s, max_duration_s: length of the clip, in seconds.
        labels: the vocabulary, or None when every name is one.
    """

    min_duration_s: float
    max_duration_s: float
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Inspected:
    """A clip that was found whole.

    Attributes:
        clip: with `audio_uri` filled in where only a video with sound was given.
        duration_s: of its file, or the shorter of its two; 0 for words alone.
        num_bytes: size of its files.
        md5: of its files, one after the other; empty for words alone.
    """

    clip: Clip
    duration_s: float
    num_bytes: int
    md5: str


def inspect(clip: Clip, bounds: Bounds) -> Inspected:
    """Decode a clip's files and check what is said about it.

    Raises:
        media.MediaError: a file is missing or broken, or lacks the stream that the clip names.
        ClipError: its length, a label or the transcript is not acceptable.

    Where sound and picture are two files, the clip ends with the shorter: VoxCeleb2 has sound that lasts longer.
    """
    _check_words(clip, bounds)
    limits = media.Limits(max_bytes=_MAX_BYTES, max_duration_s=bounds.max_duration_s)
    lengths_s: list[float] = []
    digest = hashlib.md5(usedforsecurity=False)
    num_bytes = 0
    for uri in dict.fromkeys(uri for uri in (clip.video_uri, clip.audio_uri) if uri is not None):
        source = media.source_of(uri)
        recording = media.decode(
            source,
            sample_rate_hz=_SAMPLE_RATE_HZ,
            frame_rate_hz=_FRAME_RATE_HZ,
            start_s=clip.start_s,
            end_s=clip.end_s,
            limits=limits,
            want=_wanted(clip, uri),
        )
        if uri == clip.video_uri and recording.frames_THW is None:
            raise media.MediaError("no-video", f"{uri} has no picture in the clip's span: leave video_uri empty")
        if uri == clip.audio_uri and recording.waveform_T is None:
            raise media.MediaError("no-audio", f"{uri} has no sound in the clip's span: leave audio_uri empty")
        if clip.audio_uri is None and recording.waveform_T is not None:
            clip = replace(clip, audio_uri=uri)
        lengths_s.append(recording.duration_s)
        num_bytes += _add_content(digest, source)
    duration_s = min(lengths_s, default=0.0)
    if max(lengths_s, default=0.0) - duration_s > _SAME_LENGTH_S:
        clip = replace(clip, end_s=clip.start_s + duration_s)
    if num_bytes and duration_s < bounds.min_duration_s:
        raise ClipError("too-short", f"lasts {duration_s:.2f} s, under ingest.min_duration_s = {bounds.min_duration_s}")
    return Inspected(clip, duration_s, num_bytes, digest.hexdigest() if num_bytes else "")


def _wanted(clip: Clip, uri: str) -> tuple[media.Stream, ...]:
    if uri != clip.video_uri:
        return ("audio",)
    return ("audio", "video") if clip.audio_uri in (None, uri) else ("video",)


def _check_words(clip: Clip, bounds: Bounds) -> None:
    if bounds.labels is not None:
        for name in clip.labels:
            if name not in bounds.labels:
                raise ClipError("label-unknown", f"label {name!r} is none of {', '.join(bounds.labels)}")
    if clip.transcript is None:
        return
    if "\0" in clip.transcript:
        raise ClipError("transcript-nul", "the transcript has a zero byte: it is no text, or is wrongly encoded")
    try:
        clip.transcript.encode()
    except UnicodeEncodeError as error:
        raise ClipError("transcript-encoding", "the transcript is not valid Unicode: save it as UTF-8") from error


def _add_content(digest: hashlib._Hash, source: Path | bytes) -> int:
    """Feed a file to the digest piece by piece; returns its size."""
    if isinstance(source, bytes):
        digest.update(source)
        return len(source)
    num_bytes = 0
    with source.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            num_bytes += len(piece)
    return num_bytes
