"""Bringing a corpus that anybody may download: `dvc import-url` part by part, verified, and taken up where it stopped.

The corpus's folder becomes a DVC repository of its own; `archives/NAME.dvc` says of each part where it came from and
what its md5 is. An archive is unpacked and then removed, with its copy in the cache, unless it is to be kept; the list
of what was in it stays, so that a part that is there is known without a look at the network.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import aiohttp
from dvc.exceptions import DvcException
from dvc.repo import Repo

from components.catalogue import Part, Release
from components.datasets._release import is_lfs_stub
from components.storage import write_atomically

ARCHIVES: Final = "archives"

_NUM_TRIES: Final = 3
_PIECE_BYTES: Final = 1 << 20
_NETWORK_ERRORS: Final = (DvcException, aiohttp.ClientError, OSError, TimeoutError)


class FetchError(ValueError):
    """A part that could not be brought, or that is not what its publisher says."""


@dataclass(frozen=True)
class Brought:
    """A part that is there: `fetched` now, or `kept` from a former time."""

    name: str
    url: str
    state: Literal["fetched", "kept"]
    num_bytes: int
    md5: str
    num_files: int


def fetch(
    release: Release,
    folder: Path,
    *,
    only: str = "*",
    keep_archives: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Brought]:
    """Bring the parts whose names fit the pattern `only` into a folder; those that are there are not brought again.

    Raises:
        FetchError: a part cannot be downloaded, or its size, md5 or content is wrong; what was brought before stays.
        ValueError: no part has such a name, or the disk is too small.
    """
    parts = [part for part in release.parts if fnmatch.fnmatchcase(part.name, only)]
    if not parts:
        names = ", ".join(part.name for part in release.parts)
        raise ValueError(f"{release.name} has no part {only}; there are: {names}")
    folder = folder.expanduser().resolve()
    (folder / ARCHIVES).mkdir(parents=True, exist_ok=True)
    brought = []
    with _quiet(), _repository(folder) as repository:
        for number, part in enumerate(parts, start=1):
            there = _already_there(part, folder)
            if there is None:
                size = f", {part.num_bytes / 1e6:.0f} MB" if part.num_bytes else ""
                tell(f"{number}/{len(parts)} {part.name}{size}")
                _download(part, folder, repository, tell, pause_s=release.pause_s)
                there = _bring(part, folder, repository, keep=keep_archives)
            else:
                tell(f"{number}/{len(parts)} {part.name} is there")
            brought.append(there)
    return brought


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DVC's messages off the standard output, which is the command's own; its progress bar goes elsewhere."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _repository(folder: Path) -> Any:
    if (folder / ".dvc").is_dir():
        return Repo(str(folder))
    repository = Repo.init(str(folder), no_scm=True)
    with repository.config.edit() as config:
        config["core"]["analytics"] = False
        config["core"]["check_update"] = False
        # A part is large: what the cache and the folder both hold is one file on the disk.
        config["cache"]["type"] = ["reflink", "hardlink", "copy"]
    repository.close()
    return Repo(str(folder))


def _already_there(part: Part, folder: Path) -> Brought | None:
    """What a former run noted of a part, if all of it is still there in its size."""
    note = _note_path(part, folder)
    if not note.exists():
        return None
    known = json.loads(note.read_text(encoding="utf-8"))
    if part.md5 not in (None, known["md5"]):
        return None
    for name, num_bytes in known["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != num_bytes:
            return None
    return Brought(part.name, part.url, "kept", known["num_bytes"], known["md5"], len(known["files"]))


def _bring(part: Part, folder: Path, repository: Any, *, keep: bool) -> Brought:
    """Verify what was downloaded, and unpack it."""
    archive = folder / ARCHIVES / part.name
    difference = _difference(part, archive)
    if difference is not None:
        _forget(archive, repository)
        raise FetchError(f"{part.name} is not what its publisher has: {difference}; run the command again")
    md5, num_bytes = _md5(archive), archive.stat().st_size
    try:
        files = _unpack(part, archive, folder) if part.is_archive else _place(part, archive, folder)
    except (zipfile.BadZipFile, FetchError) as error:
        _forget(archive, repository)
        raise FetchError(f"{part.name} is damaged ({error}); run the command again") from error
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    note = {"url": part.url, "md5": md5, "num_bytes": num_bytes, "files": sizes}
    write_atomically(_note_path(part, folder), json.dumps(note, indent=1).encode())
    if part.is_archive and not keep:
        _drop_copies(archive, md5, repository)
    return Brought(part.name, part.url, "fetched", num_bytes, md5, len(sizes))


def _download(part: Part, folder: Path, repository: Any, tell: Callable[[str], None], *, pause_s: float) -> None:
    """`dvc import-url` of what is not there yet, again after an error of the network."""
    archive = folder / ARCHIVES / part.name
    if archive.exists() and part.md5 is not None and _difference(part, archive) is None:
        return
    archive.unlink(missing_ok=True)
    _check_space(part, folder)
    for attempt in range(1, _NUM_TRIES + 1):
        try:
            repository.imp_url(part.url, out=str(archive), force=True)
            return
        except _NETWORK_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if attempt == _NUM_TRIES:
                raise FetchError(
                    f"{part.name} cannot be downloaded from {part.url} ({reason}): see that it can be reached, and run "
                    "the command again, which goes on with this part"
                ) from error
            tell(f"{part.name}: {reason}; trying again")
            time.sleep(pause_s * attempt)


def _difference(part: Part, archive: Path) -> str | None:
    """In what a file differs from what its publisher says of it."""
    num_bytes = archive.stat().st_size
    if part.num_bytes not in (None, num_bytes):
        return f"{num_bytes} bytes instead of {part.num_bytes}"
    if part.md5 is not None:
        md5 = _md5(archive)
        if md5 != part.md5:
            return f"md5 {md5} instead of {part.md5}"
    return "a git-lfs pointer" if is_lfs_stub(archive) else None


def _unpack(part: Part, archive: Path, folder: Path) -> list[Path]:
    """The files of an archive below the folder, each written whole; their checksums are checked on the way."""
    target = folder / part.folder
    files = []
    with zipfile.ZipFile(archive) as content:
        members = [(member, _inner_name(part, member)) for member in content.infolist() if not member.is_dir()]
        wanted = [(member, name) for member, name in members if name is not None]
        for pattern, count in part.holds.items():
            found = sum(fnmatch.fnmatchcase(name, pattern) for _, name in wanted)
            if found != count:
                raise FetchError(f"{found} files {pattern} instead of {count}")
        for member, name in wanted:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial-{path.name}")
            with content.open(member) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, _PIECE_BYTES)
            if is_lfs_stub(partial):
                partial.unlink()
                raise FetchError(f"{name} is a git-lfs pointer")
            partial.replace(path)
            files.append(path)
    return files


def _inner_name(part: Part, member: zipfile.ZipInfo) -> str | None:
    """Where a file of an archive belongs; None for what an operating system left in it."""
    names = PurePosixPath(member.filename).parts
    if PurePosixPath(member.filename).is_absolute() or ".." in names:
        raise FetchError(f"it has a file {member.filename}, which would lie outside of the folder")
    if "__MACOSX" in names or names[-1].startswith("."):
        return None
    inner = names[part.strip :]
    if not inner:
        raise FetchError(f"it has a file {member.filename} with fewer than {part.strip} folders")
    return "/".join(inner)


def _place(part: Part, archive: Path, folder: Path) -> Sequence[Path]:
    path = folder / part.folder / part.name
    write_atomically(path, archive.read_bytes())
    return [path]


def _check_space(part: Part, folder: Path) -> None:
    # The archive and what comes out of it, which is hardly smaller.
    needed = 2 * (part.num_bytes or 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{folder}: {free / 1e9:.1f} GB are free, {part.name} needs {needed / 1e9:.1f} GB: make room")


def _forget(archive: Path, repository: Any) -> None:
    """Remove a wrong file, so that the next run does not take it from the cache."""
    if archive.exists():
        _drop_copies(archive, _md5(archive), repository)
    archive.with_name(f"{archive.name}.dvc").unlink(missing_ok=True)


def _drop_copies(archive: Path, md5: str, repository: Any) -> None:
    Path(repository.cache.local.oid_to_path(md5)).unlink(missing_ok=True)
    archive.unlink(missing_ok=True)


def _note_path(part: Part, folder: Path) -> Path:
    return folder / ARCHIVES / f"{part.name}.files.json"


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
