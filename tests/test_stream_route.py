"""`WS /v1/stream` over a real server: estimates while the clip comes, and at its end the answer for its bytes."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import psutil
import pytest
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.connection import Connection

from components import media
from serving.app import Live
from serving.client import Client, ServingError
from serving.runtime import Runtime
from serving.schema import ClassAnswer, StreamEstimate, StreamEvent, StreamFinal, StreamProblem
from serving.stream_route import StreamLimits
from tests.bundles import of_classes, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, serve
from tests.webm import chunks

EVENT: TypeAdapter[StreamEstimate | StreamFinal | StreamProblem] = TypeAdapter(StreamEvent)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0), limits=LIMITS)


@pytest.fixture(scope="module")
def endpoint(runtime: Runtime) -> Iterator[Endpoint]:
    with serve(Endpoint(Live(runtime, release=3)), streams=StreamLimits(max_streams=2, idle_s=600.0)) as running:
        yield running


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    return chunks(_face(), duration_s=5.0)


def _face() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def _opened(endpoint: Endpoint) -> ClientConnection:
    return connect(f"{endpoint.url.replace('http', 'ws')}/v1/stream", open_timeout=60, close_timeout=60)


def _events(connection: Connection) -> Iterator[StreamEstimate | StreamFinal | StreamProblem]:
    try:
        while True:
            yield EVENT.validate_json(connection.recv(timeout=120))
    except ConnectionClosed:
        return


def _single(endpoint: Endpoint, *, text: str | None = None, **files: bytes) -> ClassAnswer:
    parts: dict[str, object] = {**files, **({"text": (None, text)} if text else {})}
    answer = httpx.post(f"{endpoint.url}/v1/emotion", files=parts, timeout=60)  # type: ignore[arg-type]  # httpx takes these, its stubs do not say so
    return ClassAnswer.model_validate_json(answer.content)


def _assert_same(final: object, single: ClassAnswer) -> None:
    assert isinstance(final, StreamFinal)
    answer = of_classes(final.answer)
    assert answer.probabilities == pytest.approx(single.probabilities, abs=1e-5)
    assert answer.contributions == pytest.approx(single.contributions, abs=1e-4)
    assert [(at.start_s, at.end_s) for at in answer.timeline] == [(at.start_s, at.end_s) for at in single.timeline]
    for moment, expected in zip(answer.timeline, single.timeline, strict=True):
        assert moment.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert (answer.model, answer.warnings) == (single.model, single.warnings)


def test_a_camera_is_estimated_while_it_runs_and_ends_in_the_answer_of_its_bytes(
    endpoint: Endpoint, recorded: list[bytes]
) -> None:
    with _opened(endpoint) as connection:
        estimates: list[StreamEstimate] = []
        for number, chunk in enumerate(recorded):
            connection.send(chunk)
            if number == 0:
                connection.send(json.dumps({"text": "we saw"}))
            if number in (4, 10):
                # As a camera does: no more until this much was understood.
                for event in _events(connection):
                    assert isinstance(event, StreamEstimate)
                    estimates.append(event)
                    if event.end_s >= number * 0.25 - 0.1:
                        break
        connection.send(json.dumps({"text": "we saw the door"}))
        connection.send(json.dumps({"end": True}))
        *more, final = _events(connection)
        assert connection.close_code == 1000
    for event in more:
        assert isinstance(event, StreamEstimate)
        estimates.append(event)
    _assert_same(final, _single(endpoint, video=b"".join(recorded), text="we saw the door"))
    assert [estimate.end_s for estimate in estimates] == sorted(estimate.end_s for estimate in estimates)
    seen = [estimate for estimate in estimates if estimate.end_s > 2]
    assert seen
    for estimate in seen:
        answer = of_classes(estimate.answer)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert set(answer.contributions) == {"audio", "video", "text"}
        assert answer.timeline[0].start_s == estimate.start_s


def test_a_window_of_a_stream_is_judged_nearly_as_the_finished_clip(endpoint: Endpoint) -> None:
    """The window knows the past alone, so the face may lie a little differently; the sound is the same to the bit."""
    with _opened(endpoint) as connection:
        connection.send(b"".join(chunks(_face(), duration_s=3.0, has_video=False)))
        last = next(
            event for event in _events(connection) if not isinstance(event, StreamEstimate) or event.end_s > 2.8
        )
        connection.send(json.dumps({"end": True}))
        *_, final = _events(connection)
    assert isinstance(last, StreamEstimate)
    assert isinstance(final, StreamFinal)
    assert of_classes(last.answer).probabilities == pytest.approx(of_classes(final.answer).probabilities, abs=0.05)


@pytest.mark.parametrize(("rate_hz", "num_channels"), [(16_000, 1), (44_100, 2)])
def test_samples_are_taken_without_a_container(endpoint: Endpoint, rate_hz: int, num_channels: int) -> None:
    waveform_T = media.decode(_face(), sample_rate_hz=rate_hz, frame_rate_hz=10, want=["audio"]).waveform_T
    assert waveform_T is not None
    samples = np.repeat((waveform_T * 32767).astype("<i2")[:, None], num_channels, axis=1).tobytes()
    with _opened(endpoint) as connection:
        connection.send(json.dumps({"format": "pcm16", "sample_rate_hz": rate_hz, "num_channels": num_channels}))
        # Of a size at which messages end in the middle of samples.
        for first in range(0, len(samples), 4_999):
            connection.send(samples[first : first + 4_999])
        estimate = next(_events(connection))
        connection.send(json.dumps({"end": True}))
        *_, final = _events(connection)
    assert isinstance(estimate, StreamEstimate)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(num_channels)
        written.setsampwidth(2)
        written.setframerate(rate_hz)
        written.writeframes(samples)
    _assert_same(final, _single(endpoint, audio=file.getvalue()))


def test_words_alone_are_a_stream_too(endpoint: Endpoint) -> None:
    with _opened(endpoint) as connection:
        connection.send(json.dumps({"text": "we saw the door"}))
        estimate = next(_events(connection))
        connection.send(json.dumps({"end": True}))
        [final] = _events(connection)
    expected = _single(endpoint, text="we saw the door")
    assert isinstance(estimate, StreamEstimate)
    assert of_classes(estimate.answer).probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    _assert_same(final, expected)


@pytest.mark.parametrize(
    ("messages", "code", "status"),
    [
        (["{"], "malformed", 400),
        (['{"text": 3}'], "malformed", 400),
        (['{"end": false}'], "malformed", 400),
        (['{"format": "pcm16", "sample_rate_hz": 1}'], "malformed", 400),
        (['{"text": "%s"}' % ("a" * 501)], "too-large", 413),
        ([b"\0" * 3_000_000], "too-large", 413),
        ([b"this is no recording" * 5_000], "not-media", 422),
        (['{"end": true}'], "no-modality", 422),
        ([b"RIFF", '{"format": "pcm16"}'], "wrong-field", 422),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    endpoint: Endpoint, messages: list[str | bytes], code: str, status: int
) -> None:
    with _opened(endpoint) as connection:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                connection.send(message)
        [problem] = _events(connection)
        assert isinstance(problem, StreamProblem)
        assert (problem.problem.type, problem.problem.status) == (f"urn:affect:problem:{code}", status)
        assert (connection.close_code, connection.close_reason) == (4000 + status, f"urn:affect:problem:{code}")


def test_a_stream_too_many_is_refused_and_its_place_is_free_again(endpoint: Endpoint) -> None:
    with _opened(endpoint) as first, _opened(endpoint) as second:
        for open_one in (first, second):
            open_one.send(json.dumps({"text": "we saw the door"}))
            assert isinstance(next(_events(open_one)), StreamEstimate)
        with _opened(endpoint) as third:
            [refused] = _events(third)
        assert isinstance(refused, StreamProblem)
        assert refused.problem.type == "urn:affect:problem:overloaded"
        first.send(json.dumps({"end": True}))
        *_, final = _events(first)
        assert isinstance(final, StreamFinal)
    with _opened(endpoint) as again:
        again.send(json.dumps({"text": "we saw the door"}))
        assert isinstance(next(_events(again)), StreamEstimate)


def test_a_stream_keeps_the_model_that_it_began_with(runtime: Runtime) -> None:
    with serve(Endpoint(Live(runtime, release=3))) as running, _opened(running) as connection:
        connection.send(json.dumps({"text": "we saw the door"}))
        first = next(_events(connection))
        running.live = Live(runtime, release=4)
        connection.send(json.dumps({"text": "we saw the red door"}))
        connection.send(json.dumps({"end": True}))
        events = [first, *_events(connection)]
        assert _single(running, text="we saw").model.release == 4
    assert isinstance(events[-1], StreamFinal)
    for event in events:
        assert isinstance(event, StreamEstimate | StreamFinal)
        assert event.answer.model.release == 3


def test_the_end_of_a_stream_is_answered_also_where_newcomers_are_refused(runtime: Runtime) -> None:
    refused, stop = threading.Event(), threading.Event()
    with serve(Endpoint(Live(runtime)), max_clips=1) as busy, _opened(busy) as connection:

        def ask() -> None:
            with httpx.Client(base_url=busy.url, timeout=60.0) as client:
                while not stop.is_set():
                    if client.post("/v1/emotion", files={"video": _face()}).status_code == 429:
                        refused.set()

        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            connection.send(json.dumps({"text": "we saw the door"}))
            assert refused.wait(60)
            connection.send(json.dumps({"end": True}))
            *_, final = _events(connection)
        finally:
            stop.set()
            for caller in callers:
                caller.join()
    assert isinstance(final, StreamFinal)


def _decoding() -> set[int]:
    """The processes that decode streams, or wait for one."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "serving.stream_worker" in child.cmdline():
                found.add(child.pid)
    return found


def _wait_for_processes(number: int) -> None:
    deadline = time.monotonic() + 60
    while len(_decoding()) != number:
        assert time.monotonic() < deadline, f"{len(_decoding())} processes instead of {number}"
        time.sleep(0.1)


def test_a_stream_takes_the_waiting_process_and_who_goes_away_leaves_none_but_the_next(
    endpoint: Endpoint, runtime: Runtime, recorded: list[bytes]
) -> None:
    others = 1  # the one of the endpoint of all tests here
    assert endpoint.url
    _wait_for_processes(others)
    with serve(Endpoint(Live(runtime))) as running:
        _wait_for_processes(others + 1)
        waiting = _decoding()
        with _opened(running) as connection:
            connection.send(recorded[0])
            connection.send(recorded[1])
            assert isinstance(next(_events(connection)), StreamEstimate)
            assert waiting <= _decoding()
            connection.socket.shutdown(socket.SHUT_RDWR)
        _wait_for_processes(others + 1)
        assert not waiting <= _decoding()
        # One that died while it waited costs nobody anything.
        killed = _decoding() - waiting
        for pid in killed:
            psutil.Process(pid).kill()
        while killed & _decoding():
            time.sleep(0.01)
        with _opened(running) as connection:
            connection.send(recorded[0])
            connection.send(recorded[1])
            assert isinstance(next(_events(connection)), StreamEstimate)
    _wait_for_processes(others)


def test_silence_on_the_line_ends_a_stream(runtime: Runtime) -> None:
    with (
        serve(Endpoint(Live(runtime)), streams=StreamLimits(idle_s=0.2)) as running,
        _opened(running) as connection,
    ):
        [problem] = _events(connection)
    assert isinstance(problem, StreamProblem)
    assert problem.problem.type == "urn:affect:problem:idle"


def test_a_longer_stream_than_a_clip_may_be_is_refused(runtime: Runtime, recorded: list[bytes]) -> None:
    limits = replace(LIMITS, max_duration_s=1.0)
    with serve(Endpoint(Live(runtime)), limits=limits) as running, _opened(running) as connection:
        connection.send(b"".join(recorded))
        *_, problem = _events(connection)
    assert isinstance(problem, StreamProblem)
    assert problem.problem.type == "urn:affect:problem:too-long"


def test_what_the_callers_own_iterator_raises_reaches_the_caller(endpoint: Endpoint) -> None:
    def broken() -> Iterator[str]:
        yield "we saw the door"
        raise OSError("no microphone")

    with Client(endpoint.url) as client, pytest.raises(OSError, match="no microphone"):
        list(client.stream(broken()))


def test_where_nothing_answers_the_client_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServingError, match="affect status"):
        list(client.stream(["hello"]))


def test_without_a_model_it_says_so() -> None:
    with serve(Endpoint()) as empty, _opened(empty) as connection:
        [problem] = _events(connection)
        assert isinstance(problem, StreamProblem)
        assert problem.problem.type == "urn:affect:problem:no-model"
        assert connection.close_code == 4503
