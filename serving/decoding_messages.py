"""What a server and its decoding processes say to each other: a small JSON header, then raw bytes.

Whoever decodes may have been taken over by what it decoded, so what it says is checked like a stranger's: types,
sizes and lengths, and nothing of it is ever unpickled or run.
"""

from __future__ import annotations

import math
import socket
import time
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from components.features.clip_features import FeatureWarning

READY: Final = b"R"
_MAX_HEADER_BYTES: Final = 64 * 1024
_LENGTH_BYTES: Final = 4


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Job(_Message):
    """What is to be decoded; the files' bytes follow, sound first. Equal files are sent once, as video.

    Attributes:
        features: settings of the features as JSON.
        num_audio_bytes: of the sound file; None without one, or when it is the video file.
        num_video_bytes: of the video file.
        sound_from_video: the sound is in the video file.
    """

    features: str
    num_audio_bytes: NonNegativeInt | None
    num_video_bytes: NonNegativeInt | None
    sound_from_video: bool
    max_bytes: int
    max_duration_s: float
    max_pixels: int
    max_channels: int
    max_decoded_bytes: int


class Array(_Message):
    """One array of a reply; its bytes follow the header in C order."""

    dtype: Literal["float16", "float32", "float64", "uint8"]
    shape: Annotated[list[NonNegativeInt], Field(min_length=1, max_length=3)]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Reply(_Message):
    """What came out: arrays by name, whose bytes follow in this order, or why nothing came out."""

    error: str = Field("", pattern=r"^[a-z0-9-]{0,40}$")
    message: str = Field("", max_length=2_000)
    warnings: list[FeatureWarning] = Field([], max_length=8)
    duration_s: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    arrays: dict[str, Array] = Field({}, max_length=4)


def send(connection: socket.socket, header: Job | Reply, *contents: bytes | memoryview) -> None:
    """Send a header and what belongs to it."""
    text = header.model_dump_json().encode()
    connection.sendall(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    for content in contents:
        connection.sendall(content)


def receive_header(connection: socket.socket, deadline: float = math.inf) -> bytes:
    """A header as it came.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: it did not speak until the deadline.
        ValueError: it is longer than any header.
    """
    num_bytes = int.from_bytes(receive(connection, _LENGTH_BYTES, deadline), "little")
    if num_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {num_bytes} bytes, more than {_MAX_HEADER_BYTES}: the decoder is out of step")
    return bytes(receive(connection, num_bytes, deadline))


def receive(connection: socket.socket, num_bytes: int, deadline: float = math.inf) -> bytearray:
    """That many bytes, by a deadline of the monotonic clock.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: they did not come until the deadline.
    """
    content = bytearray(num_bytes)
    rest = memoryview(content)
    while rest:
        set_deadline(connection, deadline)
        num_received = connection.recv_into(rest)
        if num_received == 0:
            raise EOFError("the other side is gone")
        rest = rest[num_received:]
    return content


def set_deadline(connection: socket.socket, deadline: float) -> None:
    """Let the next call on the connection end by then.

    Raises:
        TimeoutError: the deadline has passed.
    """
    if math.isinf(deadline):
        connection.settimeout(None)
        return
    rest_s = deadline - time.monotonic()
    if rest_s <= 0:
        raise TimeoutError("the deadline has passed")
    connection.settimeout(rest_s)


def to_array(array: Array, content: bytearray) -> NDArray[np.generic]:
    """The array that the bytes are."""
    return np.frombuffer(content, dtype=array.dtype).reshape(array.shape)


def of_array(values: NDArray[np.generic]) -> Array:
    """How an array is announced."""
    return Array.model_validate({"dtype": values.dtype.name, "shape": list(values.shape)})
