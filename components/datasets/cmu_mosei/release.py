"""What of CMU-MOSEI lies below a folder: computational sequences, the raw tree, or both, wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.datasets.cmu_mosei import folds

SOURCE: Final = (
    "http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset: the .csd files, by the CMU Multimodal SDK, or the raw zip"
)
LABELS: Final = ("CMU_MOSEI_Labels.csd", "CMU_MOSEI_LabelsSentiment.csd")
WORDS: Final = "CMU_MOSEI_TimestampedWords.csd"

# Directories of the raw zip, best first; the whole path is compared from its end.
_TRANSCRIPTS: Final = ("Transcript/Segmented/Combined", "Transcript/Combined", "Transcript/Segmented")
_SOUND_FOLDER: Final = "WAV_16000"
_PICKLES: Final = frozenset({".pkl", ".pickle"})


@dataclass(frozen=True)
class Release:
    """Files of a release by their role.

    Attributes:
        labels: computational sequence of labels, or None.
        tables: the annotators' answers of the raw tree.
        words: computational sequence of words, or None.
        transcripts: file by video.
        videos, sounds: whole recording by video.
        folds: the SDK's file of folds, or None.
    """

    labels: Path | None
    tables: tuple[Path, ...]
    words: Path | None
    transcripts: Mapping[str, Path]
    videos: Mapping[str, Path]
    sounds: Mapping[str, Path]
    folds: Path | None

    @property
    def has_recordings(self) -> bool:
        return bool(self.videos or self.sounds)


def find(root: Path) -> Release:
    """Look through the folder once.

    Raises:
        ValueError: no labels are there; says what is there instead where that is a known mistake.
    """
    by_name: dict[str, Path] = {}
    tables, pickles = [], []
    transcripts: dict[str, dict[str, Path]] = {place: {} for place in _TRANSCRIPTS}
    videos: dict[str, Path] = {}
    sounds: dict[str, Path] = {}
    for path in _files(root):
        folder = path.parent.as_posix()
        by_name.setdefault(path.name, path)
        if path.suffix == ".csv" and path.parent.name == "Labels":
            tables.append(path)
        elif path.suffix == ".txt":
            for place in _TRANSCRIPTS:
                if folder.endswith(place):
                    transcripts[place].setdefault(path.stem, path)
        elif path.suffix == ".mp4" and "Segmented" not in path.parts:
            videos.setdefault(path.stem, path)
        elif path.suffix == ".wav" and _SOUND_FOLDER in path.parts:
            sounds.setdefault(path.stem, path)
        elif path.suffix in _PICKLES:
            pickles.append(path)
    labels = next((by_name[name] for name in LABELS if name in by_name), None)
    if labels is None and not tables:
        raise ValueError(_nothing(root, pickles))
    return Release(
        labels=labels,
        tables=tuple(tables),
        words=by_name.get(WORDS),
        transcripts=next((found for found in transcripts.values() if found), {}),
        videos=videos,
        sounds=sounds,
        folds=by_name.get(folds.FILE),
    )


def _files(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        # A link that leads back up would go on for ever.
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _nothing(root: Path, pickles: list[Path]) -> str:
    if pickles:
        return (
            f"cmu_mosei: {pickles[0]} is a pickle, which can run code when it is opened, so it is never read; get "
            f"{LABELS[0]} instead, from {SOURCE}"
        )
    return f"cmu_mosei: neither {LABELS[0]} nor Raw/Labels/*.csv is below {root}; get the corpus from {SOURCE}"
