"""A process that decodes one stream for a server and may die of it: `python -m serving.stream_worker --socket=N`.

Whenever all that came is decoded, it sends the newest window. What comes faster than it can be decoded is decoded
without being told in between, so nothing old queues up. It writes no file, and ends when the server's end of the
socket does.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np

from components import params
from components.features.live import LiveFrames
from components.media_limits import Limits, MediaError
from components.media_live import Fresh, follow, follow_samples
from serving import confinement
from serving.stream_messages import Setup, error_message, framed, receive, window_message

# How much longer a stream must be for another window, in seconds; and how late one may be when there is no pause.
STEP_S: Final = 0.2
_LATEST_S: Final = 1.0


class _Stream:
    """The stream as a file that grows. While the demuxer waits for bytes, the newest window is told."""

    def __init__(self, connection: socket.socket, live: LiveFrames) -> None:
        self.live = live
        self._connection = connection
        self._waiting = bytearray()
        self._told_s = 0.0

    def read(self, size: int) -> bytes:
        if not self._waiting:
            self.tell(STEP_S)
            try:
                self._waiting += receive(self._connection)
            except (EOFError, ConnectionError):
                return b""
        content = bytes(self._waiting[:size])
        del self._waiting[:size]
        return content

    def tell(self, step_s: float) -> None:
        """Send the newest window if the stream is that much longer than the former one."""
        if self.live.reached_s - self._told_s >= step_s - 1e-6:
            self._told_s = self.live.reached_s
            self._connection.sendall(framed(window_message(self.live.window())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True)
    with confinement.connect(parser.parse_args().socket) as connection:
        _warm_up()
        try:
            setup = Setup.model_validate_json(receive(connection))
            confinement.confine(setup.memory_bytes)
            resource.setrlimit(resource.RLIMIT_CPU, (setup.cpu_s, setup.cpu_s))
            _work(connection, setup)
        except (EOFError, ConnectionError):
            return


def _warm_up() -> None:
    """Load what the first frame would wait for: the face cascade, and the tables of the sound."""
    live = LiveFrames(params.Features())
    live.hear(np.zeros(16_000, np.float32))
    live.see([np.zeros((240, 320), np.uint8)])
    live.window()


def _work(connection: socket.socket, setup: Setup) -> None:
    config = params.parse(params.Features, json.loads(setup.features), source="the server")
    stream = _Stream(connection, LiveFrames(config))
    limits = Limits(max_bytes=setup.max_bytes, max_duration_s=setup.max_duration_s)
    try:
        for fresh in _followed(stream, setup, config, limits):
            stream.live.hear(fresh.waveform_T)
            stream.live.see(fresh.frames_HW)
            stream.tell(_LATEST_S)
    except MediaError as error:
        connection.sendall(framed(error_message(error.code, str(error))))
    except (MemoryError, cv2.error):
        text = "decoding the stream takes too much memory: make its picture smaller"
        connection.sendall(framed(error_message("too-large-to-decode", text)))


def _followed(stream: _Stream, setup: Setup, config: params.Features, limits: Limits) -> Iterator[Fresh]:
    rate_hz = config.audio.sample_rate_hz
    if setup.given_rate_hz:
        return follow_samples(
            stream,
            given_rate_hz=setup.given_rate_hz,
            num_channels=setup.num_channels,
            sample_rate_hz=rate_hz,
            limits=limits,
        )
    return follow(stream, sample_rate_hz=rate_hz, frame_rate_hz=config.video.frame_rate_hz, limits=limits)


if __name__ == "__main__":
    main()
