"""The endpoint on a real, long-lived Ray: deployed before there is a model, swapped under load, kept when need be."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from components.settings import Settings
from serving.client import Client, ServingError
from serving.deploy import DeployError, deploy, endpoint_status, refuse_unknown, serve_config
from serving.prediction import Request
from serving.schema import ClassAnswer
from tests.bundles import class_predictions, requests, write_bundle

pytestmark = pytest.mark.slow

PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "serve",
)


@pytest.fixture(scope="module")
def here() -> Iterator[Settings]:
    """Settings of a Ray of its own, as `affect up` starts it: `ray start --head`, alone in its process group."""
    # Ray puts sockets below its folder: pytest's own temporary folders are too deep for them.
    folder = Path(tempfile.mkdtemp(prefix="affect-", dir="/tmp"))
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    serve_port = ports.pop("serve")
    command = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--num-cpus=2", "--object-store-memory=104857600"),
        *("--include-log-monitor=false", "--disable-usage-stats", f"--temp-dir={folder / 'ray'}"),
        *(f"--{name}={port}" for name, port in ports.items()),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    settings = Settings(home=folder / "home", dashboard_port=ports["dashboard-port"], serve_port=serve_port)
    try:
        _wait_for_dashboard(settings, process)
        yield settings
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(folder / name, seed=seed) for seed, name in enumerate("AB")}


@pytest.fixture(scope="module")
def video() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def _free_ports(num_ports: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_ports)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for_dashboard(settings: Settings, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start has ended"
        try:
            endpoint_status(settings)
        except DeployError:
            time.sleep(0.2)
            continue
        return
    pytest.fail("Ray's dashboard did not answer in 180 s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End this Ray and every process that it started, and nobody else's."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        if member.is_running():
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=3)
    for member in alive:
        member.kill()
    process.wait()


def test_an_endpoint_is_swapped_without_a_lost_or_mixed_answer(
    here: Settings, bundles: dict[str, Path], video: bytes
) -> None:
    """One story, in the order it happens on a platform: nothing yet, A, A to B under load, a broken one, back to A."""
    from serving.runtime import Runtime

    assert deploy("", 0, here=here) is None
    with Client(here.endpoint_url) as client, pytest.raises(ServingError, match="affect retrain") as refused:
        client.predict(video)
    assert refused.value.problem is not None
    assert refused.value.problem.status == 503

    card = deploy(str(bundles["A"]), 1, here=here)
    assert card is not None
    expected = {
        release: class_predictions(Runtime(bundles[name]), [Request(video=video)])[0]
        for release, name in ((1, "A"), (2, "B"))
    }
    assert card.version == expected[1].version
    [replica] = _replicas(here)

    with _Load(here, video) as load:
        load.wait_for(20)
        card = deploy(str(bundles["B"]), 2, here=here)
        load.wait_for(20)
    assert card is not None
    assert card.version == expected[2].version
    assert load.failures == []
    assert {answer.model.release for answer in load.answers} == {1, 2}
    for answer in load.answers:
        assert answer.model.version == expected[answer.model.release].version
        assert answer.probabilities == pytest.approx(expected[answer.model.release].probabilities, abs=1e-5)
    assert _replicas(here) == [replica], "a swap restarted the replica"

    broken = bundles["A"].parent / "broken"
    shutil.copytree(bundles["A"], broken)
    (broken / "model.safetensors").write_bytes(b"\0" * 1000)
    with _Load(here, video) as load:
        with pytest.raises(DeployError, match=rf"release 3: bundle {re.escape(str(broken))} cannot be served"):
            deploy(str(broken), 3, here=here)
        load.wait_for(5)
    assert load.failures == []
    assert {answer.model.release for answer in load.answers} == {2}
    assert _replicas(here) == [replica]

    card = deploy(str(bundles["A"]), 4, here=here)
    assert card is not None
    assert (card.version, card.release, card.refused) == (expected[1].version, 4, None)


def test_the_answer_carries_one_request_id(here: Settings) -> None:
    answer = httpx.get(f"{here.endpoint_url}/healthz", headers={"X-Request-ID": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_a_configuration_that_ray_would_misread_is_refused() -> None:
    config = serve_config("", 0, here=Settings())
    deployment = config["applications"][0]["deployments"][0]
    deployment["max_queued_request"] = 3
    with pytest.raises(ValueError, match=r"applications\[0\]\.deployments\[0\]\.max_queued_request"):
        refuse_unknown(config)
    del deployment["max_queued_request"]
    deployment["ray_actor_options"]["num_cpu"] = 1
    with pytest.raises(ValueError, match=r"ray_actor_options\.num_cpu"):
        refuse_unknown(config)


def test_without_a_ray_the_remedy_is_named() -> None:
    [port] = _free_ports(1)
    with pytest.raises(DeployError, match="affect up"):
        deploy("", 0, here=Settings(dashboard_port=port))


def test_the_app_is_light_to_import() -> None:
    """A replica without a model, and the process that only builds the application, do not load PyTorch."""
    code = "import sys, serving.ray_app, serving.client, serving.deploy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"


def _replicas(here: Settings) -> list[int]:
    document = json.loads(httpx.get(f"{here.dashboard_url}/api/serve/applications/").content)
    return [each["pid"] for each in document["applications"]["affect"]["deployments"]["endpoint"]["replicas"]]


class _Load:
    """Two callers that ask without a pause while the block runs."""

    def __init__(self, here: Settings, video: bytes) -> None:
        self.url, self.video = f"{here.endpoint_url}/v1/emotion", video
        self.answers: list[ClassAnswer] = []
        self.failures: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> _Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, num_answers: int) -> None:
        """Until that many more answers have come."""
        wanted, deadline = len(self.answers) + num_answers, time.monotonic() + 120
        while len(self.answers) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)

    def _ask(self) -> None:
        with httpx.Client(timeout=60.0) as http:
            while not self.stop.is_set():
                try:
                    answer = http.post(self.url, files={"video": self.video})
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answers.append(ClassAnswer.model_validate_json(answer.content))
                else:
                    self.failures.append(answer.text)
