"""Stages on machines that share a store and nothing else: a real S3 server, and a home for each machine."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
import yaml

from components import run_archive
from components.stage import NOT_THERE_STATUS, TRANSIENT_STATUS
from components.storage import Storage
from tests import faulty_proxy
from tests.conftest import REPOSITORY
from tests.object_store import ObjectStore, environment, running_store, variables

# Whoever runs the second one again gets another content.
STAGES = {
    "features": {"cmd": "mkdir out && echo a > out/a && echo b > out/b", "deps": ["components/code"], "outs": ["out"]},
    "finetune": {
        "cmd": "cat out/* > model && echo $RANDOM$RANDOM >> model",
        "deps": ["out"],
        "params": ["seed"],
        "outs": ["model"],
    },
}


@dataclass(frozen=True)
class Machine:
    """A home of its own, and a run's folder in it."""

    home: Path
    url: str

    def run(self, stage: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {"AFFECT_HOME": str(self.home), "AFFECT_STORAGE_URL": self.url, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "components.stored_stage", stage, *arguments]
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment = {**os.environ, **path, **own, **variables}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_store(tmp_path_factory.mktemp("store")) as running, environment(running.environment):
        fsspec.filesystem("s3").mkdir("affect")
        yield running


@pytest.fixture
def storage(store: ObjectStore) -> Storage:  # noqa: ARG001  # has to run
    return Storage(f"s3://affect/{uuid.uuid4().hex}")


@pytest.fixture
def flow(tmp_path: Path, storage: Storage) -> Machine:
    """The machine of a flow, with a run that has got to its features."""
    machine = Machine(tmp_path / "flow", storage.url)
    ended = machine.run("features", cwd=_new_run(machine))
    assert ended.returncode == 0, ended.stderr
    return machine


def _new_run(machine: Machine) -> Path:
    folder = _folder(machine)
    (folder / "components").mkdir(parents=True)
    (folder / "components" / "code").write_text("1", encoding="utf-8")
    (folder / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}), encoding="utf-8")
    run_archive.write_dvc_config(folder, machine.home)
    return folder


def _folder(machine: Machine) -> Path:
    return machine.home / "workspaces" / "0123456789ab"


def test_a_stage_runs_elsewhere_and_once(flow: Machine, storage: Storage, tmp_path: Path) -> None:
    folder, head = _folder(flow), Machine(tmp_path / "head", storage.url)
    assert flow.run("finetune", "--only-bring", cwd=folder).returncode == NOT_THERE_STATUS
    name = run_archive.give(folder, storage)
    ended = head.run("finetune", "--archive", name, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Running stage 'finetune'" in ended.stdout
    made = (head.home / "workspaces" / name / "model").read_text(encoding="utf-8")
    assert made.startswith("a\nb\n")

    brought = flow.run("finetune", "--only-bring", cwd=folder)
    assert (brought.returncode, brought.stderr) == (0, "")
    assert brought.stdout.count("is cached") == 1
    assert (folder / "model").read_text(encoding="utf-8") == made
    assert "didn't change" in flow.run("finetune", cwd=folder).stdout

    # A third machine, of which nobody has heard, and an equal run there.
    other = Machine(tmp_path / "other", storage.url)
    run = _new_run(other)
    for stage in STAGES:
        ended = other.run(stage, cwd=run)
        assert "is cached - skipping run" in ended.stdout, ended.stderr
    assert (run / "model").read_text(encoding="utf-8") == made


def test_what_is_there_is_not_sent_again(flow: Machine, store: ObjectStore, storage: Storage) -> None:
    folder = _folder(flow)
    with faulty_proxy.before(store.url) as proxy:
        assert flow.run("finetune", cwd=folder, **variables(proxy.url)).returncode == 0
        assert proxy.methods.count("PUT") == 2, "the model, and its entry"
        proxy.methods.clear()
        assert flow.run("finetune", cwd=folder, **variables(proxy.url)).returncode == 0
        with environment(variables(proxy.url)):
            first = run_archive.give(folder, storage)
            assert proxy.methods.count("PUT") == 1
            assert run_archive.give(folder, storage) == first
        assert proxy.methods.count("PUT") == 1


@pytest.mark.parametrize("what", ["files/md5", "runs"])
@pytest.mark.usefixtures("flow")
def test_what_is_damaged_in_the_store_is_made_anew(storage: Storage, tmp_path: Path, what: str) -> None:
    filesystem, root = fsspec.core.url_to_fs(storage.uri(f"dvc/{what}"))
    places = filesystem.find(root)
    assert places
    for place in places:
        filesystem.pipe_file(place, filesystem.cat_file(place).replace(b"a", b"?").replace(b"o", b"?"))
    other = Machine(tmp_path / "other", storage.url)
    run = _new_run(other)
    assert other.run("features", "--only-bring", cwd=run).returncode == NOT_THERE_STATUS
    assert not (run / "out").exists()
    assert "Running stage 'features'" in other.run("features", cwd=run).stdout
    assert (run / "out" / "a").read_text(encoding="utf-8") == "a\n"


def test_inputs_that_are_nowhere_and_a_damaged_folder_are_told(flow: Machine, storage: Storage, tmp_path: Path) -> None:
    name = run_archive.give(_folder(flow), storage)
    storage.remove("dvc")
    head = Machine(tmp_path / "head", storage.url)
    ended = head.run("finetune", "--archive", name, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: what features made is neither here nor whole in s3://")
    place = f"workspaces/{name}.tar.gz"
    storage.write(place, storage.read(place)[:-1])
    with pytest.raises(ValueError, match=r"tar\.gz is damaged: remove it there"):
        run_archive.bring(name, storage, tmp_path / "third" / "run", home=tmp_path / "third")
    assert not list((tmp_path / "third").rglob("*"))


def test_a_store_that_does_not_answer_ends_a_stage_for_now(flow: Machine, storage: Storage) -> None:
    ended = flow.run("finetune", cwd=_folder(flow), AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    assert ended.returncode == TRANSIENT_STATUS, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"error: {storage.uri('dvc')}")
