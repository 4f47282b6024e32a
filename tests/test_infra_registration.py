"""What a worker does before it starts, on a real Prefect server: it registers the pool and the deployments."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.processes import free_ports
from tests.conftest import REPOSITORY
from tests.infra import job_template, needs_kubectl, of_kind

pytestmark = [needs_kubectl, pytest.mark.platform]

IMAGE = "registry.example.org/affect:1"


@contextlib.contextmanager
def _prefect_server(home: Path) -> Iterator[dict[str, str]]:
    """The environment of clients of a server that lives as long as the block."""
    [port] = free_ports(1, "127.0.0.1")
    address = f"http://127.0.0.1:{port}/api"
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PREFECT_API_URL": address,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-services"]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"{address}/health"):
            assert server.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < deadline, "the Prefect server does not answer"
            time.sleep(0.1)
        yield environment
    finally:
        server.terminate()
        server.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def test_pool_and_deployments_are_registered(tmp_path: Path) -> None:
    worker = of_kind("cpu-small", "Deployment")["prefect-worker"]["spec"]["template"]["spec"]
    (tmp_path / "base-job-template.json").write_text(json.dumps(job_template("cpu-small")))
    with _prefect_server(tmp_path) as environment:
        for container in worker["initContainers"][:2]:
            command = [*container["command"], *container.get("args", [])]
            command = [each.replace("/etc/prefect", str(tmp_path)).replace("$(IMAGE)", IMAGE) for each in command]
            subprocess.run(command, env=environment, cwd=REPOSITORY, check=True)
        with SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
            pool = client.read_work_pool("affect")
            assert (pool.type, pool.base_job_template) == ("kubernetes", job_template("cpu-small"))
            for name in ("retrain/retrain", "study/study"):
                deployment = client.read_deployment_by_name(name)
                assert deployment.work_pool_name == "affect"
                assert deployment.job_variables["image"] == IMAGE
                assert deployment.job_variables["memory_limit"] == "6Gi"
                # The code is where the image's processes start.
                assert (deployment.path, deployment.pull_steps) in ((".", None), (".", []))
