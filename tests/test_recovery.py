"""Real kills in the middle of pre-training: a worker, the flow's process, the whole platform. The weights at the end
are those of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from components.bundle_files import version_of
from tests.platform import BIN, SMALL, Platform, checkout, new_platform, settings

pytestmark = pytest.mark.slow

# Enough steps of pre-training to be interrupted in the middle, more than once.
CHOICES = (*SMALL, "gates.min_macro_f1=0", "pretrain.num_epochs=60")


@pytest.fixture
def own_platform(tmp_path: Path) -> Iterator[Platform]:
    running = new_platform(tmp_path / "home")
    running.affect("up")
    yield running
    running.affect("down")
    assert not _processes(running, "")


def test_killed_runs_go_on_and_end_in_the_same_weights(own_platform: Platform, tmp_path: Path) -> None:
    run = own_platform.start("retrain", *settings(*CHOICES), "--json")
    _wait_for_checkpoint(own_platform)
    _kill(_processes(own_platform, "RayTrainWorker"))

    # The run mends itself from a lost worker; now its own process goes.
    _wait_for_checkpoint(own_platform)
    _kill(_processes(own_platform, "prefect.engine") or _processes(own_platform, "flow_engine"))
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 1, output + errors
    assert "Crashed" in output
    _wait(lambda: not _processes(own_platform, "components.pretrain"), "the orphaned stage to end")

    # The same command goes on; then everything dies at once.
    run = own_platform.start("retrain", *settings(*CHOICES), "--json")
    _wait_for_checkpoint(own_platform)
    _kill(_processes(own_platform, ""))
    run.communicate(timeout=60)

    own_platform.affect("up")
    last = own_platform.json("retrain", *settings(*CHOICES))
    assert last["outcome"] == "promoted"
    assert [stage["outcome"] for stage in last["stages"]][:3] == ["unchanged"] * 3

    undisturbed = _dvc_repro(tmp_path, Path(last["folder"]) / "params.yaml")
    assert version_of(Path(last["folder"]) / "build/bundle") == version_of(undisturbed / "build/bundle")


def test_interrupted_command_cancels_its_run_and_the_next_goes_on(own_platform: Platform) -> None:
    run = own_platform.start("retrain", *settings(*CHOICES))
    _wait_for_checkpoint(own_platform)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    _wait(lambda: not _processes(own_platform, "components.pretrain"), "the cancelled stage to end")
    assert own_platform.json("retrain", *settings(*CHOICES))["outcome"] == "promoted"


def _dvc_repro(folder: Path, choices: Path) -> Path:
    here = checkout(folder / "checkout")
    (here / "params.yaml").write_bytes(choices.read_bytes())
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "AFFECT_HOME": str(folder / "other-home")}
    done = subprocess.run([str(BIN / "dvc"), "repro"], cwd=here, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return here


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


def _wait(condition: Callable[[], bool], what: str, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.05)
