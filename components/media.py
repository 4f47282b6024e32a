"""Recordings as files: bytes in, waveform and frames out, in one pass over the file.

Nothing about a file is believed: what it is comes from its content, limits are checked while it is decoded, and
every way it can be broken is a `MediaError` with a code. Only file formats that stand alone are opened, so a
playlist that names another file or an address is not followed.

Shape suffixes: T samples or frames, H and W pixels, C channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

import av
import fsspec
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from components.media_limits import Limits, MediaError, too_many
from components.media_streams import Picture, Sound, Span
from components.media_writing import write_mp4, write_wav

__all__ = [
    "Limits",
    "MediaError",
    "Recording",
    "Stream",
    "StreamInfo",
    "decode",
    "probe",
    "source_of",
    "write_mp4",
    "write_wav",
]


# Demuxers of self-contained files; hls, concat, dash, image sequences and the like would open other files.
_FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,wav,w64,flac,mp3,aac,aiff,au,caf,avi,flv,asf,mpeg,mpegvideo,mpegts,"
    "amr,amrnb,amrwb,ac3,eac3,h264,m4v,ivf"
)
# Of these formats the header's duration is exact, so that less of it means a cut file.
_EXACT_FORMATS: Final = frozenset({"mov", "mp4", "wav", "matroska", "webm", "avi", "flac"})
_GIT_LFS_MARK: Final = b"version https://git-lfs"

# What PyAV raises on broken content: its own errors, and plain ones from reading the header's fields, or from a packet
# of a stream that the header did not name.
DECODING_ERRORS: Final = (av.error.FFmpegError, ValueError, OverflowError, ZeroDivisionError, IndexError)

Stream = Literal["audio", "video"]


@dataclass(frozen=True)
class Recording:
    """The decoded part of a recording.

    Attributes:
        waveform_T: (T,) mono float32 in [-1, 1] at the rate asked for; None without sound.
        frames_THW: (T, H, W) uint8 luma as coded, at most 640 wide; None without a picture.
        frame_times_s: (T,) seconds from the start of the part at which each frame is shown: k / frame_rate_hz.
        duration_s: length of the decoded part, in seconds: the longer of the two streams.
    """

    waveform_T: NDArray[np.float32] | None
    frames_THW: NDArray[np.uint8] | None
    frame_times_s: NDArray[np.float64]
    duration_s: float


@dataclass(frozen=True)
class StreamInfo:
    """What a file's header says of its streams; 0 where it says nothing."""

    duration_s: float
    has_audio: bool
    has_video: bool
    num_channels: int
    sample_rate_hz: int
    width: int
    height: int
    frame_rate_hz: float


def probe(source: Path | bytes, *, limits: Limits | None = None) -> StreamInfo:
    """Read the header of a recording.

    Raises:
        MediaError: it is no recording, or its header is out of all bounds.
    """
    limits = limits or Limits()
    with _opened(source, limits) as container:
        audio, video = audio_of(container, limits), video_of(container, limits)
        if audio is None and video is None:
            raise MediaError("no-streams", f"{_name(source)} has neither sound nor picture: give a recording with one")
        return StreamInfo(
            duration_s=_declared_duration_s(container) or 0.0,
            has_audio=audio is not None,
            has_video=video is not None,
            num_channels=audio.channels if audio else 0,
            sample_rate_hz=audio.rate if audio else 0,
            width=video.width if video else 0,
            height=video.height if video else 0,
            frame_rate_hz=float(video.average_rate or 0) if video else 0.0,
        )


def decode(
    source: Path | bytes,
    *,
    sample_rate_hz: int,
    frame_rate_hz: float,
    start_s: float = 0.0,
    end_s: float | None = None,
    limits: Limits | None = None,
    want: Sequence[Stream] = ("audio", "video"),
) -> Recording:
    """Decode the wanted streams of a file between `start_s` and `end_s`, both in one pass.

    Sound is averaged over its channels and resampled; of the picture, the frame nearest to each k / frame_rate_hz
    is taken. Times count from the first instant of the file. A stream that the file does not have is None.

    Raises:
        MediaError: nothing wanted is in the file, the file is broken, or a limit is passed; see its codes.
    """
    limits = limits or Limits()
    name = _name(source)
    span = Span(start_s, math.inf if end_s is None else end_s)
    with _opened(source, limits) as container:
        audio = audio_of(container, limits) if "audio" in want else None
        video = video_of(container, limits) if "video" in want else None
        if audio is None and video is None:
            code = f"no-{want[0]}" if len(want) == 1 else "no-streams"
            raise MediaError(code, f"{name} has no {' or '.join(want)} stream: give a recording that has one")
        sound = Sound(name, sample_rate_hz, span, limits) if audio else None
        picture = Picture(name, frame_rate_hz, span, limits) if video else None
        _demux(container, audio, video, sound, picture, span)
        declared_s = _declared_duration_s(container)
        is_exact = not _EXACT_FORMATS.isdisjoint(container.format.name.split(","))
    reached_s = max(sink.reached_s for sink in (sound, picture) if sink is not None)
    if declared_s and is_exact and reached_s and min(span.end_s, declared_s) - reached_s > max(0.5, 0.1 * declared_s):
        raise MediaError(
            "truncated", f"{name} ends after {reached_s:.1f} s of {declared_s:.1f} s: it was cut off; copy it again"
        )
    for sink in (sound, picture):
        if sink is not None:
            sink.check(name)
    waveform_T = sound.waveform() if sound else None
    frames_THW = picture.frames() if picture else None
    if waveform_T is None and frames_THW is None:
        raise MediaError("empty-span", f"{name} has nothing from {start_s} s on: it ends at {reached_s:.2f} s")
    num_frames = 0 if frames_THW is None else len(frames_THW)
    num_samples = 0 if waveform_T is None else len(waveform_T)
    return Recording(
        waveform_T=waveform_T,
        frames_THW=frames_THW,
        frame_times_s=np.arange(num_frames) / frame_rate_hz,
        duration_s=max(num_samples / sample_rate_hz, picture.duration_s if picture else 0.0),
    )


def source_of(uri: str) -> Path | bytes:
    """What `decode` takes for a clip's URI: the path of a local file, or the bytes behind an address (s3://…).

    Raises:
        MediaError: the address cannot be read.
    """
    if "://" not in uri:
        return Path(uri)
    try:
        with fsspec.open(uri, "rb") as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError as error:
        raise MediaError("missing", f"{uri} does not exist: check the address, or copy the file there") from error
    except (OSError, ValueError, ImportError) as error:
        raise MediaError("unreadable", f"{uri} cannot be read ({error}): check the address and the keys") from error


def _demux(
    container: InputContainer,
    audio: AudioStream | None,
    video: VideoStream | None,
    sound: Sound | None,
    picture: Picture | None,
    span: Span,
) -> None:
    origin_s = (container.start_time or 0) / av.time_base
    if video is not None and picture is not None and video.average_rate:
        picture.period_s = 1.0 / max(1.0, float(video.average_rate))
    if span.start_s > 5.0:
        # Two seconds early: the decoders need a run-up, and what comes before the span is cut off anyway.
        container.seek(int((span.start_s - 2.0 + origin_s) * av.time_base))
    for packet in container.demux([stream for stream in (audio, video) if stream is not None]):
        sink = sound if packet.stream is audio else picture
        assert sink is not None
        if sink.is_done:
            if all(other is None or other.is_done for other in (sound, picture)):
                return
            continue
        decode_packet(packet, sink, origin_s)
    for sink in (sound, picture):
        if sink is not None and not sink.is_done:
            sink.add(None, None)


def decode_packet(packet: av.Packet[Any], sink: Sound | Picture, origin_s: float) -> None:
    """Hand what a packet holds to the collector of its stream; times count from `origin_s` of the container's clock."""
    sink.num_packets += packet.size > 0
    try:
        frames = packet.decode()
    except MemoryError:
        raise
    except av.error.FFmpegError:
        # A few broken packets are a scratch, as players treat them; check() refuses more than a few.
        sink.num_bad += 1
        return
    for frame in frames:
        assert isinstance(frame, av.AudioFrame | av.VideoFrame)
        time_s = None if frame.time is None else frame.time - origin_s
        sink.add(frame, time_s)  # type: ignore[arg-type]  # the packet's stream decides which of the two it is


class Readable(Protocol):
    """Where bytes come from: `read` waits until there are some, and gives none at the end."""

    def read(self, size: int, /) -> bytes: ...


def open_container(source: Readable, **options: str) -> InputContainer:
    """Open a recording by its content alone, and nothing that it names; `options` are the demuxer's.

    Raises:
        DECODING_ERRORS: it is in no known format, or its header is broken.
    """
    return av.open(
        source,
        mode="r",
        container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "", **options},
        metadata_errors="replace",
    )


@contextmanager
def _opened(source: Path | bytes, limits: Limits) -> Iterator[InputContainer]:
    """Open a file by its content; every error of reading it, here or in the block, becomes a `MediaError`."""
    name = _name(source)
    with _file(source) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(64)
        file.seek(0)
        if num_bytes == 0:
            raise MediaError("empty", f"{name} is empty: copy it again from its source")
        if head.startswith(_GIT_LFS_MARK):
            raise MediaError("git-lfs-stub", f"{name} is a git-lfs pointer, no recording: run `git lfs pull` there")
        if num_bytes > limits.max_bytes:
            raise MediaError("too-large", f"{name} has {num_bytes} bytes, over the {limits.max_bytes} allowed: cut it")
        _check_wav_is_whole(name, head, num_bytes)
        try:
            container = open_container(file)
        except MemoryError as error:
            raise _too_much_memory(name) from error
        except DECODING_ERRORS as error:
            if head[4:8] in (b"ftyp", b"moov", b"mdat") or head[:4] in (b"RIFF", b"\x1a\x45\xdf\xa3", b"OggS"):
                raise MediaError("truncated", f"{name} is cut off or its index is damaged: copy it again") from error
            raise MediaError("not-media", f"{name} is no audio or video file: give wav, mp4, webm or alike") from error
        try:
            yield container
        except MediaError:
            raise
        except MemoryError as error:
            raise _too_much_memory(name) from error
        except DECODING_ERRORS as error:
            raise MediaError("damaged", f"{name} cannot be decoded ({error}): make it again from its source") from error
        finally:
            container.close()


def _check_wav_is_whole(name: str, head: bytes, num_bytes: int) -> None:
    """The demuxer takes a wav file's length from its size, so that a cut one has to be told by its header."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return
    said = int.from_bytes(head[4:8], "little")
    # A recorder that could not go back leaves 0 or the largest number.
    if said not in (0, 0xFFFFFFFF) and said + 8 > 1.1 * num_bytes + 1_000:
        raise MediaError("truncated", f"{name} has {num_bytes} bytes of {said + 8}: it was cut off; copy it again")


@contextmanager
def _file(source: Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        file = source.open("rb")
    except FileNotFoundError as error:
        raise MediaError("missing", f"{source} does not exist: check the path, or copy the file there") from error
    except (OSError, ValueError) as error:
        raise MediaError("unreadable", f"{source} cannot be read ({error}): check what it is and its rights") from error
    with file:
        yield file


def audio_of(container: InputContainer, limits: Limits) -> AudioStream | None:
    """The sound of an open file, if it has one.

    Raises:
        MediaError: it is in no known coding, or has too many channels.
    """
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    _use_one_thread(stream)
    if stream.channels > limits.max_channels:
        raise MediaError("too-many-channels", too_many("the recording", stream.channels, limits))
    return stream


def video_of(container: InputContainer, limits: Limits) -> VideoStream | None:
    """The picture of an open file, if it has one.

    Raises:
        MediaError: it is in no known coding, or is too large.
    """
    for stream in container.streams.video:
        # The cover picture of a sound file is no video.
        if stream.disposition & Disposition.attached_pic:
            continue
        _use_one_thread(stream)
        if stream.width * stream.height > limits.max_pixels:
            raise MediaError("bad-size", f"the recording has {stream.width}x{stream.height} pixels: shrink it to 4K")
        return stream
    return None


def _use_one_thread(stream: AudioStream | VideoStream) -> None:
    """Decode in this thread alone: many processes do so at once, and results must not depend on how many."""
    context: av.CodecContext | None = stream.codec_context
    if context is None:
        raise MediaError("unknown-codec", f"the recording's {stream.type} is in no known coding: encode it anew")
    context.thread_count = 1


def _too_much_memory(name: str) -> MediaError:
    return MediaError("too-large-to-decode", f"{name} takes more memory to decode than there is: cut or shrink it")


def _declared_duration_s(container: InputContainer) -> float | None:
    return None if container.duration is None else container.duration / av.time_base


def _name(source: Path | bytes) -> str:
    return "the recording" if isinstance(source, bytes) else str(source)
