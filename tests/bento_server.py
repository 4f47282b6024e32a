"""A bento of a champion as `affect bento build` makes it, and `bentoml serve` of it, away from the checkout."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.registry import Registry, Release
from components.storage import Storage
from flows.processes import free_ports
from tests.bundles import write_bundle
from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Built:
    """A bento of a champion, where it was built.

    Attributes:
        told: what `affect bento build --json` printed.
        champion: its record in the release log.
        environment: in which its store is BentoML's.
    """

    told: dict[str, Any]
    champion: Release
    bundle: Path
    store: Path
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        """The bento's own folder in BentoML's store."""
        return self.store / "bentos" / str(self.told["bento"]).replace(":", "/")


def build(home: Path, store: Path, bundle: Path | None = None) -> Built:
    """Release a bundle (one with random weights when none is given) twice, and build its bento into a BentoML store."""
    registry = Registry(Storage(str(home / "store")))
    name = registry.store_bundle(bundle or write_bundle(home / "bundle", seed=0))
    first = Release(kind="promotion", bundle=name, version=name.rsplit("/", 1)[-1], commit="abc1234")
    registry.append(first)
    registry.append(first)
    return build_champion(home, store)


def build_champion(home: Path, store: Path) -> Built:
    """Build the bento of what was released last on the platform of a home folder."""
    champion = Registry(Storage(str(home / "store"))).champion()
    assert champion is not None
    environment = {
        **os.environ,
        "AFFECT_HOME": str(home),
        "BENTOML_HOME": str(store),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = affect(environment, "bento", "build", "--json")
    assert done.returncode == 0, done.stderr
    return Built(json.loads(done.stdout), champion, home / "store" / champion.bundle, store, environment)


@contextlib.contextmanager
def serve(built: Built, away: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server of the bento that works in the folder `away`, and the server."""
    [port] = free_ports(1, "127.0.0.1")
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        built.told["bento"],
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    # Without the checkout: the bento brings its own code.
    environment = {name: value for name, value in built.environment.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(command, env=environment, cwd=away, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait(timeout=60)


def affect(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `affect ARGUMENTS` of the checkout."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, "bentoml serve has ended"
        try:
            if httpx.get(f"{url}/v1/model").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail("bentoml serve did not answer in 180 s")
