"""Images and containers by podman, for the tests that build one."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import pytest

BASE: Final = "docker.io/library/python:3.11-slim"
# As a build needs them where a container cannot have all of the machine.
BUILD_OPTIONS: Final = ("isolation=chroot", "network=host", "ulimit=nofile=1024:1024")
_LIMITS: Final = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
_PODMAN: Final = shutil.which("podman")
_RUNC: Final = shutil.which("runc", path="/usr/sbin:/usr/bin")
_START_S: Final = 120.0


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `podman ARGUMENTS`, whatever comes of it."""
    # crun wants more of the machine than the inside of a container may give.
    runtime = ["--runtime", _RUNC] if _RUNC else []
    return subprocess.run(["podman", *runtime, *arguments], capture_output=True, text=True, check=False)


needs_podman = pytest.mark.skipif(
    _PODMAN is None or podman("image", "exists", BASE).returncode != 0,
    reason=f"there is no podman with {BASE}: `apt-get install podman runc` and `podman pull {BASE}`",
)


def new_name() -> str:
    """A name for an image or a container, which no other has."""
    return f"affect-test-{uuid.uuid4().hex[:8]}"


def size_of(image: str) -> int:
    """Bytes of an image with its base, unpacked."""
    return int(podman("image", "inspect", "--format={{.Size}}", image).stdout)


@contextmanager
def container(image: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """The name of a container that runs in this machine's network for as long as the block."""
    name = new_name()
    started = podman("run", "--detach", f"--name={name}", "--network=host", *_LIMITS, *options, image, *command)
    assert started.returncode == 0, started.stderr
    try:
        yield name
    finally:
        podman("rm", "--force", "--time=20", name)


def run(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """What a container says until it ends, which must be well."""
    ended = podman("run", "--rm", "--network=host", *_LIMITS, *options, image, *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def logs(name: str) -> str:
    """All that a container has said."""
    told = podman("logs", name)
    return told.stdout + told.stderr


def wait(name: str, url: str) -> float:
    """Seconds until a container answers at this address."""
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < _START_S:
        assert podman("inspect", "--format={{.State.Running}}", name).stdout.strip() == "true", logs(name)
        try:
            if httpx.get(url).status_code == 200:
                return time.monotonic() - begin_s
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"the container did not answer in {_START_S:g} s: {logs(name)[-3_000:]}")
