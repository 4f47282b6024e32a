"""Callers of a real Ray Serve when things go wrong: swaps, too much load, a killed replica, bad connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from components.settings import Settings
from serving.client import Client, ServingError
from serving.deploy import deploy
from serving.engine import MAX_CLIPS
from serving.prediction import ClassPrediction, Request
from serving.runtime import Runtime
from serving.schema import ClassAnswer, Problem
from tests.bundles import class_predictions, of_classes, requests, write_bundle
from tests.ray_endpoint import Load, replicas, withdraw

pytestmark = pytest.mark.slow

NUM_REPLICAS = 2
# Descriptors that a process may hold beyond those before: connections that are kept open for the next request.
SPARE_DESCRIPTORS = 50


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(folder / name, seed=seed) for seed, name in enumerate("AB")}


@pytest.fixture(scope="module")
def expected(bundles: dict[str, Path]) -> dict[str, ClassPrediction]:
    """What each version makes of the video, by version."""
    answers = [class_predictions(Runtime(folder), [Request(video=_video())])[0] for folder in bundles.values()]
    return {answer.version: answer for answer in answers}


@pytest.fixture(scope="module")
def here(ray_node: Settings, bundles: dict[str, Path]) -> Iterator[Settings]:
    """An endpoint of two replicas."""
    deploy(str(bundles["A"]), 1, here=ray_node, num_replicas=NUM_REPLICAS, deadline_s=300)
    _wait_for_replicas(ray_node)
    yield ray_node
    withdraw(ray_node)


def _video() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def _wait_for_replicas(here: Settings, *, without: int = 0) -> None:
    """Until all replicas answer, and the process `without` is none of them."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = replicas(here)
        if len(found) == NUM_REPLICAS and without not in found:
            return
        time.sleep(0.2)
    pytest.fail(f"there are not {NUM_REPLICAS} replicas after 300 s")


def _post(here: Settings) -> httpx.Response:
    return httpx.post(f"{here.endpoint_url}/v1/emotion", files={"video": _video()}, timeout=120.0)


def test_a_swap_and_a_rollback_under_load_fail_no_request_and_mix_no_answer(
    here: Settings, bundles: dict[str, Path], expected: dict[str, ClassPrediction]
) -> None:
    with Load(here, _video()) as load:
        load.wait_for(5)
        for release, name in ((2, "B"), (3, "A")):
            deploy(str(bundles[name]), release, here=here, num_replicas=NUM_REPLICAS, deadline_s=300)
            load.wait_for(10)
    assert load.failures == []
    assert {answer.model.release for answer in load.answers} == {1, 2, 3}
    versions = {1: Runtime(bundles["A"]).version, 2: Runtime(bundles["B"]).version, 3: Runtime(bundles["A"]).version}
    for answer in load.answers:
        assert answer.model.version == versions[answer.model.release]
        assert answer.probabilities == pytest.approx(expected[answer.model.version].probabilities, abs=1e-5)


def test_beyond_the_limit_callers_are_told_when_to_come_again_and_the_others_are_answered(
    here: Settings, expected: dict[str, ClassPrediction]
) -> None:
    full = asyncio.run(_ask(here, NUM_REPLICAS * MAX_CLIPS))
    # Twice what it can do.
    beyond = asyncio.run(_ask(here, 200, every_s=max(wait_s for _, wait_s in full) / len(full) / 2))
    answers = [answer for answer, _ in (*full, *beyond, *asyncio.run(_ask(here, 200)))]
    judged = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    # Who is let in waits for as many others as may be let in, and not for those who are not.
    waited_s = [
        statistics.median(wait_s for answer, wait_s in asked if answer.status_code == 200) for asked in (full, beyond)
    ]
    assert waited_s[1] < 3 * waited_s[0] + 1, waited_s
    for answer in judged:
        found = ClassAnswer.model_validate_json(answer.content)
        assert found.probabilities == pytest.approx(expected[found.model.version].probabilities, abs=1e-5)
    for answer in refused:
        assert Problem.model_validate_json(answer.content).type == "urn:affect:problem:overloaded", answer.text
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
    # Recovered: nothing is left over from those who were refused.
    begin_s = time.monotonic()
    assert _post(here).status_code == 200
    assert time.monotonic() - begin_s < 5


async def _ask(here: Settings, number: int, *, every_s: float = 0.0) -> list[tuple[httpx.Response, float]]:
    """The answers to so many requests, which do not wait for each other, and how many seconds each took."""

    async def ask(http: httpx.AsyncClient, after_s: float) -> tuple[httpx.Response, float]:
        await asyncio.sleep(after_s)
        begin_s = time.monotonic()
        answer = await http.post(f"{here.endpoint_url}/v1/emotion", files={"video": _video()})
        return answer, time.monotonic() - begin_s

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=300.0) as http:
        return await asyncio.gather(*(ask(http, place * every_s) for place in range(number)))


def test_a_killed_replica_fails_its_own_requests_alone_and_patient_callers_lose_none(here: Settings) -> None:
    lost: list[ServingError] = []
    answered: list[ClassAnswer] = []
    stop = threading.Event()

    def ask_patiently() -> None:
        with Client(here.endpoint_url, patience_s=300) as client:
            while not stop.is_set():
                try:
                    answered.append(of_classes(client.predict(_video())))
                except ServingError as error:
                    lost.append(error)

    patient = [threading.Thread(target=ask_patiently) for _ in range(4)]
    killed = replicas(here)[0]
    with Load(here, _video()) as load:
        for thread in patient:
            thread.start()
        try:
            load.wait_for(5)
            psutil.Process(killed).kill()
            _wait_for_replicas(here, without=killed)
            load.wait_for(5)
        finally:
            stop.set()
            for thread in patient:
                thread.join()
    assert lost == []
    assert answered
    # One request at a time a caller: no more can have been in the replica that was killed.
    assert len(load.failures) <= len(load.threads)
    for failure in load.failures:
        problem = Problem.model_validate_json(failure)
        assert (problem.status, problem.type) == (503, "urn:affect:problem:interrupted")
    assert _post(here).status_code == 200


def test_slow_and_broken_connections_leave_nothing_behind(here: Settings) -> None:
    serving = _settled(here)
    before = {each.pid: each.num_fds() for each in serving}
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    num_sockets = min(10_000, most - 500)
    memory_bytes: list[int] = []
    for _ in range(2):
        _disturb(here, num_sockets)
        _wait_until_closed(before)
        memory_bytes.append(sum(each.memory_info().rss for each in serving))
    assert {each.pid for each in _serving_processes(here)} == {each.pid for each in serving}
    # What the first round left is what the processes keep for the next one.
    assert memory_bytes[1] - memory_bytes[0] < 50_000_000
    text = httpx.get(f"{here.endpoint_url}/metrics", timeout=60.0).text
    assert "affect_clips_admitted 0.0" in text
    assert "affect_queue_clips 0.0" in text


def _disturb(here: Settings, num_sockets: int) -> None:
    """Hold sockets that send nothing, half a head, half a body, or a whole request that nobody waits for."""
    request = httpx.Request("POST", f"{here.endpoint_url}/v1/emotion", files={"video": _video()})
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    whole = f"POST /v1/emotion HTTP/1.1\r\n{head}\r\n".encode() + body
    with contextlib.ExitStack() as held:
        for number in range(num_sockets):
            # From a few addresses of this machine: a single one has too few ports for so many, twice.
            source = (f"127.0.0.{2 + number % 8}", 0)
            address = (here.host, here.serve_port)
            connection = held.enter_context(socket.create_connection(address, timeout=60, source_address=source))
            if number % 10:
                # Reset at the end: ports that linger for a minute would be missing to what is started next.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 10 == 0:
                connection.sendall(whole[:20])
            elif number % 100 == 1:
                connection.sendall(whole[: len(whole) // 2])
            elif number % 200 == 2:
                connection.sendall(whole)
                connection.shutdown(socket.SHUT_WR)
        assert _post(here).status_code == 200, "an ordinary caller is answered beside them"


def _serving_processes(here: Settings) -> list[psutil.Process]:
    """The replicas, and Ray Serve's proxy, which holds the callers' sockets."""
    listening = [
        each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (here.serve_port,) and each.pid
    ]
    return [psutil.Process(pid) for pid in sorted({*listening, *replicas(here)})]


def _settled(here: Settings) -> list[psutil.Process]:
    """The same, once HAProxy has not been started anew for some seconds: it is at each change of the replicas."""
    found, since = _serving_processes(here), time.monotonic()
    while time.monotonic() < since + 3:
        time.sleep(0.2)
        again = _serving_processes(here)
        if again != found:
            found, since = again, time.monotonic()
    return found


def _wait_until_closed(before: dict[int, int]) -> None:
    deadline = time.monotonic() + 300
    open_now: dict[int, int] = {}
    while time.monotonic() < deadline:
        open_now = {pid: psutil.Process(pid).num_fds() for pid in before}
        if all(open_now[pid] <= number + SPARE_DESCRIPTORS for pid, number in before.items()):
            return
        time.sleep(0.2)
    pytest.fail(f"descriptors before {before} and 300 s after: {open_now}")
