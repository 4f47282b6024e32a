"""What a server and the process that decodes a stream for it say to each other, over a socket pair.

Each message is its length in four bytes and its content. To the process: first `Setup` as JSON, then the stream's bytes
as they come. From the process: a `WindowHeader` as JSON, and in the same message behind it the bytes of its arrays.
"""

from __future__ import annotations

import socket
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from components.features.clip_features import FeatureWarning, Frames
from components.features.live import Window

LENGTH_BYTES: Final = 4
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Setup(_Message):
    """How a stream is decoded.

    Attributes:
        features: settings of the features as JSON.
        memory_bytes: that the process may take beyond what it takes when it starts.
        cpu_s: processor time that it may take.
        given_rate_hz: of samples without a container; 0 for a recording.
        num_channels: of such samples.
    """

    features: str
    max_bytes: int
    max_duration_s: float
    memory_bytes: int
    cpu_s: int
    given_rate_hz: int = 0
    num_channels: int = 1


class WindowHeader(_Message):
    """The last seconds of a stream, or why there are none: the shapes of two float16 arrays, sound first."""

    error: str = Field("", pattern=r"^[a-z0-9-]{0,40}$")
    message: str = Field("", max_length=2_000)
    warnings: tuple[FeatureWarning, ...] = ()
    start_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    end_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    audio_shape: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    video_shape: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)


def framed(content: bytes) -> bytes:
    """A message as it goes over the socket."""
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def receive(connection: socket.socket) -> bytes:
    """The next message.

    Raises:
        EOFError: the other side is gone.
    """
    return _exactly(connection, int.from_bytes(_exactly(connection, LENGTH_BYTES), "little"))


def window_message(window: Window) -> bytes:
    """A window as a message's content."""
    frames = window.frames
    header = WindowHeader(
        warnings=frames.warnings,
        start_s=window.start_s,
        end_s=window.end_s,
        audio_shape=frames.audio_TF.shape,
        video_shape=frames.video_TF.shape,
    )
    return framed(header.model_dump_json().encode()) + frames.audio_TF.tobytes() + frames.video_TF.tobytes()


def error_message(code: str, text: str) -> bytes:
    """Why there are no more windows, as a message's content."""
    return framed(WindowHeader(error=code, message=text[:2_000]).model_dump_json().encode())


def read_window(content: bytes, audio_width: int, video_width: int) -> Window | WindowHeader:
    """What a message holds: a window, or a header with an error.

    Raises:
        ValueError: it is no message of a sound process.
    """
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    header = WindowHeader.model_validate_json(content[LENGTH_BYTES : LENGTH_BYTES + length])
    if header.error:
        return header
    values = np.frombuffer(content[LENGTH_BYTES + length :], np.float16)
    (num_audio, of_audio), (num_video, of_video) = header.audio_shape, header.video_shape
    if (of_audio, of_video) != (audio_width, video_width) or len(values) != num_audio * of_audio + num_video * of_video:
        raise ValueError("the shapes of a window do not fit")
    if not np.isfinite(values).all():
        raise ValueError("a window with values that are no numbers")
    split = num_audio * of_audio
    audio_TF: NDArray[np.float16] = values[:split].reshape(num_audio, of_audio)
    video_TF: NDArray[np.float16] = values[split:].reshape(num_video, of_video)
    return Window(Frames(audio_TF, video_TF, header.warnings), header.start_s, header.end_s)


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    content = bytearray()
    while len(content) < num_bytes:
        received = connection.recv(min(num_bytes - len(content), 1 << 20))
        if not received:
            raise EOFError("the other side is gone")
        content += received
    return bytes(content)
