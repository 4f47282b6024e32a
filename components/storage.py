"""Files in a folder or in an object store, through one interface (fsspec).

Everything that another process may read is written whole or not at all: a folder gets a temporary file and a
rename, an object store gets one upload that becomes visible when it is complete.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem


class AlreadyExists(FileExistsError):
    """Somebody else created this name first."""


@dataclass(frozen=True)
class Storage:
    """A root (a folder or `s3://bucket/prefix`) and the operations the platform needs on it.

    Names are relative to the root and use `/`. Errors of the file system (missing file, full disk, refused
    key) pass through as the `OSError` they are.
    """

    url: str

    def _open(self, name: str) -> tuple[AbstractFileSystem, str]:
        filesystem, root = fsspec.core.url_to_fs(self.url)
        return filesystem, f"{root.rstrip('/')}/{name}" if name else root

    @property
    def is_local(self) -> bool:
        return "://" not in self.url or self.url.startswith("file://")

    def uri(self, name: str) -> str:
        """The full address of a name, as `fsspec` and pyarrow read it."""
        return f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        filesystem, path = self._open(name)
        content: bytes = filesystem.cat_file(path)
        return content

    def exists(self, name: str) -> bool:
        filesystem, path = self._open(name)
        filesystem.invalidate_cache()
        return bool(filesystem.exists(path))

    def names(self, folder: str) -> list[str]:
        """File and folder names directly below `folder`, sorted; empty when there is none."""
        filesystem, path = self._open(folder)
        filesystem.invalidate_cache()
        try:
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
        filesystem, path = self._open(name)
        filesystem.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> None:
        """Write a file that must not exist yet, atomically.

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
        filesystem, path = self._open(name)
        try:
            filesystem.pipe_file(path, content, mode="create")
        except FileExistsError as error:
            raise AlreadyExists(f"{self.uri(name)} exists already") from error

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
                try:
                    partial.rename(target)
                except OSError:
                    if not target.exists():
                        raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            return
        filesystem, path = self._open(name)
        files = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        for file in sorted(files, key=lambda file: file == "config.json"):
            filesystem.put_file(str(source / file), f"{path}/{file}")

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
        filesystem, path = self._open(name)
        if not filesystem.exists(path):
            raise FileNotFoundError(f"there is no folder {self.uri(name)}")
        if not target.exists():
            partial = target.parent / f".partial-{uuid.uuid4().hex}"
            filesystem.get(path, str(partial), recursive=True)
            partial.rename(target)
        return target

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens when there is none."""
        filesystem, path = self._open(name)
        filesystem.invalidate_cache()
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def _local(self, name: str) -> Path:
        return Path(self.url.removeprefix("file://")) / name


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a local file in one step; on any error the former file stays and no part of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _write_partial(path, content)
    partial.replace(path)


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
