"""Computational sequences as the CMU SDK writes them, small, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Features = Sequence[Sequence[float]] | Sequence[Sequence[bytes]] | NDArray[np.floating[Any]]
Recording = tuple[Features, Sequence[tuple[float, float]]]


def write_csd(path: Path, root: str, recordings: Mapping[str, Recording]) -> Path:
    """Features and intervals of each recording, with the metadata that the SDK asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        for name, (features, intervals) in recordings.items():
            values = np.asarray(features)
            place = group.create_group(f"data/{name}")
            place.create_dataset(
                "features", data=values.astype("S32") if values.dtype.kind == "S" else values, compression="gzip"
            )
            place.create_dataset("intervals", data=np.asarray(intervals, np.float64).reshape(-1, 2), compression="gzip")
        for key in ("root name", "computational sequence version"):
            text = group.create_dataset(f"metadata/{key}", (1,), dtype=h5py.special_dtype(vlen=str))
            text[0] = json.dumps(root)
    return path
