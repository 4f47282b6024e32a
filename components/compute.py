"""Connecting to Ray: the one place that calls `ray.init`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import ray

from components import settings

_lock = threading.Lock()

# 200 MB hold the manifests and reports that pass through it: features and checkpoints go by file.
_OBJECT_STORE_BYTES = 200 * 1024 * 1024


def connect(code: Path | None = None) -> None:
    """Connect this process to the Ray named in the settings, or start a small one that ends with the process.

    Safe to call from several threads and more than once. Workers import the project from the folder `code`, or else
    from the one that this process runs in, so that a run uses the code of its own workspace.

    Raises:
        ConnectionError: the named Ray does not answer.
    """
    here = settings.load()
    with _lock:
        if ray.is_initialized():
            return
        runtime_env = {"env_vars": {"PYTHONPATH": str(code or os.getcwd()), **_stage_environment(here)}}
        if here.ray_address:
            try:
                ray.init(address=here.ray_address, runtime_env=runtime_env)
            except ConnectionError as error:
                raise ConnectionError(
                    f"no Ray answers at {here.ray_address}: start the platform with `affect up`, or unset "
                    "AFFECT_RAY_ADDRESS to run without it"
                ) from error
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


def _stage_environment(here: settings.Settings) -> dict[str, str]:
    # Ray Train changes its workers' folder by default; the stages' paths are relative to the workspace.
    return {**here.environment(), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
