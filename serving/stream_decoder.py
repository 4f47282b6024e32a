"""The server's side of the process that decodes a stream: bytes go in as they come, the newest window comes out."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Final

from components import params
from components.features.audio import audio_width
from components.features.live import Window
from components.features.video import video_width
from serving import confinement
from serving.prediction import Limits, RequestError
from serving.stream_messages import (
    LENGTH_BYTES,
    MAX_MESSAGE_BYTES,
    Setup,
    WindowHeader,
    framed,
    read_window,
)

_MODULE: Final = "serving.stream_worker"
# A window of frames at 4K that wait for their turn; and a minute of the processor for each ten of the stream, twice.
_MEMORY_BYTES: Final = 1024 * 1024 * 1024
_CPU_PER_SECOND: Final = 0.5


class StreamDecoder:
    """One stream's decoding process. For one event loop; close it.

    `newest` is what the process sent last; `next_window` waits for one that was not taken yet, and what nobody took in
    time is replaced.
    """

    def __init__(self, config: params.Features, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start(self, *, given_rate_hz: int, num_channels: int) -> None:
        """Start the process; it takes what is sent meanwhile when it is ready.

        Args:
            given_rate_hz: of samples without a container; 0 for a recording.
            num_channels: of such samples.
        """
        self._process, ours = await asyncio.to_thread(confinement.start, _MODULE)
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_MESSAGE_BYTES)
        setup = Setup(
            features=self._config.model_dump_json(),
            max_bytes=self._limits.max_bytes,
            max_duration_s=self._limits.max_duration_s,
            memory_bytes=_MEMORY_BYTES,
            cpu_s=30 + int(self._limits.max_duration_s * _CPU_PER_SECOND),
            given_rate_hz=given_rate_hz,
            num_channels=num_channels,
        )
        self._writer.write(framed(setup.model_dump_json().encode()))

    async def send(self, content: bytes) -> None:
        """Hand over bytes of the stream; waits while the process has too much to do."""
        assert self._writer is not None
        try:
            self._writer.write(framed(content))
            await self._writer.drain()
        except ConnectionError:
            # It has said, or `receive` will find out, why it is gone.
            return

    async def receive(self) -> Window:
        """The next window.

        Raises:
            RequestError: the stream cannot be decoded, and why.
        """
        assert self._reader is not None
        try:
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "little")
            if length > MAX_MESSAGE_BYTES:
                raise ValueError("a message longer than any")
            content = await self._reader.readexactly(length)
            found = read_window(content, audio_width(self._config.audio), video_width(self._config.video))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise RequestError(
                "undecodable", "the process that decoded the stream died of it: record it in another form"
            ) from error
        if isinstance(found, WindowHeader):
            raise RequestError(found.error, found.message)
        return found

    async def close(self) -> None:
        """End the process, whatever it does."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
