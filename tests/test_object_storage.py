"""The storage on a real S3 server: what it holds is whole, whatever happens to the server, the way and the key."""

from __future__ import annotations

import errno
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.fs
import pytest
import torch

from components import bucket
from components.checkpoints import CheckpointFailed, Checkpoints
from components.registry import Registry, Release
from components.run_record import StageResult
from components.settings import Settings
from components.stage import is_transient
from components.storage import AlreadyExists, Storage
from components.store_errors import is_passing_in_arrow
from components.training import TrainingState
from flows.records import Recorder, find_record
from tests import faulty_proxy
from tests.object_store import ObjectStore, environment, running_store, variables

BUCKET = "affect"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A store with a bucket, which the environment names."""
    with running_store(tmp_path_factory.mktemp("store")) as running, environment(running.environment):
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield running


@pytest.fixture
def storage(store: ObjectStore) -> Storage:  # noqa: ARG001  # has to run
    """A place of its own for each test."""
    return Storage(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def bundle_in(folder: Path, *, num_bytes: int = 1000) -> Path:
    """A folder with the files that make a bundle, of which the weights have a size."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(np.random.default_rng(num_bytes).bytes(num_bytes))
    for name in ("config.json", "preprocess.json", "labels.json", "provenance.json", "golden.json", "CARD.md"):
        (folder / name).write_text(name)
    (folder / "drift_reference.npz").write_bytes(b"z")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_what_is_written_is_read_listed_and_removed(storage: Storage) -> None:
    assert storage.names("logs") == []
    storage.write("logs/one/a.json", b"1")
    storage.write("logs/one/a.json", b"2")
    storage.write("logs/b.json", b"3")
    assert storage.names("logs") == ["b.json", "one"]
    assert (storage.read("logs/one/a.json"), storage.exists("logs/one"), storage.exists("logs/o")) == (
        b"2",
        True,
        False,
    )
    with pytest.raises(FileNotFoundError):
        storage.read("logs/c.json")
    storage.remove("logs/one")
    storage.remove("logs/one")
    assert storage.names("logs") == ["b.json"]


def test_of_many_who_make_a_name_one_does(storage: Storage) -> None:
    def make(writer: int) -> bool:
        try:
            storage.create("claims/000001.json", f"writer {writer}".encode())
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert made.count(True) == 1
    assert storage.read("claims/000001.json") == f"writer {made.index(True)}".encode()


def test_releases_are_kept_there(storage: Storage, tmp_path: Path) -> None:
    registry = Registry(storage)
    name = registry.store_bundle(bundle_in(tmp_path / "bundle"))
    assert registry.store_bundle(tmp_path / "bundle") == name
    first = registry.append(Release(kind="promotion", bundle=name, version=name.rsplit("/", 1)[-1]))
    assert (registry.champion(), registry.releases()) == (first, (first,))
    fetched = registry.fetch_bundle(name, tmp_path / "cache")
    assert sorted(path.name for path in fetched.iterdir()) == sorted(p.name for p in (tmp_path / "bundle").iterdir())


def test_a_wrong_key_and_a_wrong_bucket_are_named(store: ObjectStore) -> None:
    with environment(variables(store.url, secret="wrong")):
        for attempt in (
            lambda: Storage(f"s3://{BUCKET}").names("x"),
            lambda: Storage(f"s3://{BUCKET}").write("x", b""),
        ):
            with pytest.raises(
                PermissionError, match=rf"s3://{BUCKET}/x: the store refuses the key .*AWS_SECRET_ACCESS"
            ):
                attempt()
    with pytest.raises(FileNotFoundError, match="no such bucket: make it with `affect bucket`"):
        Storage("s3://nowhere").write("x", b"")


def test_a_bucket_is_made_ready(store: ObjectStore) -> None:
    report = bucket.prepare("s3://made/platform")
    assert (report.made, report.versions, report.exclusive) == (True, "yes", "yes")
    # Swift has no such rules, and says so.
    assert report.expiry.startswith("not offered by this store (")
    again = bucket.prepare("s3://made/platform")
    assert not again.made
    assert Storage("s3://made/platform").names("probes") == []
    with environment(variables(store.url, secret="wrong")), pytest.raises(PermissionError, match="refuses"):
        bucket.prepare("s3://made/platform")
    with pytest.raises(ValueError, match="is no bucket: set AFFECT_STORAGE_URL"):
        bucket.prepare("/a/folder")


def test_a_role_may_do_what_it_does_and_no_more() -> None:
    roles = bucket.policies("s3://made/platform")
    [listing, reading, adding] = roles["endpoint"]["Statement"]
    assert listing["Resource"] == ["arn:aws:s3:::made"]
    assert reading == {
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": ["arn:aws:s3:::made/platform/bundles/*"],
    }
    assert "s3:PutObject" in adding["Action"]
    assert adding["Resource"] == [
        "arn:aws:s3:::made/platform/samples/*",
        "arn:aws:s3:::made/platform/trials/observations/*",
    ]
    assert roles["platform"]["Statement"][1]["Resource"] == ["arn:aws:s3:::made/platform/*"]


def test_a_full_bucket_is_named_and_holds_nothing_half(store: ObjectStore) -> None:
    fsspec.filesystem("s3").mkdir("small")
    store.limit("small", 1000)
    small = Storage("s3://small")
    with pytest.raises(OSError, match=r"no room .*raise its quota") as caught:
        small.write("big", bytes(2000))
    assert caught.value.errno == errno.ENOSPC
    assert not small.exists("big")


def test_a_burst_of_failures_is_ridden_out_and_a_lasting_one_told(store: ObjectStore, storage: Storage) -> None:
    with faulty_proxy.before(store.url) as proxy, environment(variables(proxy.url)):
        proxy.num_refused = 3
        storage.write("a", b"whole")
        assert proxy.methods.count("PUT") == 4
        proxy.num_refused = 1000
        with pytest.raises(ConnectionError, match=r"not able to answer .*Service Unavailable"):
            storage.read("a")
        proxy.num_refused, proxy.delay_s = 0, 1.5
        assert storage.read("a") == b"whole"


def test_who_makes_a_name_and_loses_the_answer_has_made_it(store: ObjectStore, storage: Storage) -> None:
    with faulty_proxy.before(store.url) as proxy, environment(variables(proxy.url)):
        proxy.num_lost = 1
        storage.create("claims/000001.json", b"mine")
        assert proxy.methods.count("PUT") == 2
        with pytest.raises(AlreadyExists):
            storage.create("claims/000001.json", b"another's")


def test_a_run_outlives_a_store_that_is_away_for_a_while(store: ObjectStore, storage: Storage, tmp_path: Path) -> None:
    here = Settings(home=tmp_path, storage_url=storage.url)
    with faulty_proxy.before(store.url) as proxy, environment(variables(proxy.url)):
        back = threading.Timer(20, lambda: setattr(proxy, "num_refused", 0))
        with Recorder(here, run_id="run", digest="abc", folder=tmp_path) as recorder:
            proxy.num_refused = 1000
            recorder.add_stage(StageResult("ingest", "ran", 1.0))
            back.start()
        back.join()
        found = find_record(here, "run")
    assert [stage.stage for stage in found.stages] == ["ingest"]
    assert found.ended_at


def test_a_state_that_the_store_did_not_take_may_be_written_later(store: ObjectStore, storage: Storage) -> None:
    states = Checkpoints(storage, "run")
    state = TrainingState(1, 0, 1, {"weight": torch.ones(3)}, {}, [0.0], [1.0])
    with faulty_proxy.before(store.url) as proxy, environment(variables(proxy.url)):
        proxy.num_refused = 1000
        with pytest.raises(CheckpointFailed, match=r"cannot write a checkpoint: .*not able to answer") as caught:
            states.write(state)
    assert is_transient(caught.value)
    states.write(state)
    assert states.read(1).step == 1


def test_what_arrow_says_of_a_store_that_is_away_is_understood(store: ObjectStore) -> None:
    """Through Arrow Ray keeps its own notes there; in which words it tells of a failure is for no version promised."""

    def write() -> None:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(f"s3://{BUCKET}/notes")
        with filesystem.open_output_stream(path) as stream:
            stream.write(b"a note")

    with faulty_proxy.before(store.url) as proxy, environment(variables(proxy.url)):
        write()
        proxy.num_refused = 1000
        with pytest.raises(OSError, match="AWS Error") as refused:
            write()
        with pytest.raises(OSError, match="AWS Error") as unnamed:
            pyarrow.fs.FileSystem.from_uri(f"s3://{BUCKET}/notes")[0].get_file_info(f"{BUCKET}/notes")
    with environment(variables(proxy.url)), pytest.raises(OSError, match="AWS Error") as away:
        write()
    with environment(variables(store.url, secret="wrong")), pytest.raises(OSError, match="AWS Error") as wrong:
        write()
    told = [is_passing_in_arrow(str(caught.value)) for caught in (refused, unnamed, away, wrong)]
    assert told == [True, True, True, False]


@pytest.mark.long
def test_a_store_that_dies_within_an_upload_has_the_whole_or_nothing(tmp_path: Path) -> None:
    folder = bundle_in(tmp_path / "bundle", num_bytes=96 << 20)
    with running_store(tmp_path / "store") as store, environment(store.environment):
        fsspec.filesystem("s3").mkdir(BUCKET)
        registry = Registry(Storage(f"s3://{BUCKET}"))
        killer = threading.Timer(0.3, store.kill)
        killer.start()
        with pytest.raises(ConnectionError, match=r"does not answer .*AWS_ENDPOINT_URL_S3"):
            registry.store_bundle(folder)
        killer.join()
        store.start()
        assert registry.storage.names("bundles") == [] or not registry.has_bundle(registry.storage.names("bundles")[0])

        # Again, and this time the store is back soon.
        def interrupt() -> None:
            time.sleep(0.3)
            store.kill()
            store.start()

        restarter = threading.Thread(target=interrupt)
        restarter.start()
        name = registry.store_bundle(folder)
        restarter.join()
        # Its content is held against its digest.
        registry.fetch_bundle(name, tmp_path / "cache")


@pytest.mark.long
def test_a_hundred_thousand_names_are_listed(store: ObjectStore, storage: Storage) -> None:
    """Of all but two the store knows the names alone: to send each would take minutes, and listing asks no more."""
    prefix = storage.url.removeprefix(f"s3://{BUCKET}/")
    registry = Registry(storage)
    store.add_names(BUCKET, [f"{prefix}/releases/{number:06d}.json" for number in range(1, 100_001)])
    storage.write("releases/100001.json", b"{}")
    with pytest.raises(ValueError, match=r"releases/100001\.json is damaged"):
        registry.champion()
