"""Inspections that were made before: a study's folds need not decode the same recordings to see that they are whole.

Kept where `AFFECT_SHARE_FRAMES` asks for it, as a study does. A clip counts as inspected when everything that is said
of it, the bounds, the code, and the size and time of its files are the same; that is also what DVC goes by before it
reads a file. What was refused is looked at again: it may have been mended elsewhere, and there is not much of it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from components import settings
from components.clip import Clip
from components.inspection import Bounds, Inspected
from components.storage import write_atomically

_CODE: Final = ("media*.py", "inspection.py", "clip.py")
_KEPT: Final = TypeAdapter(dict[str, Inspected])


class SharedInspections:
    """What is known of clips that were inspected with this code."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _digest()
        self._known: dict[str, Inspected] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                self._known.update(_KEPT.validate_json(path.read_bytes()))
            except (ValidationError, OSError):
                continue  # A damaged file costs its inspections, nothing more.

    def find(self, clip: Clip, bounds: Bounds) -> Inspected | None:
        """What an inspection of this clip found, or None when it has to be made."""
        key = _key(clip, bounds)
        return self._known.get(key) if key else None

    def keep(self, inspected: Iterable[tuple[Clip, Bounds, Inspected]]) -> None:
        """Keep what new inspections found, each with the clip as it was before."""
        named = {_key(clip, bounds): found for clip, bounds, found in inspected}
        new = {key: found for key, found in named.items() if key and key not in self._known}
        if new:
            write_atomically(self._folder / f"{uuid.uuid4().hex}.json", _KEPT.dump_json(new))


def open_shared() -> SharedInspections | None:
    """The shared inspections; None unless sharing was asked for."""
    here = settings.load()
    return SharedInspections(here.home / "shared" / "inspections") if here.share_frames else None


def _key(clip: Clip, bounds: Bounds) -> str:
    """A name for all that an inspection looks at; empty where its files have no size and time to go by."""
    status = []
    for uri in sorted({uri for uri in (clip.audio_uri, clip.video_uri) if uri}):
        try:
            found = Path(uri).stat()
        except OSError:
            return ""
        status.append([uri, found.st_size, found.st_mtime_ns])
    said = {**asdict(clip), "labels": sorted(clip.labels.items())}
    return hashlib.sha256(json.dumps([said, asdict(bounds), status], sort_keys=True).encode()).hexdigest()[:32]


def _digest() -> str:
    digest = hashlib.sha256()
    for pattern in _CODE:
        for file in sorted(Path(__file__).parent.glob(pattern)):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
