"""A Ray that is not where the settings say: told at once, with the remedy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import ray

from components.stage import TRANSIENT_STATUS
from tests.conftest import REPOSITORY

CONNECT = "from components import compute; from components.stage import run_stage; run_stage(compute.connect)"


def refused(address: str, **environment: str) -> str:
    """What a stage says that cannot connect there."""
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        env={**os.environ, **environment, "AFFECT_RAY_ADDRESS": address},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # A failure that may pass: asked again later, it may connect.
    assert done.returncode == TRANSIENT_STATUS
    [line] = done.stderr.splitlines()
    return line


def test_where_nothing_listens_the_platform_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert f"no Ray answers at 127.0.0.1:{port}: start the platform with `affect up`" in refused(f"127.0.0.1:{port}")
    assert "no Ray answers at nonsense" in refused("nonsense")


def test_a_ray_on_loopback_alone_is_not_looked_for_elsewhere() -> None:
    outward: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray has no types here
    if outward.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0" in refused(address, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1")
