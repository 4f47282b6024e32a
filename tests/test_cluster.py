"""Training on real Ray workers: killed, without room, with damaged states, and with an input that cannot work."""

from __future__ import annotations

import copy
import os
import resource
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components import cluster, machine
from components.batches import ClipSource
from components.checkpoints import CheckpointFailed, pack, unpack
from components.cluster import Job
from components.features import ClipFeatures
from components.masking import MaskSettings
from components.objectives import MaskedModelling
from components.storage import Storage
from components.training import FitSettings, NonFiniteLoss, TrainingState, fit
from tests.toy_clips import BrokenClips, SlowClips, ToyClips, toy_model

SETTINGS = FitSettings(num_epochs=2, batch_size=8, learning_rate=3e-3, seed=1, checkpoint_every_steps=2)
MASKED = MaskedModelling(MaskSettings(0.3, 2, 0.3))


def _job(name: str, clips: ClipSource | None = None, *, num_workers: int = 2, dropout: float = 0.1) -> Job:
    model = toy_model(dropout=dropout)
    return Job(name, "pretrain", model, clips or ToyClips(), None, MASKED, SETTINGS, num_workers)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own for one test."""
    folder = tmp_path / "store"
    monkeypatch.setenv("AFFECT_STORAGE_URL", str(folder))
    return folder


def _last_state() -> TrainingState:
    states: list[TrainingState] = []
    model = toy_model()
    machine.prepare(model)
    fit(model, ToyClips(), MASKED, SETTINGS, on_checkpoint=lambda state: states.append(copy.deepcopy(state)))
    return states[-1]


def _same_weights(one: TrainingState, other: TrainingState) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_state_comes_back_as_it_was() -> None:
    state = _last_state()
    again = unpack(pack(state))
    assert _same_weights(again, state)
    assert again.history == state.history
    assert again.finished
    assert again.step == state.step


def test_a_finished_run_is_handed_back_without_workers_and_forgotten(store: Path) -> None:
    state = _last_state()
    Storage(str(store)).write("checkpoints/done/step-000000012/state.pt", pack(state))
    assert _same_weights(cluster.train(_job("done")), state)
    cluster.forget("done")
    assert not (store / "checkpoints" / "done").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_killed_worker_changes_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: a damaged newest state and a damaged record of Ray's are passed over, and a worker does what `fit` does.

    One of two workers is killed in `tests.interruptions`.
    """
    # As many as the toy model takes here: another number adds up in another order.
    monkeypatch.setenv("AFFECT_TRAIN_THREADS", "1")
    (tmp_path / "pids").mkdir()
    killed = _job("killed", SlowClips(tmp_path / "pids", read_s=0.02), num_workers=1)
    run = store / "checkpoints" / "killed"

    def kill_a_worker() -> None:
        while not (run / "step-000000002" / "state.pt").exists():
            time.sleep(0.02)
        os.kill(int(next((tmp_path / "pids").iterdir()).stem), signal.SIGKILL)

    # An earlier start got no further than a torn file, and left Ray's record in the middle of a write.
    run.joinpath("step-000000007").mkdir(parents=True)
    run.joinpath("step-000000007", "state.pt").write_bytes(pack(_last_state())[:5000])
    run.joinpath("checkpoint_manager_snapshot.json").write_text('{"ray_version": "2')
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    interrupted = cluster.train(killed)
    killer.join()
    assert len(list((tmp_path / "pids").iterdir())) > 1, "no worker was replaced"

    whole = _last_state()
    assert _same_weights(interrupted, whole)
    assert interrupted.history == whole.history


class _NoRoom(ToyClips):
    """Clips whose reader may write no file larger than a few bytes, as on a full disk."""

    def features(self, index: int) -> ClipFeatures:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return super().features(index)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address", "store")
def test_an_input_that_cannot_work_is_not_tried_again() -> None:
    with pytest.raises(NonFiniteLoss, match=r"clip007$"):
        cluster.train(_job("broken", BrokenClips()))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_full_disk_names_the_folder_and_the_remedy(store: Path) -> None:
    with pytest.raises(CheckpointFailed, match=r"checkpoints/full: .*AFFECT_STORAGE_URL"):
        cluster.train(_job("full", _NoRoom(), num_workers=1))
    assert not list((store / "checkpoints" / "full").rglob("*state*"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address", "store")
def test_a_training_begins_with_the_workers_that_there_is_place_for(tmp_path: Path) -> None:
    """This Ray has two processors, of which a worker wants one."""
    (tmp_path / "pids").mkdir()
    job = _job("elastic", SlowClips(tmp_path / "pids", read_s=0.0), num_workers=8)
    assert cluster.train(replace(job, min_workers=1)).finished
    assert len(list((tmp_path / "pids").iterdir())) == 2
    with pytest.raises(ValueError, match=r"pretrain\.min_workers = 5"):
        cluster.train(replace(job, name="crowd", min_workers=5))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address", "store")
def test_workers_that_hold_shares_of_the_weights_leave_whole_ones() -> None:
    job = _job("shares", dropout=0.0)
    shared = cluster.train(replace(job, settings=replace(SETTINGS, sharding="full")))
    alone = fit(toy_model(dropout=0.0), ToyClips(), MASKED, SETTINGS)
    assert shared.finished
    for name, weight in alone.weights.items():
        torch.testing.assert_close(shared.weights[name], weight, rtol=2e-3, atol=2e-4)


@pytest.mark.usefixtures("ray_address", "store")
def test_too_many_workers_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"num_workers = 500"):
        cluster.train(_job("crowd", num_workers=500))
