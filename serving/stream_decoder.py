"""The server's side of the process that decodes a stream: bytes go in as they come, the newest window comes out.

Such a process takes a second to start, in which a stream would get no estimate. So one is kept that waits for the next.
"""

from __future__ import annotations

import asyncio
import socket
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


# Starting a process takes half a processor for two seconds, which an app or a stream that begins needs itself.
_CALM_S: Final = 3.0

_Started = tuple[subprocess.Popen[bytes], socket.socket]


class StreamProcesses:
    """Gives each stream a process of its own, and keeps a warm one for the next. For one event loop; close it."""

    def __init__(self) -> None:
        self._spare: _Started | None = None
        self._making: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to make the first spare one."""
        self._making = asyncio.ensure_future(self._make_spare())

    async def take(self) -> _Started:
        """A process that nobody else uses, and the server's end of its socket."""
        taken, self._spare = self._spare, None
        if self._making is None or self._making.done():
            self.open()
        if taken is not None and taken[0].poll() is None:
            return taken
        if taken is not None:
            taken[1].close()
        return await asyncio.to_thread(confinement.start, _MODULE)

    async def close(self) -> None:
        """End the spare one."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        if self._spare is not None:
            process, ours = self._spare
            self._spare = None
            process.kill()
            await asyncio.to_thread(process.wait)
            ours.close()

    async def _make_spare(self) -> None:
        await asyncio.sleep(_CALM_S)
        # In this thread, so that it is never half made when it is cancelled; it takes some milliseconds.
        self._spare = confinement.start(_MODULE)


class StreamDecoder:
    """One stream in its decoding process. For one event loop; close it."""

    def __init__(self, processes: StreamProcesses, config: params.Features, limits: Limits) -> None:
        self._processes = processes
        self._config = config
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start(self, *, given_rate_hz: int, num_channels: int) -> None:
        """Take a process; if it is not warm yet, it takes what is sent meanwhile when it is.

        Args:
            given_rate_hz: of samples without a container; 0 for a recording.
            num_channels: of such samples.
        """
        self._process, ours = await self._processes.take()
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
