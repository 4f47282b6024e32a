"""The files that make a bundle, and the version that their content gives it.

Apart from `bundle.py`, so that the release log and the command line need not import torch to name a bundle.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
PREPROCESS: Final = "preprocess.json"
TOKENIZER: Final = "tokenizer.json"
LABELS: Final = "labels.json"
TASK: Final = "task.json"
FACE_MODEL: Final = "face_model.onnx"
THRESHOLDS: Final = "thresholds.json"
GRAPH: Final = "graph.pt"
PROVENANCE: Final = "provenance.json"
GOLDEN: Final = "golden.json"
DRIFT_REFERENCE: Final = "drift_reference.npz"
CARD: Final = "CARD.md"

FILES: Final = (WEIGHTS, CONFIG, PREPROCESS, TOKENIZER, LABELS, PROVENANCE, GOLDEN, DRIFT_REFERENCE, CARD)

# What is asked, where it is not just one class of several by name; the thresholds of several labels; the network that
# finds faces, where it is not OpenCV's own; the recorded model, of a system that can be recorded. A bundle from before
# there were such has none, and keeps its version.
OPTIONAL_FILES: Final = (TASK, THRESHOLDS, FACE_MODEL, GRAPH)

# Probabilities of the same weights differ by the order of float32 sums, which is far below this.
GOLDEN_TOLERANCE: Final = 1e-5

_VERSION_LENGTH = 12


def check_complete(folder: Path) -> None:
    """Refuse a folder that lacks one of a bundle's files, or holds an empty one.

    Raises:
        ValueError: names the file and the remedy.
    """
    if not folder.is_dir():
        raise ValueError(f"bundle {folder}: there is no such folder; build one with `dvc repro`")
    for name in FILES:
        if not (folder / name).is_file():
            raise ValueError(f"bundle {folder}: {name} is missing; build it again with `dvc repro`, or fetch it again")
    for name in files_of(folder):
        if (folder / name).stat().st_size == 0:
            raise ValueError(f"bundle {folder}: {name} is empty; build it again with `dvc repro`, or fetch it again")


def files_of(folder: Path) -> tuple[str, ...]:
    """The names of a bundle's files: those that every one has, and the optional ones that this one has."""
    return (*FILES, *(name for name in OPTIONAL_FILES if (folder / name).is_file()))


def version_of(folder: Path) -> str:
    """The bundle's version: a short digest over its files, the same wherever the folder lies.

    Raises:
        ValueError: the bundle is not complete.
    """
    check_complete(folder)
    digest = hashlib.sha256()
    for name in files_of(folder):
        with (folder / name).open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:_VERSION_LENGTH]
