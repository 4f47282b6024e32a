"""Shards on their way to another machine: which are used where they lie, which are brought, and that once."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from components.batches import Subset
from components.shard_parcels import Parcel, pack
from components.shards import ShardSet, shard_name, write_shard
from components.storage import Storage
from tests.test_shards import EXAMPLES, WIDTHS


@dataclass(frozen=True)
class Job:
    """Something that holds sets of shards as a training does."""

    train: Subset
    validation: ShardSet
    both: tuple[ShardSet, ...]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def packed(tmp_path: Path, storage: Storage) -> Parcel:
    for number in range(2):
        write_shard(tmp_path / "features" / shard_name(number), EXAMPLES[number:], widths=WIDTHS)
    train, validation = (ShardSet([tmp_path / "features" / shard_name(number)]) for number in range(2))
    return pack(Job(Subset(train, np.array([2, 0])), validation, (train, validation)), storage)


def _paths(parcel: Parcel, storage: Storage, cache: Path) -> set[Path]:
    job: Job = parcel.opened(storage, cache)
    assert [*job.train.clip_ids, *job.validation.clip_ids] == [EXAMPLES[each].clip_id for each in (2, 0, 1, 2)]
    np.testing.assert_array_equal(job.train.features(1).audio_TF, EXAMPLES[0].features.audio_TF)
    # What was one thing is one thing.
    assert job.train.source is job.both[0]
    return {path for source in job.both for path in source.paths}


def test_what_the_machine_has_is_used_as_it_is(packed: Parcel, storage: Storage, tmp_path: Path) -> None:
    assert {path.parent for path in _paths(packed, storage, tmp_path / "cache")} == {tmp_path / "features"}
    assert not (tmp_path / "cache").exists()
    assert len(repr(packed)) < 20


def test_what_it_does_not_have_is_brought_once(packed: Parcel, storage: Storage, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "features")
    brought = _paths(packed, storage, tmp_path / "cache")
    assert {path.parent for path in brought} == {tmp_path / "cache"}
    storage.remove("dvc")
    assert _paths(packed, storage, tmp_path / "cache") == brought


def test_another_file_of_the_same_name_is_not_taken_for_it(packed: Parcel, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "features" / shard_name(0)).write_bytes(b"half of it")
    first, second = sorted(path.parent for path in _paths(packed, storage, tmp_path / "cache"))
    assert (first, second) == (tmp_path / "cache", tmp_path / "features")


def test_what_the_store_has_is_not_sent_again(packed: Parcel, storage: Storage, tmp_path: Path) -> None:
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) == 2
    for file in files:
        os.utime(file, (0, 0))
    pack(packed.opened(storage, tmp_path / "cache"), storage)
    assert [file.stat().st_mtime for file in files] == [0, 0]


def test_what_is_damaged_on_the_way_is_told_and_not_kept(packed: Parcel, storage: Storage, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "features")
    for file in filter(Path.is_file, (tmp_path / "store").rglob("*")):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"dvc/files/md5/.* is damaged: remove it there"):
        packed.opened(storage, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.arrow"))


def test_what_nobody_has_used_for_a_week_makes_room(packed: Parcel, storage: Storage, tmp_path: Path) -> None:
    old, recent = tmp_path / "cache" / "0.arrow", tmp_path / "cache" / "1.arrow"
    for path, days in ((old, 8), (recent, 6)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (time.time() - days * 86400,) * 2)
    shutil.rmtree(tmp_path / "features")
    _paths(packed, storage, tmp_path / "cache")
    assert (old.exists(), recent.exists()) == (False, True)
