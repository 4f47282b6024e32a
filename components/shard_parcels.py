"""Shards on machines that do not have their files: a training's worker brings them from the store, once a machine.

What is sent to a worker names each shard by path, size and md5. A path that the worker's machine has, too, is used as
it is; any other file comes from the store, where DVC's remote holds it under its md5, is held against that, and lies in
a folder of the machine from then on, mapped by all workers there.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ray import cloudpickle

from components.shards import SUFFIX, ShardSet
from components.storage import Storage, write_atomically

# As DVC's remote has it: what a stage gave there is not uploaded once more.
_BY_CONTENT: Final = "dvc/files/md5"
# A machine may live for long, and see many trainings.
_UNUSED_S: Final = 7 * 24 * 3600.0


@dataclass(frozen=True)
class _Shard:
    """One file, as it is named to another machine."""

    path: Path
    num_bytes: int
    md5: str

    @property
    def place(self) -> str:
        return f"{_BY_CONTENT}/{self.md5[:2]}/{self.md5[2:]}"


@dataclass(frozen=True)
class Parcel:
    """Any value for another machine, its shards by name; what Ray writes down of it is short."""

    content: bytes = field(repr=False)

    def opened(self, storage: Storage, cache: Path) -> Any:
        """The value, on the machine where it is needed.

        Args:
            storage: that it was packed with.
            cache: folder for shards that this machine does not have.

        Raises:
            OSError: a shard is not to be had; a `ConnectionError` if it may be, later.
        """
        return _Unpacker(io.BytesIO(self.content), storage, cache).load()


def pack(value: object, storage: Storage) -> Parcel:
    """Pack a value that may hold sets of shards, anywhere in it; shards that the store does not have go there.

    Raises:
        OSError: the store does not take them.
    """
    buffer = io.BytesIO()
    _Packer(buffer, storage).dump(value)  # type: ignore[no-untyped-call]  # Ray has no types here
    return Parcel(buffer.getvalue())


class _Packer(cloudpickle.CloudPickler):
    def __init__(self, buffer: io.BytesIO, storage: Storage) -> None:
        super().__init__(buffer)  # type: ignore[no-untyped-call]  # as above
        self._storage = storage
        self._known: dict[Path, _Shard] = {}

    def persistent_id(self, value: object) -> tuple[_Shard, ...] | None:
        return tuple(self._given(path) for path in value.paths) if isinstance(value, ShardSet) else None

    def _given(self, path: Path) -> _Shard:
        if path not in self._known:
            content = path.read_bytes()
            shard = _Shard(path.absolute(), len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())
            if not self._storage.exists(shard.place):
                self._storage.write(shard.place, content)
            self._known[path] = shard
        return self._known[path]


class _Unpacker(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, storage: Storage, cache: Path) -> None:
        super().__init__(buffer)
        self._storage, self._cache = storage, cache
        self._opened: dict[tuple[_Shard, ...], ShardSet] = {}

    def persistent_load(self, named: tuple[_Shard, ...]) -> ShardSet:
        if named not in self._opened:
            self._opened[named] = ShardSet([self._found(shard) for shard in named])
        return self._opened[named]

    def _found(self, shard: _Shard) -> Path:
        if shard.path.exists() and shard.path.stat().st_size == shard.num_bytes:
            return shard.path
        self._cache.mkdir(parents=True, exist_ok=True)
        # Of several workers on a machine one brings them, and the others wait for it.
        with (self._cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _brought(shard, self._storage, self._cache)


def _brought(shard: _Shard, storage: Storage, cache: Path) -> Path:
    target = cache / f"{shard.md5}{SUFFIX}"
    if not target.exists():
        _remove_unused(cache)
        content = storage.read(shard.place)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != shard.md5:
            raise OSError(f"{storage.uri(shard.place)} is damaged: remove it there, and start the stage again")
        write_atomically(target, content)
    os.utime(target)
    return target


def _remove_unused(cache: Path) -> None:
    """A worker that maps such a file keeps it until it ends."""
    for path in cache.glob(f"*{SUFFIX}"):
        if path.stat().st_mtime < time.time() - _UNUSED_S:
            path.unlink()
