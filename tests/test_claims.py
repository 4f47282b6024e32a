"""Claims: one maker for each release, everybody else is told who, and a dead one stops nobody for long."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from components import claims
from components.claims import claimed
from components.registry import ReleaseConflict
from components.storage import Storage
from tests.conftest import REPOSITORY

# Waits for a start signal, tries to claim, and holds what it got until its input ends.
MAKER = """
import sys
from components.claims import claimed
from components.registry import ReleaseConflict
from components.storage import Storage

print("ready", flush=True)
sys.stdin.readline()
try:
    with claimed(Storage(sys.argv[1]), 7, holder=sys.argv[2]):
        print("claimed", flush=True)
        sys.stdin.read()
except ReleaseConflict as error:
    print(error, flush=True)
"""


def test_whoever_comes_second_is_told_who_is_first(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with claimed(storage, 1, holder="run abc"):
        with (
            pytest.raises(ReleaseConflict, match="release 1 is being made by run abc since"),
            claimed(storage, 1, holder="run def"),
        ):
            pytest.fail("two hold the same claim")
        with claimed(storage, 2, holder="run def"):
            pass
    with claimed(storage, 1, holder="run def"):
        pass
    assert not storage.names("claims")


def test_a_claim_ends_with_an_error_too(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), claimed(storage, 1, holder="run abc"):
        raise KeyboardInterrupt
    with claimed(storage, 1, holder="run def"):
        pass


def test_a_claim_that_outlived_its_holder_counts_for_nothing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with claimed(storage, 1, holder="the dead"):
        with claimed(storage, 1, holder="the next", lifetime=timedelta(0)):
            assert len(storage.names("claims")) == 2
            with pytest.raises(ReleaseConflict, match="the dead"), claimed(storage, 1, holder="a third"):
                pytest.fail("the claims are young enough")
        claims.forget(storage)
        with claimed(storage, 1, holder="a third"):
            pass


def test_of_racing_processes_one_wins(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path), f"run {number}"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    told = []
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    for maker in makers:
        assert maker.stdout is not None
        told.append(maker.stdout.readline().strip())
    for maker in makers:
        maker.communicate()
    assert told.count("claimed") == 1
    winner = told.index("claimed")
    assert all(f"by run {winner} since" in line for line in told if line != "claimed")
