"""A DVC stage whose inputs and outputs come and go by the store, for machines that share nothing else.

`python -m components.stored_stage STAGE` does in a run's folder what `dvc repro --single-item STAGE` does. Before, it
brings what the stage reads and, if anybody has made them anywhere, its outputs; afterwards it gives these to all
others. DVC's remote in the store holds both by content, and its cache of runs says what came out of which command,
inputs and parameters. Such an entry is written when all that it names is there, and what arrives is held against its
digest.

With `--archive NAME` the folder itself comes from the store first (`components.run_archive`): so a stage runs on the
head of a cluster that was started for it. With `--only-bring` the stage is not run, and the status says whether its
outputs were there.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml
from dvc.cli import main as dvc
from dvc.exceptions import CollectCacheError
from dvc.logger import set_loggers_level
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, _get_cache_hash, _get_stage_hash  # DVC has no other name for these
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml

from components import run_archive, settings
from components.stage import NOT_THERE_STATUS, one_line_errors
from components.storage import Storage, write_atomically
from components.store_errors import os_errors

REMOTE: Final = "dvc"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m components.stored_stage", description=__doc__.split("\n")[0])
    parser.add_argument("stage")
    parser.add_argument("--archive")
    parser.add_argument("--only-bring", action="store_true")
    asked = parser.parse_args()
    here = settings.load()
    with one_line_errors():
        store = Storage(here.storage_url)
        if asked.archive:
            folder = here.home / "workspaces" / asked.archive
            run_archive.bring(asked.archive, store, folder, home=here.home)
            os.chdir(folder)
        # DVC would tell of what was found, and once more when it is used.
        with set_loggers_level(logging.WARNING):
            is_there = bring(asked.stage, store)
        if asked.only_bring and not is_there:
            print(f"{store.uri(REMOTE)} does not have what {asked.stage} makes of these inputs", flush=True)
            return NOT_THERE_STATUS
        status: int = dvc(["repro", "--single-item", asked.stage])
        if status == 0:
            give(asked.stage, store)
    return status


def bring(name: str, store: Storage) -> bool:
    """Bring what a stage reads and what it makes into this folder; whether the latter was anywhere to be found.

    Raises:
        FileNotFoundError: what it reads is nowhere.
        ConnectionError: the store does not answer.
    """
    with os_errors(store.uri(REMOTE)), _repository(store) as repo, repo.lock:
        stage = repo.stage.load_one(name=name)
        for maker in repo.index.graph.successors(stage):
            _bring_outputs(maker, repo, store)
        stage.save_deps()
        _bring_entries(stage, repo, store)
        try:
            repo.stage_cache.restore(stage, pull=True)
        except RunCacheNotFoundError:
            return False
    return True


def give(name: str, store: Storage) -> None:
    """Put a stage's outputs into the store, and then the entry that names them.

    Raises:
        ConnectionError: not all of it has arrived.
    """
    with os_errors(store.uri(REMOTE)), _repository(store) as repo:
        stage = repo.stage.load_one(name=name)
        for objects in stage.get_used_objs().values():
            if failed := repo.cloud.push(objects).failed:
                raise ConnectionError(f"{store.uri(REMOTE)}: {len(failed)} files of {name} did not arrive: try again")
        entry = to_single_stage_lockfile(stage)
        place = f"{_entries(stage)}/{_get_cache_hash(entry)}"
        if not store.exists(place):
            store.write(place, dumps_yaml(entry).encode())


def _repository(store: Storage) -> Repo:
    """The folder that this process is in, with the store as its remote; what arrives from there is verified."""
    remote = {"url": store.uri(REMOTE), "verify": True}
    return Repo(".", config={"core": {"remote": "store"}, "remote": {"store": remote}})


def _bring_outputs(maker: Any, repo: Repo, store: Storage) -> None:
    if not maker.outs_cached():
        with suppress(CollectCacheError):
            for objects in maker.get_used_objs().values():
                repo.cloud.pull(objects)
    if not maker.outs_cached():
        raise FileNotFoundError(
            f"what {maker.addressing} made is neither here nor whole in {store.uri(REMOTE)}: run that stage first"
        )
    maker.checkout()


def _bring_entries(stage: Any, repo: Repo, store: Storage) -> None:
    """Bring what the store knows of runs of a stage with these inputs. What is not as its name says is passed over."""
    folder = Path(repo.stage_cache.cache_dir).parent
    for value in store.names(_entries(stage)):
        place = f"{_entries(stage)}/{value}"
        path = folder / Path(place).relative_to(REMOTE)
        if not path.exists():
            content = store.read(place)
            if _get_cache_hash(yaml.safe_load(content)) == value:
                write_atomically(path, content)


def _entries(stage: Any) -> str:
    """The folder of a stage's entries, where DVC itself would put them."""
    key: str = _get_stage_hash(stage)
    return f"{REMOTE}/runs/{key[:2]}/{key}"


if __name__ == "__main__":
    sys.exit(main())
