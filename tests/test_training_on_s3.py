"""A training that loses its worker, its driver and its store, at any moment, ends as one that lost nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import psutil
import pytest
import torch

from components import checkpoints, machine
from components.checkpoints import Checkpoints
from components.stage import TRANSIENT_STATUS
from components.storage import Storage
from components.training import TrainingState, fit
from tests import faulty_proxy
from tests.conftest import REPOSITORY
from tests.faulty_proxy import FaultyProxy
from tests.object_store import ObjectStore, environment, running_store, variables
from tests.s3_training import NAME, OBJECTIVE, SETTINGS
from tests.toy_clips import ToyClips, toy_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

STORAGE = "s3://affect/platform"


def test_a_training_that_is_killed_anywhere_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """In which order, after which state, and whether within an upload, is drawn anew each time."""
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    with running_store(tmp_path / "store") as store, environment(store.environment):
        fsspec.filesystem("s3").mkdir("affect")
        with faulty_proxy.before(store.url) as proxy:
            training = _Training(tmp_path / "pids", proxy)
            kills: list[Callable[[], None]] = [
                training.kill_worker,
                training.kill_driver,
                lambda: training.kill_store(store),
            ]
            for kill in draw.sample(kills, len(kills)):
                kill_s = draw.uniform(0.0, 0.3)
                training.reach(draw.randint(1, 4), within_upload=draw.random() < 0.5)
                time.sleep(kill_s)
                kill()
            assert training.ended() == 0, f"seed {seed}: {training.told()}"
        last = Checkpoints(Storage(STORAGE), NAME).newest()
    whole = _uninterrupted()
    assert last is not None
    assert last.history == whole.history, f"seed {seed}"
    for name, weight in whole.weights.items():
        assert torch.equal(last.weights[name], weight), f"seed {seed}: {name}"


def _uninterrupted() -> TrainingState:
    model = toy_model()
    machine.prepare(model)
    return fit(model, ToyClips(), OBJECTIVE, SETTINGS)


class _Training:
    """The process that drives the training, started whenever it is not there."""

    def __init__(self, folder: Path, proxy: FaultyProxy) -> None:
        folder.mkdir()
        self._folder, self._proxy = folder, proxy
        self._log = folder.parent / "training.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        here = {
            **os.environ,
            **variables(self._proxy.url),
            "AFFECT_STORAGE_URL": STORAGE,
            "AFFECT_HOME": str(self._folder.parent / "home"),
            # As the training that it is held against has.
            "AFFECT_TRAIN_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [sys.executable, "-m", "tests.s3_training", str(self._folder)]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=here, cwd=REPOSITORY, stdout=log, stderr=log)

    def reach(self, num_states: int, *, within_upload: bool) -> None:
        """Wait for so many further states, or the end, and then for the next upload to begin."""
        step = self._step() + num_states
        self._wait(lambda: self._step() >= step)
        num_uploads = self._proxy.methods.count("PUT")
        if within_upload:
            self._proxy.delay_s = 0.5
            self._wait(lambda: self._proxy.methods.count("PUT") > num_uploads)

    def _wait(self, until: Callable[[], bool]) -> None:
        patience = time.monotonic() + 300
        while self._process.poll() is None and not until():
            assert time.monotonic() < patience, self.told()
            time.sleep(0.02)

    def _step(self) -> int:
        names = Storage(STORAGE).names(f"{checkpoints.FOLDER}/{NAME}")
        return max((int(name.removeprefix("step-")) for name in names if name.startswith("step-")), default=0)

    def kill_worker(self) -> None:
        """End the worker; Ray starts another one."""
        self._wait(lambda: bool(self._workers()))
        for worker in self._workers():
            os.kill(worker, signal.SIGKILL)
        self._proxy.delay_s = 0.0

    def _workers(self) -> list[int]:
        """The workers of this driver: one of a driver that was killed may live for a moment."""
        family = psutil.Process(self._process.pid).children(recursive=True)
        readers = {int(file.stem) for file in self._folder.iterdir()}
        return [each.pid for each in family if each.pid in readers]

    def kill_driver(self) -> None:
        """End the driver, and start it again at once: what it had started may still write."""
        self._process.kill()
        self._process.wait()
        self._proxy.delay_s = 0.0
        self._process = self._start()

    def kill_store(self, store: ObjectStore) -> None:
        """Take the store away until the training gives up, which it says so that it is tried again."""
        store.kill()
        assert self.ended() == TRANSIENT_STATUS, self.told()
        store.start()
        self._proxy.delay_s = 0.0
        self._process = self._start()

    def ended(self) -> int:
        return self._process.wait(timeout=300)

    def told(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]
