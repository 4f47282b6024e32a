"""What an endpoint answers to callers who mean no good: a problem that is theirs, and the next caller is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from serving.app import Live
from serving.problems import PREFIX
from serving.runtime import Runtime
from serving.schema import ClassAnswer, Problem
from tests.bundles import write_bundle
from tests.endpoint import LIMITS, Endpoint, decoders, problem_of, serve
from tests.hostile_files import recordings

RECORDINGS = list(recordings())
# Beyond what a warm endpoint with its decoders holds: the limits of a request and of one decoder, and slack.
_GROWTH_BYTES = 400_000_000


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    runtime = Runtime(write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0), limits=LIMITS)
    with serve(Endpoint(Live(runtime))) as running:
        yield running


@pytest.fixture(scope="module")
def http(endpoint: Endpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, timeout=60.0) as client:
        yield client


@pytest.fixture(autouse=True)
def _is_served_afterwards(http: httpx.Client) -> Iterator[None]:
    yield
    assert http.post("/v1/emotion", json={"text": "we saw the door"}).status_code == 200


def _within_a_second(http: httpx.Client, **request: Any) -> httpx.Response:
    """The answer, which is there within a second; on a machine that does other things at least the next time."""
    answers = []
    for _ in range(3):
        answers.append(http.post("/v1/emotion", **request))
        if answers[-1].elapsed.total_seconds() < 1:
            return answers[-1]
    pytest.fail(f"{[answer.elapsed.total_seconds() for answer in answers]} s for an answer {answers[-1].status_code}")


@pytest.mark.parametrize(("content", "code"), [each[1:] for each in RECORDINGS], ids=[each[0] for each in RECORDINGS])
@pytest.mark.parametrize("field", ["audio", "video"])
def test_a_recording(http: httpx.Client, field: str, content: bytes, code: str | None) -> None:
    """What is neither is refused under both names; what is one of them must not be taken for the other."""
    answer = _within_a_second(http, files={field: ("clip", content)})
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert code is None
        ClassAnswer.model_validate_json(answer.content)
        return
    told = Problem.model_validate_json(answer.content).type.removeprefix(PREFIX)
    # A picture sent as sound is one without sound, whatever else it is.
    assert told in {code or "nothing-usable", "no-audio" if field == "audio" else "no-video"}


def test_all_of_them_leave_no_memory_and_no_descriptor_behind(http: httpx.Client) -> None:
    def held() -> tuple[int, int]:
        processes = [psutil.Process(), *map(psutil.Process, decoders().process_ids)]
        return sum(each.memory_info().rss for each in processes), psutil.Process().num_fds()

    def all_of_them() -> None:
        for _, content, _ in RECORDINGS:
            http.post("/v1/emotion", files={"video": ("clip", content)})

    all_of_them()
    memory_bytes, num_descriptors = held()
    for _ in range(3):
        all_of_them()
    after_bytes, num_after = held()
    assert after_bytes - memory_bytes < _GROWTH_BYTES
    assert num_after <= num_descriptors + 2


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"text": "' + b"a" * 1_000_000 + b'"}', "application/json"),
        (b'{"text": "\\ud800"}', "application/json"),
        (b'{"text": "a\\u0000b"}', "application/json"),
        (b'{"a":' * 100_000, "application/json"),
        (b"[" * 100_000 + b"]" * 100_000, "application/json"),
        (b'{"text": 1e400}', "application/json"),
        (b"\xff\xfe\x00\x00", "application/json"),
        (b'{"text": "hi"}', "application/json; charset=utf-16"),
        (b"--b\r\n" * 5_000, "multipart/form-data; boundary=b"),
        (b"--b\r\n" + b"X: y\r\n" * 20_000, "multipart/form-data; boundary=b"),
        (b"x" * 1_000, "multipart/form-data; boundary=" + "b" * 5_000),
        (b"x", "multipart/form-data; boundary="),
        (b"x", "multipart/form-data; boundary=\x22\x22"),
        (b'--b\r\nContent-Disposition: form-data; name="audio"; filename="../../etc/passwd"\r\n\r\nx\r\n--b--\r\n', (
            "multipart/form-data; boundary=b"
        )),
        (b'--b\r\nContent-Disposition: form-data; name="text"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n+AGE-'
         b"\r\n--b--\r\n", "multipart/form-data; boundary=b; charset=utf-7"),
        (b"\x1f\x8b\x08\x00", "application/gzip"),
    ],
)  # fmt: skip
def test_a_body(http: httpx.Client, body: bytes, kind: str) -> None:
    answer = _within_a_second(http, content=body, headers={"content-type": kind})
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_compressed_body_is_not_unpacked(http: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = http.post("/v1/emotion", content=b"\x1f\x8b\x08\x00" + bytes(100), headers=headers)
    problem_of(answer, "malformed")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 500\r\n\r\n{}",
        b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 300_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /static/../../pyproject.toml HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /static/%2e%2e/%2e%2e/pyproject.toml HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/model HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x0bb\r\n\r\n",
        b"GET /v1/model HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 1_000,
    ],
)
def test_a_head(endpoint: Endpoint, head: bytes) -> None:
    """Raw bytes, as no client library would send them."""
    host, port = endpoint.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)
        except ConnectionError:
            return
    status = answer.split(b" ", 2)[1] if answer else b"closed"
    assert status == b"closed" or b"400" <= status < b"500", answer[:200]
    assert b"root:" not in answer
    assert b"[project]" not in answer


def test_nothing_of_an_upload_touches_the_disk(http: httpx.Client) -> None:
    """Neither this process nor a decoder holds a file that it could have written an upload to."""
    largest = max((content for _, content, _ in RECORDINGS), key=len)
    processes = [psutil.Process(), *map(psutil.Process, decoders().process_ids)]
    before = [{each.path for each in process.open_files()} for process in processes]
    written = [process.io_counters().write_chars for process in processes[1:]]
    http.post("/v1/emotion", files={"video": ("clip", largest)})
    assert [{each.path for each in process.open_files()} for process in processes] == before
    # A decoder writes its answer to the server, which for what is refused is a line.
    after = [process.io_counters().write_chars for process in processes[1:]]
    assert sum(after) - sum(written) < 100_000
