"""A real object store for tests: OpenStack Swift with its S3 interface, four small processes on the loopback address.

It checks signatures, takes uploads in parts, and keeps what it said it has when it is killed. Swift's own modules
change the process that imports them, so what needs these runs apart: `python -m tests.object_store`.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import httpx

from flows.processes import free_ports
from tests.platform import BIN

HOST = "127.0.0.1"
KEY, SECRET = "affect:platform", "a-secret-of-the-tests"
REGION = "us-east-1"
_KINDS = ("account", "container", "object")
_START_TIMEOUT_S = 60.0

# Uploads in parts, and former versions.
_PARTS = "slo dlo versioned_writes"
_SWIFT = "[swift-hash]\nswift_hash_path_suffix = tests\n"
_PROXY = """[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {folder}
workers = 0
user = {user}
[pipeline:main]
pipeline = catch_errors proxy-logging s3api tempauth container-quotas {parts} symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_affect_platform = {secret} .admin
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
_STORAGE = """[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
workers = 0
user = {user}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


@dataclass
class ObjectStore:
    """One store in a folder of its own, running or killed."""

    folder: Path
    ports: dict[str, int]
    host: str = HOST
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.ports['proxy']}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which every library finds this store."""
        return variables(self.url)

    def start(self) -> None:
        """Start all processes on what the folder holds, and wait until they answer.

        Raises:
            RuntimeError: one ended, or the store does not answer in time; says what the logs say.
        """
        # A proxy says that a bucket is not there while the server behind it that knows of it is away.
        for kinds in (_KINDS, ("proxy",)):
            for kind in kinds:
                with (self.folder / f"{kind}.log").open("ab") as log:
                    command = [sys.executable, str(BIN / f"swift-{kind}-server"), str(self.folder / f"{kind}.conf")]
                    self._running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            self._wait_for(kinds)

    def _wait_for(self, kinds: Sequence[str]) -> None:
        until = time.monotonic() + _START_TIMEOUT_S
        while not self._answer(kinds):
            if time.monotonic() > until or any(process.poll() is not None for process in self._running):
                logs = "\n".join((self.folder / f"{kind}.log").read_text()[-2000:] for kind in kinds)
                self.kill()
                raise RuntimeError(f"the object store does not come up:\n{logs}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End all processes as a power cut does: the proxy first, for the reason above."""
        for process in reversed(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()

    def add_names(self, bucket: str, names: list[str]) -> None:
        """Enter names into a bucket's list as if objects had come; there is nothing behind them."""
        file = self.folder / "names.txt"
        file.write_text("\n".join(names))
        _run_inside("names", self.folder, bucket, str(file))

    def limit(self, bucket: str, num_bytes: int) -> None:
        """Let a bucket hold so much and no more."""
        _run_inside("quota", self.folder, bucket, str(num_bytes))

    def _answer(self, kinds: Sequence[str]) -> bool:
        try:
            return all(
                httpx.get(f"http://{self.host}:{self.ports[kind]}/", timeout=2.0).status_code < 500 for kind in kinds
            )
        except httpx.HTTPError:
            return False


def variables(url: str, *, secret: str = SECRET) -> dict[str, str]:
    """What an S3 client reads from its environment."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables as this process's own; a client is made anew for them."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@contextmanager
def running_store(folder: Path, host: str = HOST) -> Iterator[ObjectStore]:
    """A store at an address of this machine, with what a former one left in the folder, as long as the block runs."""
    ports = dict(zip((*_KINDS, "proxy"), free_ports(4, host), strict=True))
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(_SWIFT)
    known = {"host": host, "folder": folder, "user": _user(), "region": REGION, "secret": SECRET, "parts": _PARTS}
    (folder / "proxy.conf").write_text(_PROXY.format(port=ports["proxy"], **known))
    for kind in _KINDS:
        (folder / f"{kind}.conf").write_text(_STORAGE.format(port=ports[kind], kind=kind, **known))
    _run_inside("rings", folder, host, *(f"{kind}={ports[kind]}" for kind in _KINDS))
    store = ObjectStore(folder, ports, host)
    store.start()
    try:
        yield store
    finally:
        store.kill()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _run_inside(task: str, folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tests.object_store", task, str(folder), *arguments], check=True)


def _write_rings(folder: Path, host: str, *kinds: str) -> None:
    from swift.common.ring import RingBuilder

    for kind, _, port in (each.partition("=") for each in kinds):
        builder = RingBuilder(part_power=1, replicas=1, min_part_hours=1)
        device = {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": host, "port": int(port), "device": "disk"}
        builder.add_dev(device)
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def _broker(folder: Path, bucket: str) -> Any:
    from swift.container.backend import ContainerBroker

    for file in (folder / "devices").glob("disk/containers/**/*.db"):
        broker = ContainerBroker(str(file))
        if broker.get_info()["container"] == bucket:
            return broker
    raise ValueError(f"{bucket}: no such bucket")


def _add_names(folder: Path, bucket: str, file: str) -> None:
    from swift.common.utils import Timestamp

    entry = {"created_at": Timestamp.now().internal, "size": 0, "content_type": "text/plain", "etag": "0" * 32}
    fixed = {"deleted": 0, "storage_policy_index": 0, "ctype_timestamp": None, "meta_timestamp": None}
    names = Path(file).read_text().split("\n")
    _broker(folder, bucket).merge_items([{"name": name, **entry, **fixed} for name in names])


def _limit(folder: Path, bucket: str, num_bytes: str) -> None:
    from swift.common.utils import Timestamp

    _broker(folder, bucket).update_metadata({"X-Container-Meta-Quota-Bytes": (num_bytes, Timestamp.now().internal)})


_TASKS: dict[str, Callable[..., None]] = {"rings": _write_rings, "names": _add_names, "quota": _limit}

if __name__ == "__main__":
    _TASKS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
