"""A recording that is still being made: bytes as they come, waveform and frames as soon as they can be decoded.

Shape suffixes: T samples or frames, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from components.media import DECODING_ERRORS, Readable, audio_of, decode_packet, open_container, video_of
from components.media_limits import Limits, MediaError
from components.media_streams import Picture, Sound, Span

_NAME = "the stream"
# Packets of a stream after which it is judged whether it can be decoded at all.
_FIRST_PACKETS = 50
# Bytes that must be enough to tell what it is; a demuxer would otherwise wait for a megabyte.
_FORMAT_BYTES = 32 * 1024
_SAMPLES_BYTES = 32 * 1024


@dataclass(frozen=True)
class Fresh:
    """What one packet brought.

    Attributes:
        waveform_T: (T,) mono float32 in [-1, 1], which follows on what came before.
        frames_HW: each (H, W) uint8 luma; the next frames of the grid k / frame_rate_hz.
        has_video: whether there is a picture at all.
    """

    waveform_T: NDArray[np.float32]
    frames_HW: list[NDArray[np.uint8]]
    has_video: bool


def follow(source: Readable, *, sample_rate_hz: int, frame_rate_hz: float, limits: Limits) -> Iterator[Fresh]:
    """Decode a recording while it is being made, packet by packet, within the limits of a finished one.

    It has to be in a form that can be read from its beginning: WebM, Matroska, WAV, Ogg, fragmented MP4. Others yield
    nothing before their end.

    Raises:
        MediaError: it is no recording, is broken, or passes a limit.
    """
    try:
        # A browser's recording does not say its frame rate, and a demuxer would wait for two seconds to find it out.
        container = open_container(source, formatprobesize=str(_FORMAT_BYTES), fpsprobesize="0")
    except DECODING_ERRORS as error:
        raise MediaError("not-media", f"{_NAME} is no recording: send WebM, WAV or Ogg from its beginning") from error
    try:
        audio, video = audio_of(container, limits), video_of(container, limits)
        if audio is None and video is None:
            raise MediaError("no-streams", f"{_NAME} has neither sound nor picture: record one of them")
        whole = Span(0.0, math.inf)
        sound = Sound(_NAME, sample_rate_hz, whole, limits) if audio else None
        picture = Picture(_NAME, frame_rate_hz, whole, limits) if video else None
        origin_s = (container.start_time or 0) / av.time_base
        for packet in container.demux([stream for stream in (audio, video) if stream is not None]):
            sink = sound if packet.stream is audio else picture
            assert sink is not None
            decode_packet(packet, sink, origin_s)
            if sink.num_packets > _FIRST_PACKETS:
                sink.check(_NAME)
            yield Fresh(
                waveform_T=sound.take() if sound else np.zeros(0, np.float32),
                frames_HW=picture.take() if picture else [],
                has_video=picture is not None,
            )
    except (MediaError, MemoryError):
        raise
    except DECODING_ERRORS as error:
        hint = "record it again, as WebM, Ogg, WAV or fragmented MP4"
        raise MediaError("damaged", f"{_NAME} cannot be decoded ({error}): {hint}") from error
    finally:
        container.close()


def follow_samples(
    source: Readable, *, given_rate_hz: int, num_channels: int, sample_rate_hz: int, limits: Limits
) -> Iterator[Fresh]:
    """The waveform of samples without a container: 16 bits, little-endian, mono or stereo interleaved.

    Raises:
        MediaError: there are more seconds than the limit.
    """
    sound = Sound(_NAME, sample_rate_hz, Span(0.0, math.inf), limits)
    rest, num_samples = b"", 0
    while content := source.read(_SAMPLES_BYTES):
        rest += content
        samples = np.frombuffer(rest[: len(rest) - len(rest) % (2 * num_channels)], "<i2")
        rest = rest[samples.nbytes :]
        if not len(samples):
            continue
        frame = av.AudioFrame.from_ndarray(
            samples[None], format="s16", layout="mono" if num_channels == 1 else "stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = given_rate_hz, num_samples, Fraction(1, given_rate_hz)
        sound.add(frame, num_samples / given_rate_hz)
        num_samples += frame.samples
        yield Fresh(sound.take(), [], has_video=False)
