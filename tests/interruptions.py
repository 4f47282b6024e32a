"""A run that is interrupted in every way there is, and goes on each time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from tests.platform import SMALL, Platform, settings


def interrupted_run(platform: Platform) -> dict[str, Any]:
    """The outcome of a run that lost its person's patience, a worker, its own process, and the whole platform.

    Real signals: Ctrl-C while the corpus is made, then in the middle of pre-training the death of a training worker, of
    the flow's process, and of every process of the platform at once.
    """
    run = platform.start("retrain", *settings(*SMALL))
    _wait(lambda: bool(platform.processes("components.ingest")), "ingest to begin")
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    assert not platform.processes("components.ingest")

    # The same command goes on.
    run = platform.start("retrain", *settings(*SMALL), "--json")
    _wait_for_checkpoint(platform)
    _kill(platform.processes("RayTrainWorker"))

    # The run mends itself from a lost worker; now its own process goes.
    _wait_for_checkpoint(platform)
    _kill(platform.processes("prefect.engine") or platform.processes("flow_engine"))
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 1, output + errors
    assert "Crashed" in output
    _wait(lambda: not platform.processes("components.pretrain"), "the orphaned stage to end")

    # And once more, until everything dies at once.
    run = platform.start("retrain", *settings(*SMALL), "--json")
    _wait_for_checkpoint(platform)
    _kill(platform.processes())
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "affect up" in errors

    platform.affect("up")
    outcome: dict[str, Any] = platform.json("retrain", *settings(*SMALL))
    return outcome


def _kill(processes: list[psutil.Process]) -> None:
    assert processes
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _wait_for_checkpoint(platform: Platform) -> None:
    """Until pre-training runs and has written a checkpoint that was not there before."""
    folder = platform.home / "store" / "checkpoints"
    before = set(folder.rglob("step-*"))
    _wait(
        lambda: bool(set(folder.rglob("step-*")) - before) and bool(platform.processes("components.pretrain")),
        "a new checkpoint of pre-training",
    )


def _wait(condition: Callable[[], bool], what: str, timeout_s: float = 400.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.05)
