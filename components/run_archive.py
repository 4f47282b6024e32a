"""A run's folder in the store, without what DVC keeps by content: a machine that has the store alone goes on there."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import uuid
from pathlib import Path
from typing import Final

from components.storage import Storage

_FOLDER: Final = "workspaces"
# The code as it is, the choices, and what has been made so far; DVC does not keep `build/params.yaml`.
_KEPT: Final = ("build/params.yaml", "components", "dvc.lock", "dvc.yaml", "params.yaml", "requirements.lock")


def give(folder: Path, storage: Storage) -> str:
    """Put a run's folder into the store, unless it is there already; its name, which is the digest of its content."""
    content = _pack(folder)
    name = hashlib.sha256(content).hexdigest()
    if not storage.exists(_place(name)):
        storage.write(_place(name), content)
    return name


def keep(run: str, folder: Path, storage: Storage) -> None:
    """Give a run's folder as the one that is found by the run's digest from now on."""
    storage.write(f"{_FOLDER}/{run}", give(folder, storage).encode())


def find(run: str, storage: Storage) -> str | None:
    """The name under which a run's folder was kept last; None when it never was."""
    try:
        return storage.read(f"{_FOLDER}/{run}").decode()
    except FileNotFoundError:
        return None


def bring(name: str, storage: Storage, target: Path, *, home: Path) -> None:
    """Make a folder with what was given under a name; nothing happens when there is such a folder.

    Args:
        name: of the archive.
        storage: that it was given to.
        target: the folder.
        home: where this machine has its cache of DVC.

    Raises:
        FileNotFoundError: there is none of this name.
        ValueError: its content is not what was given.
    """
    if target.exists():
        return
    content = storage.read(_place(name))
    if hashlib.sha256(content).hexdigest() != name:
        raise ValueError(f"{storage.uri(_place(name))} is damaged: remove it there, and run the stage again")
    partial = target.parent / f".partial-{uuid.uuid4().hex}"
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            archive.extractall(partial, filter="data")
        write_dvc_config(partial, home)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_dvc_config(folder: Path, home: Path) -> None:
    """Tell DVC that a folder is no repository of git, and which cache it shares with all runs of this machine."""
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    (folder / ".dvc" / "config").write_text(
        "[core]\n"
        "    no_scm = true\n"
        "    analytics = false\n"
        "    check_update = false\n"
        # By default below /var, which a pod may not write.
        f"    site_cache_dir = {home / 'dvc'}\n"
        "[cache]\n"
        f"    dir = {home / 'cache'}\n"
        "    type = reflink,hardlink,copy\n",
        encoding="utf-8",
    )


def _pack(folder: Path) -> bytes:
    """The same bytes for the same content: no time, no owner, files in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in _KEPT:
            path = folder / name
            found = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in found:
                if file.is_file() and "__pycache__" not in file.parts:
                    member = tarfile.TarInfo(file.relative_to(folder).as_posix())
                    member.size = file.stat().st_size
                    with file.open("rb") as content:
                        archive.addfile(member, content)
    return gzip.compress(buffer.getvalue(), mtime=0)


def _place(name: str) -> str:
    return f"{_FOLDER}/{name}.tar.gz"
