"""States in the store: written beside the training, whole or passed over, and told when they cannot be written."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from components.checkpoints import CheckpointFailed, Checkpoints, Writer, pack, unpack
from components.storage import Storage
from components.training import TrainingState


def _state(step: int) -> TrainingState:
    weights = {"weight": torch.full((3,), float(step))}
    return TrainingState(step, 0, step, weights, {"state": {0: {"step": torch.tensor(1.0)}}}, [0.0], [1.0])


@pytest.fixture
def states(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Storage(str(tmp_path)), "run")


def test_what_changes_after_it_was_begun_is_not_in_it(tmp_path: Path) -> None:
    class Slow(Checkpoints):
        def write(self, state: TrainingState) -> None:
            assert may_write.wait(60)
            super().write(state)

    may_write = threading.Event()
    states = Slow(Storage(str(tmp_path)), "run")
    writer, state = Writer(states), _state(1)
    writer.start(state)
    state.weights["weight"] += 7
    state.optimizer["state"][0]["step"] += 7
    state.step = 8
    assert states.newest() is None
    may_write.set()
    assert writer.failure() is None
    found = states.newest()
    assert found is not None
    assert found.step == 1
    assert found.weights["weight"].tolist() == [1, 1, 1]
    assert float(found.optimizer["state"][0]["step"]) == 1


def test_the_newest_whole_one_is_found_and_the_others_go(states: Checkpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        states.write(_state(step))
    torn = tmp_path / "checkpoints" / "run" / "step-000000003" / "state.pt"
    torn.write_bytes(torn.read_bytes()[:-1])
    (tmp_path / "checkpoints" / "run" / "record.json").write_text("{")
    newest = states.newest()
    assert newest is not None
    assert newest.step == 2
    states.keep_only(newest, also_remove="record.json")
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "run").iterdir()) == ["step-000000002"]
    assert states.read(2).step == 2
    states.forget()
    assert states.newest() is None


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_state_is_refused(damage: str) -> None:
    content = pack(_state(1))
    middle = len(content) // 2
    broken = {"cut": content[:middle], "empty": b"", "changed": content[:middle] + b"?" + content[middle + 1 :]}
    with pytest.raises(ValueError, match="damaged"):
        unpack(broken[damage])


def test_why_it_cannot_be_written_is_told_when_it_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    writer = Writer(Checkpoints(Storage(str(tmp_path)), "run"))
    writer.start(_state(1))
    failure = writer.failure()
    assert isinstance(failure, CheckpointFailed)
    assert "AFFECT_STORAGE_URL" in str(failure)
    assert writer.failure() is None


def test_what_is_no_fault_of_the_store_is_raised_as_it_is(states: Checkpoints) -> None:
    writer, broken = Writer(states), _state(1)
    unknown: Any = object()
    broken.history.append(unknown)
    writer.start(broken)
    with pytest.raises(TypeError):
        writer.failure()
