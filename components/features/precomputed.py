"""Features that were made elsewhere, as an extractor: from a clip's names and span to its steps.

Sound and picture that are both read this way, with time stamps and equal steps, are cut to the shorter and lose the
steps in which either lacks something. So their steps stay side by side, as a model of pairs of steps needs it.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.clip import Clip
from components.features.alignment import Rows, drop_missing, to_steps
from components.features.feature_files import Collection, open_collection, read_clip_file
from components.media_limits import MediaError
from components.params import Features
from components.sources import Precomputed

_NAMES: Final = ("clip_id", "speaker_id", "session_id", "stem")
_LARGEST: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False)
class Given:
    """What was read for a clip: (T, F) float16 each; no steps where the file has none of this clip, None where the
    modality is not precomputed."""

    audio_TF: NDArray[np.float16] | None
    video_TF: NDArray[np.float16] | None


def check(config: Features) -> None:
    """Open what all clips share, so that a wrong name is told before the work begins.

    Raises:
        ValueError: a file is missing or damaged, a placeholder is unknown, or the widths differ.
    """
    for settings in _settings(config).values():
        _placeholders(settings.path)
        _placeholders(settings.key)
        if not _placeholders(settings.path):
            _collection(settings)


def read(clip: Clip, config: Features) -> Given:
    """The precomputed features of a clip.

    Raises:
        MediaError: a file of this clip is damaged or does not hold what the settings say.
    """
    settings: dict[str, Precomputed] = {
        name: each for name, each in _settings(config).items() if name in config.modalities
    }
    found = {name: _found(clip, each) for name, each in settings.items()}
    steps = {name: _steps(clip, found[name], each, config.max_duration_s) for name, each in settings.items()}
    if len(steps) == 2 and _are_side_by_side(settings, found):
        steps = dict(zip(steps, drop_missing(*steps.values()), strict=True))
    else:
        steps = {name: drop_missing(steps_TF)[0] for name, steps_TF in steps.items()}
    for name, each in _settings(config).items():
        steps.setdefault(name, np.zeros((0, each.width)))
    halves = {name: _half(clip, steps_TF, name) for name, steps_TF in steps.items()}
    return Given(halves.get("audio"), halves.get("video"))


def fingerprint(settings: Precomputed) -> str:
    """A name for the files that the settings mean, by their sizes and times."""
    pattern = "".join(
        glob.escape(text) + ("*" if name else "") for text, name, _, _ in string.Formatter().parse(settings.path)
    )
    digest = hashlib.sha256()
    for path in sorted(map(Path, glob.iglob(pattern))):
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _settings(config: Features) -> dict[str, Precomputed]:
    both = {"audio": config.audio.precomputed, "video": config.video.precomputed}
    return {name: settings for name, settings in both.items() if settings is not None}


def _placeholders(text: str) -> set[str]:
    names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    if not names <= set(_NAMES):
        raise ValueError(f"{text}: {{{min(names - set(_NAMES))}}} is none of {', '.join(f'{{{n}}}' for n in _NAMES)}")
    return names


def _found(clip: Clip, settings: Precomputed) -> Rows | None:
    try:
        if not _placeholders(settings.path):
            rows = _collection(settings).rows(_filled(settings.key, clip, settings))
        else:
            path = Path(_filled(settings.path, clip, settings))
            rows = read_clip_file(path, settings) if path.is_file() else None
    except (ValueError, OSError) as error:
        raise MediaError("features-damaged", str(error)) from error
    if rows is not None and rows.values_RF.shape[1] != settings.width:
        raise MediaError(
            "features-width",
            f"{clip.clip_id}: {settings.path} has {rows.values_RF.shape[1]} features a row, not width {settings.width}",
        )
    return rows


def _steps(clip: Clip, rows: Rows | None, settings: Precomputed, max_duration_s: float) -> NDArray[np.float64]:
    if rows is None:
        return np.zeros((0, settings.width))
    start_s, end_s = clip.start_s, np.inf if clip.end_s is None else clip.end_s
    if "clip_id" in (_placeholders(settings.path) or _placeholders(settings.key)):
        # What is named by the clip begins with it.
        start_s, end_s = 0.0, end_s - start_s
    return to_steps(
        rows,
        start_s=start_s,
        end_s=min(end_s, start_s + max_duration_s),
        step_s=settings.step_s,
        pooling=settings.pooling,
    )


def _are_side_by_side(settings: dict[str, Precomputed], found: dict[str, Rows | None]) -> bool:
    is_timed = all(rows is not None and rows.intervals_R2 is not None for rows in found.values())
    return is_timed and len({each.step_s for each in settings.values()}) == 1


def _filled(text: str, clip: Clip, settings: Precomputed) -> str:
    stem = Path(clip.video_uri or clip.audio_uri or "").stem
    names = {"clip_id": clip.clip_id, "speaker_id": clip.speaker_id, "session_id": clip.session_id, "stem": stem}
    if settings.rename is not None:
        pattern, replacement = settings.rename
        names = {kind: re.sub(pattern, replacement, name) for kind, name in names.items()}
    return text.format(**names)


def _half(clip: Clip, steps_TF: NDArray[np.float64], name: str) -> NDArray[np.float16]:
    if steps_TF.size and np.abs(steps_TF).max() > _LARGEST:
        raise MediaError(
            "features-too-large", f"{clip.clip_id}: {name} features reach {np.abs(steps_TF).max():g}: scale them down"
        )
    return steps_TF.astype(np.float16)


@functools.lru_cache(maxsize=8)
def _collection(settings: Precomputed) -> Collection:
    return open_collection(Path(settings.path), settings)
