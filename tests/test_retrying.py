"""Asking again over real sockets: until there is an answer, patience ends, or there is no use."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from serving.client import Client, ServingError
from serving.live import Live
from serving.retrying import Retrying
from serving.runtime import Runtime
from tests.bundles import requests, write_bundle
from tests.endpoint import Endpoint, serve

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
FOR_LONG = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
FOR_GOOD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
HANGS_UP = b""


@contextlib.contextmanager
def scripted(answers: Sequence[bytes]) -> Iterator[str]:
    """A server that gives one connection after the other its answer, and is gone after the last."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        for each in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(each)
        listener.close()

    thread = threading.Thread(target=answer)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(60)
    assert not thread.is_alive(), "the server was asked less often than it had answers"


def _ask(url: str, *, patience_s: float) -> httpx.Response:
    with httpx.Client(transport=Retrying(patience_s=patience_s), timeout=60.0) as http:
        return http.post(url, files={"audio": b"a sound"})


def test_it_asks_again_until_it_is_answered() -> None:
    with scripted([HANGS_UP, BUSY, HANGS_UP, BUSY, ANSWER]) as url:
        assert _ask(url, patience_s=60).text == "ok"


@pytest.mark.parametrize("answer", [FOR_LONG, FOR_GOOD])
def test_it_does_not_wait_beyond_its_patience_or_for_what_does_not_pass(answer: bytes) -> None:
    with scripted([answer]) as url:
        assert _ask(url, patience_s=60).status_code == 503


def test_without_patience_it_asks_once() -> None:
    with scripted([BUSY]) as url:
        assert _ask(url, patience_s=0).status_code == 429
    with scripted([HANGS_UP]) as url, pytest.raises(httpx.RemoteProtocolError):
        _ask(url, patience_s=0)


def test_patient_callers_of_an_overloaded_endpoint_are_all_answered(tmp_path: Path) -> None:
    runtime = Runtime(write_bundle(tmp_path / "bundle", seed=0))
    face = requests()[1].video
    answered, refused = [], []
    with serve(Endpoint(Live(runtime)), max_clips=1) as busy:

        def ask(patience_s: float) -> None:
            with Client(busy.url, patience_s=patience_s) as client:
                for _ in range(2):
                    try:
                        answered.append((patience_s, client.predict(face)))
                    except ServingError as error:
                        refused.append((patience_s, error.problem))

        callers = [threading.Thread(target=ask, args=(patience_s,)) for patience_s in (0, 0, 0, 300, 300, 300)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len([patience_s for patience_s, _ in answered if patience_s]) == 6
    for patience_s, problem in refused:
        assert patience_s == 0
        assert problem is not None
        assert problem.type == "urn:affect:problem:overloaded"
