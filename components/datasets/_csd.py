"""Computational sequences: HDF5 files of time-stamped features by recording, as the CMU Multimodal SDK writes them.

A file has one root group, and in it `data/RECORDING/features` (T, F) beside `data/RECORDING/intervals` (T, 2), in
seconds from the recording's start. Shapes: T rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from components.datasets._release import is_lfs_stub


@dataclass(frozen=True, eq=False)
class Sequence:
    """The rows of one recording: `features_TF` as they are in the file, words are bytes; `intervals_T2` in seconds."""

    features_TF: NDArray[Any]
    intervals_T2: NDArray[np.float64]


class SequenceFile:
    """An open computational sequence."""

    def __init__(self, path: Path, data: h5py.Group) -> None:
        self.path = path
        self._data = data

    def __contains__(self, recording: str) -> bool:
        return recording in self._data

    def recordings(self) -> Iterator[str]:
        """Names of the recordings, in the file's order."""
        yield from self._data

    def read(self, recording: str) -> Sequence:
        """The rows of a recording.

        Raises:
            KeyError: it is not in the file.
            ValueError: its part of the file is damaged or not of the format.
        """
        group = self._data[recording]
        try:
            features_TF, intervals_T2 = group["features"][...], group["intervals"][...]
        except (KeyError, OSError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{self.path}: {recording} cannot be read ({_line(error)}): the file is damaged, get it again"
            ) from error
        if intervals_T2.ndim != 2 or intervals_T2.shape[1] != 2 or features_TF.ndim < 2:
            raise ValueError(
                f"{self.path}: {recording} has intervals {intervals_T2.shape} and features {features_TF.shape}, not "
                "(rows, 2) and (rows, features): it is no computational sequence"
            )
        if len(features_TF) != len(intervals_T2):
            raise ValueError(
                f"{self.path}: {recording} has {len(features_TF)} rows of features and {len(intervals_T2)} intervals: "
                "the file is damaged, get it again"
            )
        return Sequence(features_TF.reshape(len(features_TF), -1), intervals_T2.astype(np.float64))


@contextmanager
def opened(path: Path) -> Iterator[SequenceFile]:
    """Open a computational sequence.

    Raises:
        ValueError: it is missing, a git-lfs pointer, cut off, or something else; names the file and the remedy.
    """
    with opened_hdf5(path) as file:
        roots = list(file)
        data = file[roots[0]].get("data") if roots and isinstance(file[roots[0]], h5py.Group) else None
        if not isinstance(data, h5py.Group):
            raise ValueError(f"{path} has no group ROOT/data: it is HDF5, but no computational sequence")
        yield SequenceFile(path, data)


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file.

    Raises:
        ValueError: it is missing, a git-lfs pointer, cut off, or something else; names the file and the remedy.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: correct the name, or put the file there")
    if is_lfs_stub(path):
        raise ValueError(f"{path} is a git-lfs pointer, not the file: run `git lfs pull` in the clone")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        what = "was cut off" if "truncated" in str(error) else "is no readable HDF5 file"
        raise ValueError(f"{path} {what} ({_line(error)}): download or copy it again") from error
    with file:
        yield file


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
