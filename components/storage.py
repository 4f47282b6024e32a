"""Files in a folder or in an object store, through one interface (fsspec).

Everything that another process may read is written whole or not at all: a folder gets a temporary file and a
rename, an object store gets one upload that becomes visible when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec import AbstractFileSystem

from components.store_errors import os_errors

# Of an object store's client: five attempts, of which the last comes up to fifteen seconds after the first, and an end
# to the waiting for a store that took a request and says no more.
_CLIENT: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"mode": "standard", "max_attempts": 5},
}
# After which a file that others were making at the same moment is what it will be.
_SETTLED_S: Final = 1.0


class AlreadyExists(FileExistsError):
    """Somebody else created this name first."""


@dataclass(frozen=True)
class Storage:
    """A root (a folder or `s3://bucket/prefix`) and the operations the platform needs on it.

    Names are relative to the root and use `/`. Errors of the file system (missing file, full disk, refused
    key) pass through as the `OSError` they are; those of an object store become such (`components.store_errors`).
    """

    url: str

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The file system and the name's path in it, for as long as the block takes."""
        with os_errors(self.uri(name) if name else self.url):
            # Whoever lists wants what is there now, whoever else wrote it.
            of_s3 = {"config_kwargs": _CLIENT, "use_listings_cache": False} if self.url.startswith("s3://") else {}
            filesystem, root = fsspec.core.url_to_fs(self.url, **of_s3)
            yield filesystem, f"{root.rstrip('/')}/{name}" if name else root

    @property
    def is_local(self) -> bool:
        return "://" not in self.url or self.url.startswith("file://")

    def uri(self, name: str) -> str:
        """The full address of a name, as `fsspec` and pyarrow read it."""
        return f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        with self._opened(name) as (filesystem, path):
            content: bytes = filesystem.cat_file(path)
            return content

    def exists(self, name: str) -> bool:
        with self._opened(name) as (filesystem, path):
            return bool(filesystem.exists(path))

    def names(self, folder: str) -> list[str]:
        """File and folder names directly below `folder`, sorted; empty when there is none."""
        try:
            with self._opened(folder) as (filesystem, path):
                found = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in found)
        return sorted(name for name in names if not name.startswith(".partial-"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees the former content or the new one, never a part."""
        if self.is_local:
            write_atomically(self._local(name), content)
            return
        with self._opened(name) as (filesystem, path):
            filesystem.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> None:
        """Write a file that must not exist yet, atomically; two who write the same content both made it.

        Raises:
            AlreadyExists: another writer was first; its content is untouched.
        """
        if self.is_local:
            target = self._local(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = _write_partial(target, content)
            try:
                # A hard link is the one local operation that both publishes whole content and refuses to replace.
                os.link(partial, target)
            except FileExistsError as error:
                raise AlreadyExists(f"{target} exists already") from error
            finally:
                partial.unlink()
            return
        # What is there afterwards decides. An upload whose answer was lost is sent again by the client and finds
        # itself, and some stores (Swift) look first and write then: two at once are both told that they made it.
        with contextlib.suppress(FileExistsError), self._opened(name) as (filesystem, path):
            filesystem.pipe_file(path, content, mode="create")
            time.sleep(_SETTLED_S)
        with contextlib.suppress(FileNotFoundError):
            # Gone again: it was another's, who gave it up in this instant.
            if self.read(name) == content:
                return
        raise AlreadyExists(f"{self.uri(name)} exists already")

    def upload_folder(self, source: Path, name: str) -> None:
        """Copy a local folder to `name`; complete when it appears, and kept as it is when it is there already.

        An object store has no folder rename, so the file `config.json` or, where there is none, the last name
        in order goes last: readers ask for that one.
        """
        if self.is_local:
            target = self._local(name)
            if target.exists():
                return
            partial = target.parent / f".partial-{uuid.uuid4().hex}"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copytree(source, partial)
                _rename_first(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return
        files = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        for file in sorted(files, key=lambda file: file == "config.json"):
            with self._opened(f"{name}/{file}") as (filesystem, path):
                filesystem.put_file(str(source / file), path)

    def download_folder(self, name: str, target: Path) -> Path:
        """A local folder with the content of `name`: the folder itself when the storage is local.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        if self.is_local:
            local = self._local(name)
            if not local.is_dir():
                raise FileNotFoundError(f"there is no folder {local}")
            return local
        if target.exists():
            return target
        partial = target.parent / f".partial-{uuid.uuid4().hex}"
        try:
            with self._opened(name) as (filesystem, path):
                if not filesystem.exists(path):
                    raise FileNotFoundError(f"there is no folder {self.uri(name)}")
                filesystem.get(path, str(partial), recursive=True)
            _rename_first(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens when there is none."""
        with self._opened(name) as (filesystem, path):
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)

    def _local(self, name: str) -> Path:
        return Path(self.url.removeprefix("file://")) / name


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a local file in one step; on any error the former file stays and no part of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _write_partial(path, content)
    partial.replace(path)


def _rename_first(partial: Path, target: Path) -> None:
    """Publish a folder, unless somebody else was faster."""
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():
            raise


def _write_partial(target: Path, content: bytes) -> Path:
    partial = target.parent / f".partial-{uuid.uuid4().hex}"
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial
