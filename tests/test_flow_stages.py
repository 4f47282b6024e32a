"""Following a stage's process: its lines, its status, and its end when nobody follows it any more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from components.stage import TRANSIENT_STATUS
from flows.stages import read_lines, reason_of
from tests.conftest import REPOSITORY

STARTS_ANOTHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_an_interrupted_stage_takes_along_all_that_it_started(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        assert lives(pids[0])
        raise KeyboardInterrupt

    command = [sys.executable, "-c", STARTS_ANOTHER]
    with pytest.raises(KeyboardInterrupt):
        read_lines(command, tmp_path, dict(os.environ), on_line=interrupt, on_progress=lambda _reached: None)
    assert not lives(pids[0])


def test_lines_progress_and_status_come_apart(tmp_path: Path) -> None:
    work = """
from components.stage import progress
print("one")
progress(stage="ingest", done=1, total=4, message="a quarter")
raise SystemExit("error: no room")
"""
    told: list[float] = []
    lines, status = read_lines(
        [sys.executable, "-c", work],
        tmp_path,
        {**os.environ, "PYTHONPATH": str(REPOSITORY)},
        on_line=lambda _line: None,
        on_progress=lambda reached: told.append(reached.done / reached.total),
    )
    assert (told, status) == ([0.25], 1)
    assert sorted(lines) == ["error: no room", "one"]
    assert reason_of(lines, status) == "no room"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("ConnectionRefusedError('the store does not answer')", TRANSIENT_STATUS),
        ("TimeoutError('the store is slow')", TRANSIENT_STATUS),
        ("EndpointConnectionError(endpoint_url='http://store')", TRANSIENT_STATUS),
        ("FileNotFoundError('no such table')", 1),
        ("ValueError('the table has no rows')", 1),
    ],
)
def test_a_stage_says_whether_it_may_succeed_later(tmp_path: Path, error: str, expected: int) -> None:
    work = f"""
from botocore.exceptions import EndpointConnectionError
from components.stage import run_stage
def main():
    raise {error}
run_stage(main)
"""
    lines, status = read_lines(
        [sys.executable, "-c", work],
        tmp_path,
        {**os.environ, "PYTHONPATH": str(REPOSITORY)},
        on_line=lambda _line: None,
        on_progress=lambda _reached: None,
    )
    assert status == expected
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
