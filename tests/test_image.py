"""The image of the bento: its containerfile builds, and a container keeps the contract. `make test-image` runs this.

It takes minutes and installs packages, so `make test` leaves it out. Where python:3.11-slim cannot be pulled, a folder
of Debian 12 can stand for it: `debootstrap --include=python3,python3-venv,python3-pip,ca-certificates bookworm root`,
remove `usr/lib/python3.11/EXTERNALLY-MANAGED` in it, and `tar -C root -c . | podman import - NAME` with the name that
tests/podman.py has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from flows.processes import free_ports
from serving.keys import new_key, to_text
from tests import bento_server, contract
from tests.bento_server import Built
from tests.bundles import requests
from tests.podman import BUILD_OPTIONS, container, logs, needs_podman, new_name, podman, size_of, wait

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600), needs_podman]


@dataclass(frozen=True)
class Image:
    """An image of a bento, in podman's store."""

    name: str
    built: Built


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    built = bento_server.build(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("bento"))
    name = f"localhost/{new_name()}"
    begin_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "containerize", built.told["bento"], "--backend=podman", "-t", name]
        + [f"--opt={option}" for option in BUILD_OPTIONS],
        env=built.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # BentoML ends well even when podman does not.
    assert podman("image", "exists", name).returncode == 0, (done.stdout + done.stderr)[-3_000:]
    print(f"image of {size_of(name) / 1e9:.2f} GB, built in {time.monotonic() - begin_s:.0f} s")
    yield Image(name, built)
    podman("rmi", "--force", name)


def test_a_container_keeps_the_contract(image: Image, tmp_path: Path) -> None:
    clip, content, [port] = tmp_path / "clip.mp4", requests()[1].video, free_ports(1, "127.0.0.1")
    assert content is not None
    clip.write_bytes(content)
    with container(image.name, "serve", "--host=127.0.0.1", f"--port={port}") as name:
        seconds = wait(name, f"http://127.0.0.1:{port}/healthz")
        contract.check(f"http://127.0.0.1:{port}", image.built.bundle, clip, release=2)
        assert re.match(r"uid=\d{4}\(bentoml\)", podman("exec", name, "id").stdout)
        assert "Warning" not in logs(name)
    print(f"a container answers {seconds:.1f} s after its start")


def test_a_container_needs_keys_and_takes_them_as_a_secret(image: Image) -> None:
    with container(image.name) as name:
        assert int(podman("wait", name).stdout) != 0
        assert "AFFECT_API_KEYS" in logs(name)
    (key, kept), [port] = new_key("anna"), free_ports(1, "127.0.0.1")
    secret = (f"--env=AFFECT_API_KEYS={to_text([kept])}",)
    with container(image.name, "serve", f"--port={port}", options=secret) as name:
        url = f"http://127.0.0.1:{port}"
        wait(name, f"{url}/healthz")
        assert httpx.get(f"{url}/v1/model", timeout=60.0).status_code == 401
        known = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/v1/emotion", json={"text": "we saw the door"}, headers=known, timeout=60.0)
        assert answer.status_code == 200, answer.text
        assert key not in logs(name)
