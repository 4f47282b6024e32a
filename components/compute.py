"""Connecting to Ray: the one place that calls `ray.init`."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import ray

from components import settings

_lock = threading.Lock()

# Longer than any network takes to say that it reached something.
_ANSWER_S = 5.0

_PACKAGE = "components"

# 200 MB hold the manifests and reports that pass through it: features and checkpoints go by file.
_OBJECT_STORE_BYTES = 200 * 1024 * 1024


def connect(code: Path | None = None) -> None:
    """Connect this process to the Ray named in the settings, or start a small one that ends with the process.

    Safe to call from several threads and more than once. Workers import the project from the folder `code`, or else
    from the one that this process runs in, so that a run uses the code of its own workspace. To other machines the
    code is sent, and each of them has its own places for what is local.

    Raises:
        ConnectionError: the named Ray does not answer.
    """
    here = settings.load()
    with _lock:
        if ray.is_initialized():
            return
        code = code or Path.cwd()
        runtime_env = {"env_vars": {"PYTHONPATH": str(code), **_stage_environment(here)}}
        if here.ray_address:
            _require_listener(here.ray_address)
            ray.init(address=here.ray_address, runtime_env=runtime_env)
            if num_nodes() > 1 and (code / _PACKAGE).is_dir():
                # An environment cannot be changed afterwards, and before nobody knows how many machines there are.
                ray.shutdown()
                ray.init(address=here.ray_address, runtime_env=_for_other_machines(code, here))
            return
        here.ray_folder.mkdir(parents=True, exist_ok=True)
        # A Ray of one process on loopback: its token would be written to the user's home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        for name, value in settings.NODE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        ray.init(
            num_cpus=max(2, os.cpu_count() or 2),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            runtime_env=runtime_env,
            _temp_dir=str(here.ray_folder),
        )


def num_cpus() -> int:
    """Processors that the connected Ray offers."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return max(1, int(resources.get("CPU", 1)))


def num_nodes() -> int:
    """Machines of the connected Ray."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types here
    return len([node for node in nodes if node["Alive"]])


def _require_listener(address: str) -> None:
    """Check that something answers where Ray will look: by itself it asks again for a quarter of an hour, silently.

    Raises:
        ConnectionError: nothing does, with what to do about it.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not _listens(host, port):
        raise ConnectionError(
            f"no Ray answers at {address}: start the platform with `affect up`, or unset AFFECT_RAY_ADDRESS to run "
            "without it"
        )
    # Ray takes a loopback address for the machine's outward one, where a Ray of `affect up` does not listen.
    outward: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray has no types here
    if host in {"127.0.0.1", "localhost"} and not _listens(outward, port):
        raise ConnectionError(
            f"the Ray at {address} listens on this address alone, and Ray would look for it at another: set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, as `affect up` does for what it starts"
        )


def _listens(host: str, port: str) -> bool:
    try:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _for_other_machines(code: Path, here: settings.Settings) -> dict[str, Any]:
    """A runtime environment without what only this machine has."""
    variables = {name: value for name, value in _stage_environment(here).items() if name not in settings.OF_A_MACHINE}
    return {"py_modules": [str(code / _PACKAGE)], "env_vars": {"PYTHONPATH": str(code), **variables}}


def _stage_environment(here: settings.Settings) -> dict[str, str]:
    # Ray Train changes its workers' folder by default; the stages' paths are relative to the workspace.
    return {**here.environment(), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
