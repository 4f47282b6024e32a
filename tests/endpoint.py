"""A real server on loopback around the app, for the tests of the HTTP contract."""

from __future__ import annotations

import atexit
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import uvicorn

from serving.app import Live, create_app
from serving.decoding import Decoders
from serving.engine import MAX_CLIPS
from serving.keys import Keys
from serving.prediction import Limits
from serving.sampling import Sampling
from serving.schema import Problem
from serving.stream_route import StreamLimits

LIMITS = Limits(max_bytes=2_000_000, max_characters=500)


@functools.cache
def decoders() -> Decoders:
    """Warm decoding processes for all servers of these tests, to their end."""
    pool = Decoders()
    pool.start()
    atexit.register(pool.close)
    return pool


@dataclass
class Endpoint:
    """A running server and what it serves, which a test may swap."""

    live: Live = field(default_factory=Live)
    url: str = ""
    keys: Callable[[], Keys] = Keys

    def provide(self) -> Live:
        return self.live


@contextlib.contextmanager
def serve(
    endpoint: Endpoint,
    *,
    limits: Limits = LIMITS,
    max_clips: int = MAX_CLIPS,
    streams: StreamLimits | None = None,
    sampling: Sampling | None = None,
    log_level: str = "critical",
) -> Iterator[Endpoint]:
    """Carry the app with uvicorn on a free port until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(
        endpoint.provide,
        limits=limits,
        max_clips=max_clips,
        stream_limits=streams,
        keys=endpoint.keys,
        sampling=sampling,
        decoders=decoders(),
    )
    # What is logged goes to the root, where a test may look at it.
    config = uvicorn.Config(app, log_config=None, log_level=log_level, ws="websockets-sansio")
    server = uvicorn.Server(config)
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


def problem_of(answer: httpx.Response, code: str) -> Problem:
    """The problem that an answer is, which must be of this kind."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = Problem.model_validate_json(answer.content)
    assert problem.type == f"urn:affect:problem:{code}", problem
    assert problem.status == answer.status_code
    assert problem.instance == f"urn:affect:request:{answer.headers['x-request-id']}"
    assert "\n" not in problem.detail
    return problem
