"""A real server on loopback around the app, for the tests of the HTTP contract."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvicorn

from serving.app import Live, create_app
from serving.engine import MAX_CLIPS
from serving.prediction import Limits
from serving.stream_route import StreamLimits

LIMITS = Limits(max_bytes=2_000_000, max_characters=500)


@dataclass
class Endpoint:
    """A running server and what it serves, which a test may swap."""

    live: Live = field(default_factory=Live)
    url: str = ""

    def provide(self) -> Live:
        return self.live


@contextlib.contextmanager
def serve(
    endpoint: Endpoint, *, limits: Limits = LIMITS, max_clips: int = MAX_CLIPS, streams: StreamLimits | None = None
) -> Iterator[Endpoint]:
    """Carry the app with uvicorn on a free port until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(endpoint.provide, limits=limits, max_clips=max_clips, stream_limits=streams)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        endpoint.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield endpoint
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
