"""What readers of published corpora share: a missing folder is told, and a file that was never fetched is found."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from components.datasets import Refusal

_LFS_MARK: Final = b"version https://git-lfs.github.com/spec/"
# A pointer is about 130 bytes long; a medium of that size holds nothing.
_MAX_STUB_BYTES: Final = 1024


def check_folder(root: Path, *, corpus: str, source: str) -> None:
    """Refuse a root that is no folder.

    Raises:
        ValueError: there is no such folder; the message names where to get the corpus.
    """
    if not root.is_dir():
        raise ValueError(f"{corpus}: there is no folder {root}; get the corpus from {source} and unpack it there")


def is_lfs_stub(path: Path) -> bool:
    """Whether a file is only the pointer that git leaves where git-lfs was not installed."""
    if path.stat().st_size > _MAX_STUB_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_MARK)) == _LFS_MARK


def lfs_refusal(path: Path) -> Refusal:
    """What to say about a git-lfs pointer."""
    detail = "a git-lfs pointer, not the file: run `git lfs install && git lfs pull` in the clone of the corpus"
    return Refusal(str(path), "git-lfs-stub", detail)


def find(root: Path, *names: str) -> Path | None:
    """The first of some files or folders that is there, with names relative to the root."""
    return next((root / name for name in names if (root / name).exists()), None)


def require(root: Path, name: str, *, corpus: str, source: str) -> Path:
    """A file or folder that the corpus cannot be read without.

    Raises:
        ValueError: it is missing or a git-lfs pointer; the message names where to get the corpus.
    """
    path = root / name
    if not path.exists():
        raise ValueError(f"{corpus}: {path} is missing; it belongs to the release, see {source}")
    if path.is_file() and is_lfs_stub(path):
        raise ValueError(f"{corpus}: {path} is a git-lfs pointer, not the file: run `git lfs pull` in the clone")
    return path


def is_hidden(path: Path) -> bool:
    """Whether a file is none of the release's: `.DS_Store`, or the `._` twin that macOS leaves beside each file."""
    return path.name.startswith(".")
