"""A long-lived Ray of its own for the tests of the endpoint on it, and callers that load it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from components.settings import Settings
from flows.processes import free_ports
from serving import serve_haproxy, serve_proxy
from serving.deploy import DeployError, endpoint_status
from serving.schema import ClassAnswer

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
    "fallback",
)


def start_head(ports: Mapping[str, int]) -> list[str]:
    """What `ray` is told to be a whole small cluster on the loopback address, for as long as the process lives."""
    return [
        *("start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2"),
        *("--object-store-memory=104857600", "--include-log-monitor=false", "--disable-usage-stats"),
        *(f"--{name}={port}" for name, port in ports.items()),
    ]


@contextlib.contextmanager
def running_ray() -> Iterator[Settings]:
    """Settings of a Ray of its own, started as `affect up` does it: `ray start --head`, alone in its process group."""
    # Ray puts sockets below its folder: pytest's own temporary folders are too deep for them.
    folder = Path(tempfile.mkdtemp(prefix="affect-", dir="/tmp"))
    ports = dict(zip(PORTS, free_ports(len(PORTS), "127.0.0.1"), strict=True))
    serve_port, fallback_port = ports.pop("serve"), ports.pop("fallback")
    command = [str(Path(sys.executable).with_name("ray")), *start_head(ports), f"--temp-dir={folder / 'ray'}"]
    log = folder / "ray.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **serve_proxy.ENVIRONMENT, **serve_haproxy.environment(folder, fallback_port)},
        )
    settings = Settings(
        home=folder / "home",
        ray_address=f"127.0.0.1:{ports['port']}",
        dashboard_port=ports["dashboard-port"],
        serve_port=serve_port,
    )
    try:
        _wait_for_dashboard(settings, process, log)
        yield settings
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_dashboard(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ray start has ended: {log.read_text()[-2000:]}"
        try:
            endpoint_status(settings)
        except DeployError:
            time.sleep(0.2)
            continue
        return
    pytest.fail("Ray's dashboard did not answer in 400 s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End this Ray and every process that it started, and nobody else's."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        if member.is_running():
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=3)
    for member in alive:
        member.kill()
    process.wait()


def withdraw(here: Settings) -> None:
    """Take the endpoint off this Ray: its replicas hold processors."""
    httpx.delete(f"{here.dashboard_url}/api/serve/applications/", timeout=60.0).raise_for_status()


def replicas(here: Settings) -> list[int]:
    """Process ids of the endpoint's replicas that take requests."""
    document = json.loads(httpx.get(f"{here.dashboard_url}/api/serve/applications/", timeout=60.0).content)
    found = document["applications"]["affect"]["deployments"]["endpoint"]["replicas"]
    return [each["pid"] for each in found if each["state"] == "RUNNING"]


class Load:
    """Two callers that ask without a pause while the block runs."""

    def __init__(self, here: Settings, video: bytes) -> None:
        self.url, self.video = f"{here.endpoint_url}/v1/emotion", video
        self.answers: list[ClassAnswer] = []
        self.failures: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> Load:
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
