"""Frames that were computed before: what a study's folds and seeds have in common, although their splits differ.

A stage's output depends on who tests, so DVC cannot give one fold the features of another. But the frames of a clip
depend on its files and the settings only. Where `AFFECT_SHARE_FRAMES` asks for it, as a study does, each shard's new
frames are kept below `.affect/shared/frames` too, and whoever needs a clip's frames again takes them from there, to
the bit. The words are left out: their numbers follow from the training words.

A file of this folder is a shard whose clips are named by their keys, with three values each: whether the sound is
silent, whether no face was found, and whether the recording was cut.
"""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from components import settings
from components.features import ClipFeatures
from components.features.clip_features import FeatureWarning, Frames
from components.params import Features
from components.shards import SUFFIX, Example, ShardSet, write_shard

_CODE: Final = ("media*.py", "shards.py", "features/*.py")
_WARNINGS: Final[tuple[FeatureWarning, ...]] = ("silence", "no-face", "truncated")


@dataclass(frozen=True)
class SharedFrames:
    """The shared frames of some clips.

    Attributes:
        folder: where frames of these settings and this code are kept.
        keys: by clip_id, what the frames of the clip depend on; clips without files have none.
        places: by key, the file and the position of frames that are there.
    """

    folder: Path
    keys: Mapping[str, str]
    places: Mapping[str, tuple[Path, int]]

    def only(self, clip_ids: Iterable[str]) -> SharedFrames:
        """What concerns some of the clips."""
        keys = {clip_id: self.keys[clip_id] for clip_id in clip_ids if clip_id in self.keys}
        return SharedFrames(self.folder, keys, {key: self.places[key] for key in keys.values() if key in self.places})

    def find(self, clip_id: str) -> Frames | None:
        """The frames of a clip, or None when they have to be computed."""
        place = self.places.get(self.keys.get(clip_id, ""))
        if place is None:
            return None
        path, position = place
        try:
            source = _opened(path)
        except (ValueError, FileNotFoundError):
            return None  # Somebody emptied the folder, or a disk failed: what is gone is computed again.
        found = source.features(position)
        flags = source.labels_NC[position]
        warnings = tuple(name for name, flag in zip(_WARNINGS, flags, strict=True) if flag)
        return Frames(found.audio_TF, found.video_TF, warnings)

    def keep(self, frames: Mapping[str, Frames], widths: tuple[int, int]) -> None:
        """Keep frames by clip_id; those of clips without a key are left out."""
        examples = [
            Example(
                self.keys[clip_id],
                "",
                tuple(float(name in each.warnings) for name in _WARNINGS),
                ClipFeatures(each.audio_TF, each.video_TF, np.zeros(0, np.int32)),
            )
            for clip_id, each in frames.items()
            if clip_id in self.keys
        ]
        if examples:
            write_shard(self.folder / f"{uuid.uuid4().hex}{SUFFIX}", examples, widths=widths)


def open_shared(rows: Sequence[Mapping[str, Any]], config: Features) -> SharedFrames | None:
    """The shared frames of the clips in these rows of `clips.parquet`; None unless sharing was asked for."""
    here = settings.load()
    if not here.share_frames:
        return None
    folder = here.home / "shared" / "frames" / _digest(config)
    keys = {row["clip_id"]: _key(row) for row in rows if row["md5"]}
    wanted = set(keys.values())
    places: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            names = ShardSet([path]).clip_ids
        except ValueError:
            continue
        places.update({name: (path, position) for position, name in enumerate(names) if name in wanted})
    return SharedFrames(folder, keys, places)


def _key(row: Mapping[str, Any]) -> str:
    """What the frames of a clip depend on beside settings and code: its files' content, and which part is meant."""
    audio, video = row["audio_uri"], row["video_uri"]
    used = [row["md5"], row["start_s"], row["end_s"], audio is not None, video is not None, audio == video]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()[:32]


def _digest(config: Features) -> str:
    values = config.model_dump(mode="json", exclude={"text": True, "clips_per_shard": True, "video": {"face_model"}})
    values["modalities"] = sorted(set(config.modalities) - {"text"})
    # An encoder's folder is told by what lies there, as a corpus is.
    folders = [Path(path) for path in (config.audio.path, config.video.path) if path]
    files = [(file, file.stat()) for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    values["encoders"] = [[str(file), status.st_size, status.st_mtime_ns] for file, status in files]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for pattern in _CODE:
        for file in sorted(Path(__file__).parent.glob(pattern)):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=16)
def _opened(path: Path) -> ShardSet:
    return ShardSet([path])
