"""A training over three machines that share an object store and nothing else, one of which is lost in the middle.

The machines are made by `tests.machines`, in a process apart: `python -m tests.test_several_machines`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest

from components import run_archive
from components.params import Choices
from components.settings import Settings
from components.storage import Storage
from flows.workspace import prepare
from tests.conftest import REPOSITORY
from tests.machines import ADDRESS, Machine, alone, are_possible, start_network
from tests.object_store import environment, running_store
from tests.platform import BIN

pytestmark = [
    pytest.mark.machines,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not are_possible(), reason="namespaces of Linux cannot be made here"),
]

# The quick system on little, and so many steps that it is caught in the middle.
OVERRIDES = {
    "synthetic": {"num_speakers": 8, "num_labelled": 48, "num_unlabelled": 72},
    "features": {"clips_per_shard": 16},
    "pretrain": {"num_workers": 2, "num_epochs": 10, "batch_size": 8, "checkpoint_every_steps": 10},
}
MODEL = "build/pretrain/model.safetensors"
STORE, RUN = "store", "run.txt"
# Such a Ray finds within seconds that a machine does not answer, instead of a minute.
QUICK_TO_MISS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which a run's features are, and the run's name."""
    folder = tmp_path_factory.mktemp("features")
    _apart("features", folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, features: Path) -> bytes:
    """The weights of a run in which nothing is lost."""
    return _weights(tmp_path_factory.mktemp("undisturbed"), features, "nothing")


@pytest.mark.parametrize("loss", ["killed", "cut_off"])
def test_a_training_over_machines_goes_on_when_one_is_lost(
    tmp_path: Path, features: Path, loss: str, undisturbed: bytes
) -> None:
    assert _weights(tmp_path, features, loss) == undisturbed


def _weights(folder: Path, features: Path, loss: str) -> bytes:
    shutil.copytree(features / STORE, folder / STORE)
    shutil.copy(features / RUN, folder)
    _apart("training", folder, loss)
    return (folder / "model.safetensors").read_bytes()


def _apart(*arguments: str | Path) -> None:
    """Run this module as a program on a machine of its own; its second argument is the folder of its logs."""
    command = [sys.executable, "-m", "tests.test_several_machines", *map(str, arguments)]
    ended = subprocess.run(alone(command), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    logs = "".join(
        f"\n{log.name}: {log.read_text(errors='replace')[-4000:]}" for log in Path(arguments[1]).glob("*.log")
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr + logs


@dataclass
class World:
    """The machines, the store between them, and what their processes are told."""

    folder: Path
    disk: Path
    variables: dict[str, str]
    storage: Storage
    nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def new_node(self, *arguments: str, head: Machine | None = None) -> Machine:
        """A machine more, with a Ray node on it."""
        machine = Machine(len(self.nodes) + 2, self.disk)
        joins = [f"--address={head.address}:6379"] if head else ["--head", "--port=6379", "--dashboard-host=127.0.0.1"]
        command = [
            *(str(BIN / "ray"), "start", "--block", *joins, f"--node-ip-address={machine.address}"),
            *(f"--temp-dir={self.disk / 'ray'}", "--object-store-memory=80000000", "--disable-usage-stats", *arguments),
        ]
        self.nodes[machine.number] = machine.start(command, self.variables, self.folder / f"node{machine.number}.log")
        return machine

    def wait(self, condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < until, f"waited for {what}"
            assert process.poll() is None, f"the process ended before {what}"
            time.sleep(0.05)


@contextmanager
def _world(folder: Path) -> Iterator[World]:
    """A network with the store that the folder holds, or a new one."""
    start_network()
    with (
        running_store(folder / STORE, ADDRESS) as store,
        environment(store.environment),
        # Ray makes sockets below it, whose paths must be short.
        tempfile.TemporaryDirectory(prefix="affect-") as disk_path,
    ):
        disk = Path(disk_path)
        url = "s3://affect/platform"
        variables = {**store.environment, **QUICK_TO_MISS, "AFFECT_HOME": str(disk / "home"), "AFFECT_STORAGE_URL": url}
        # The machines' names lead nowhere, by which workers would look for each other.
        variables |= {"GLOO_SOCKET_IFNAME": "eth0", "AFFECT_TRAIN_THREADS": "1"}
        variables |= {"PATH": f"{BIN}:{os.environ['PATH']}"}
        yield World(folder, disk, variables, Storage(url))


def _features(folder: Path) -> None:
    """The first stages, as a flow runs them on its own machine; the run's name in the store goes into the folder."""
    with _world(folder) as world:
        fsspec.filesystem("s3").mkdir("affect")
        here = Settings(home=folder / "flow", storage_url=world.storage.url)
        run = prepare(Choices(overrides=OVERRIDES), here).folder
        variables = {**os.environ, **world.variables, "AFFECT_HOME": str(here.home)}
        for command in (
            ["dvc", "repro", "params"],
            *(["components.stored_stage", each] for each in ("ingest", "features")),
        ):
            python = [sys.executable, "-m", *command]
            with (folder / "flow.log").open("ab") as log:
                subprocess.run(python, cwd=run, env=variables, stdout=log, stderr=log, check=True)
        (folder / RUN).write_text(run_archive.give(run, world.storage))


def _training(folder: Path, loss: str) -> None:
    """One training from its beginning to its end, with a loss on the way; its weights go into the folder."""
    with _world(folder) as world:
        head = world.new_node("--num-cpus=0")
        workers = [world.new_node("--num-cpus=1", head=head) for _ in range(2)]
        stage = _start_stage(world, head, (folder / RUN).read_text(), workers)
        told = folder / "stage.log"
        if loss != "nothing":
            world.wait(lambda: "epoch 2/10" in told.read_text(encoding="utf-8"), "the second epoch", stage)
            workers[0].kill() if loss == "killed" else workers[0].cut_off()
            workers[0] = world.new_node("--num-cpus=1", head=head)
        assert stage.wait(600) == 0
        # It went on from a state in the store, for the weights alone would not say so.
        assert told.read_text(encoding="utf-8").count("epoch 1/10") == 1
        # Both workers' machines have brought the shards from the store, the one that came late too; the head had them.
        assert all(machine.files("home/shards/*.arrow") for machine in workers)
        assert not head.files("home/shards/*.arrow")
        [model] = head.files(f"home/workspaces/*/{MODEL}")
        (folder / "model.safetensors").write_bytes(model.read_bytes())


def _start_stage(world: World, head: Machine, archive: str, workers: list[Machine]) -> subprocess.Popen[bytes]:
    """The stage on the head, as its RayJob starts it when all nodes are there."""
    for machine in (head, *workers):
        log, node = world.folder / f"node{machine.number}.log", world.nodes[machine.number]
        world.wait(lambda: "Ray runtime started" in log.read_text(encoding="utf-8"), log.name, node)  # noqa: B023  # at once
    command = [sys.executable, "-m", "components.stored_stage", "pretrain", "--archive", archive]
    variables = {**world.variables, "AFFECT_RAY_ADDRESS": f"{head.address}:6379"}
    return head.start(command, variables, world.folder / "stage.log")


if __name__ == "__main__":
    if sys.argv[1] == "features":
        _features(Path(sys.argv[2]))
    else:
        _training(Path(sys.argv[2]), sys.argv[3])
