"""The image of the bento: its containerfile builds, and a container keeps the contract. `make test-image` runs this.

It takes minutes and installs packages, so `make test` leaves it out. Where python:3.11-slim cannot be pulled, a folder
of Debian 12 can stand for it: `debootstrap --include=python3,python3-venv,python3-pip,ca-certificates bookworm root`,
remove `usr/lib/python3.11/EXTERNALLY-MANAGED` in it, and `tar -C root -c . | podman import - NAME` with the name below.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests import bento_server, contract
from tests.bento_server import Built
from tests.bundles import requests

_BASE: Final = "docker.io/library/python:3.11-slim"
_PODMAN: Final = shutil.which("podman")
_RUNC: Final = shutil.which("runc", path="/usr/sbin:/usr/bin")
_START_S: Final = 120.0


def _podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    # crun wants more of the machine than the inside of a container may give.
    runtime = ["--runtime", _RUNC] if _RUNC else []
    return subprocess.run(["podman", *runtime, *arguments], capture_output=True, text=True, check=False)


pytestmark = [
    pytest.mark.image,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        _PODMAN is None or _podman("image", "exists", _BASE).returncode != 0,
        reason=f"there is no podman with {_BASE}: `apt-get install podman runc` and `podman pull {_BASE}`",
    ),
]


@dataclass(frozen=True)
class Image:
    """An image of a bento, in podman's store."""

    name: str
    built: Built


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    built = bento_server.build(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("bento"))
    name = f"localhost/affect-test-{uuid.uuid4().hex[:8]}"
    options = ("isolation=chroot", "network=host", "ulimit=nofile=1024:1024")
    begin_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "containerize", built.told["bento"], "--backend=podman", "-t", name]
        + [f"--opt={option}" for option in options],
        env=built.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # BentoML ends well even when podman does not.
    assert _podman("image", "exists", name).returncode == 0, (done.stdout + done.stderr)[-3_000:]
    size = int(_podman("image", "inspect", "--format={{.Size}}", name).stdout)
    print(f"image of {size / 1e9:.2f} GB, built in {time.monotonic() - begin_s:.0f} s")
    yield Image(name, built)
    _podman("rmi", "--force", name)


@contextmanager
def _container(image: Image, *arguments: str, environment: str = "") -> Iterator[str]:
    """The name of a container that runs in this machine's network."""
    name = f"affect-test-{uuid.uuid4().hex[:8]}"
    told = [f"--env={environment}"] if environment else []
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
    started = _podman("run", "--detach", f"--name={name}", "--network=host", *limits, *told, image.name, *arguments)
    assert started.returncode == 0, started.stderr
    try:
        yield name
    finally:
        _podman("rm", "--force", "--time=20", name)


def _logs(name: str) -> str:
    told = _podman("logs", name)
    return told.stdout + told.stderr


def _wait(name: str, url: str) -> float:
    """Seconds until the container answers."""
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < _START_S:
        assert _podman("inspect", "--format={{.State.Running}}", name).stdout.strip() == "true", _logs(name)
        try:
            httpx.get(f"{url}/healthz")
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        return time.monotonic() - begin_s
    pytest.fail(f"the container did not answer in {_START_S:g} s: {_logs(name)[-3_000:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_a_container_keeps_the_contract(image: Image, tmp_path: Path) -> None:
    clip, content, port = tmp_path / "clip.mp4", requests()[1].video, _free_port()
    assert content is not None
    clip.write_bytes(content)
    with _container(image, "serve", "--host=127.0.0.1", f"--port={port}") as name:
        seconds = _wait(name, f"http://127.0.0.1:{port}")
        contract.check(f"http://127.0.0.1:{port}", image.built.bundle, clip, release=2)
        assert re.match(r"uid=\d{4}\(bentoml\)", _podman("exec", name, "id").stdout)
        assert "Warning" not in _logs(name)
    print(f"a container answers {seconds:.1f} s after its start")


def test_a_container_needs_keys_and_takes_them_as_a_secret(image: Image) -> None:
    with _container(image) as name:
        assert int(_podman("wait", name).stdout) != 0
        assert "AFFECT_API_KEYS" in _logs(name)
    from serving.keys import new_key, to_text

    (key, kept), port = new_key("anna"), _free_port()
    with _container(image, "serve", f"--port={port}", environment=f"AFFECT_API_KEYS={to_text([kept])}") as name:
        url = f"http://127.0.0.1:{port}"
        _wait(name, url)
        assert httpx.get(f"{url}/v1/model").status_code == 401
        known = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/v1/emotion", json={"text": "we saw the door"}, headers=known, timeout=60.0)
        assert answer.status_code == 200, answer.text
        assert key not in _logs(name)
