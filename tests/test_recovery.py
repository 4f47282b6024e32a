"""Real kills in the middle of pre-training: a worker, the flow's process, Ctrl-C, the whole platform. The weights at
the end are those of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.bundle_files import version_of
from tests.platform import SMALL, Platform, new_platform, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.platform]


@pytest.fixture
def own_platform(tmp_path: Path) -> Iterator[Platform]:
    running = new_platform(tmp_path / "home")
    running.affect("up")
    yield running
    running.affect("down")
    assert not _processes(running, "")


def test_disturbed_runs_go_on_and_end_in_the_same_weights(own_platform: Platform, first_run: dict[str, Any]) -> None:
    run = own_platform.start("retrain", *settings(*SMALL), "--json")
    _wait_for_checkpoint(own_platform)
    _kill(_processes(own_platform, "RayTrainWorker"))

    # The run mends itself from a lost worker; now its own process goes.
    _wait_for_checkpoint(own_platform)
    _kill(_processes(own_platform, "prefect.engine") or _processes(own_platform, "flow_engine"))
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 1, output + errors
    assert "Crashed" in output
    _wait(lambda: not _processes(own_platform, "components.pretrain"), "the orphaned stage to end")

    # The same command goes on, until a person interrupts it.
    run = own_platform.start("retrain", *settings(*SMALL))
    _wait_for_checkpoint(own_platform)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    _wait(lambda: not _processes(own_platform, "components.pretrain"), "the cancelled stage to end")

    # And once more, until everything dies at once.
    run = own_platform.start("retrain", *settings(*SMALL), "--json")
    _wait_for_checkpoint(own_platform)
    _kill(_processes(own_platform, ""))
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "affect up" in errors

    own_platform.affect("up")
    last = own_platform.json("retrain", *settings(*SMALL))
    assert last["outcome"] == "promoted"
    assert [stage["outcome"] for stage in last["stages"]][:3] == ["unchanged"] * 3
    assert last["digest"] == first_run["digest"]
    bundles = [Path(run["folder"]) / "build/bundle" for run in (last, first_run)]
    assert version_of(bundles[0]) == version_of(bundles[1])


def _processes(platform: Platform, words: str) -> list[psutil.Process]:
    """Living processes of a platform whose command line holds these words."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AFFECT_PLATFORM") != str(platform.home):
                continue
            if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


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
        lambda: bool(set(folder.rglob("step-*")) - before) and bool(_processes(platform, "components.pretrain")),
        "a new checkpoint of pre-training",
    )


def _wait(condition: Callable[[], bool], what: str, timeout_s: float = 400.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.05)
