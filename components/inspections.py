"""Inspections that were made before, on the disk: nobody decodes a recording twice to see that it is whole.

A stage that is interrupted finds beside its output what it had inspected until then. Where `AFFECT_SHARE_INSPECTIONS`
or `AFFECT_SHARE_FRAMES` asks for it, as flows and studies do, they are kept below `.affect/shared` instead: for the
next night's run on a corpus that has grown, and for a study's other folds. A clip counts as inspected when everything
that is said of it, the bounds, the code, and the size and time of its files are the same; that is also what DVC goes
by before it reads a file. What was refused is looked at again: it may have been mended elsewhere, and there is not
much of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from components import settings
from components.clip import Clip
from components.inspection import Bounds, Inspected

_CODE: Final = ("media*.py", "inspection.py", "clip.py")
_INSPECTED: Final = TypeAdapter(Inspected)
# So many are lost with a process that is killed; each time costs a write that waits for the disk.
_KEPT_AT_ONCE: Final = 64
_WAIT_S: Final = 60.0


class Inspections:
    """What is known of clips that were inspected with this code; other processes may add to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new: list[tuple[bytes, bytes]] = []
        self._connection = _open(path) if path.exists() else None

    def find(self, clip: Clip, bounds: Bounds) -> Inspected | None:
        """What an inspection of this clip found, or None when it has to be made."""
        if self._connection is None:
            return None
        key = _key(clip, bounds)
        row = self._connection.execute("SELECT found FROM inspected WHERE key = ?", (key,)).fetchone()
        try:
            return _INSPECTED.validate_json(row[0]) if row else None
        except ValidationError:
            return None

    def keep(self, clip: Clip, bounds: Bounds, found: Inspected) -> None:
        """Keep what a new inspection found of the clip as it was before; safe on the disk with the next few."""
        if key := _key(clip, bounds):
            self._new.append((key, _INSPECTED.dump_json(found)))
        if len(self._new) >= _KEPT_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._connection:
            self._connection.close()

    def _flush(self) -> None:
        if self._new:
            self._connection = self._connection or _open(self.path)
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO inspected VALUES (?, ?)", self._new)
            self._new.clear()


def shared_path() -> Path | None:
    """Where inspections are kept for other runs; None unless sharing was asked for."""
    here = settings.load()
    is_shared = here.share_inspections or here.share_frames
    return here.home / "shared" / "inspections.sqlite" if is_shared else None


def _open(path: Path) -> sqlite3.Connection:
    """The file's table; a damaged file costs its inspections, nothing more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_WAIT_S)
    try:
        whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        whole = False
    if not whole:
        connection.close()
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path, timeout=_WAIT_S)
    connection.execute("CREATE TABLE IF NOT EXISTS inspected (key BLOB PRIMARY KEY, found BLOB) WITHOUT ROWID")
    return connection


def _key(clip: Clip, bounds: Bounds) -> bytes:
    """A name for all that an inspection looks at; empty where its files have no size and time to go by."""
    status = []
    for uri in sorted({uri for uri in (clip.audio_uri, clip.video_uri) if uri}):
        try:
            found = Path(uri).stat()
        except OSError:
            return b""
        status.append([uri, found.st_size, found.st_mtime_ns])
    said = {**vars(clip), "labels": sorted(clip.labels.items())}
    content = json.dumps([_code(), said, asdict(bounds), status], sort_keys=True)
    return hashlib.sha256(content.encode()).digest()[:16]


@functools.cache
def _code() -> str:
    digest = hashlib.sha256()
    for pattern in _CODE:
        for file in sorted(Path(__file__).parent.glob(pattern)):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
