"""Files of features that were made elsewhere: OpenFace tables, numpy and HDF5 arrays, computational sequences.

Shapes: R rows of a file, N clips, F features.
"""

from __future__ import annotations

import csv
import fnmatch
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from components.features.alignment import Rows, clean, rows_from_times
from components.sources import Precomputed

SUFFIXES: Final = (".csv", ".npz", ".npy", ".h5", ".hdf5", ".csd")
# Where names are in a table that lies beside a file of vectors, in the order of its rows.
NAME_COLUMNS: Final = ("clip_id", "utterance_id", "key", "id")

_NUM_ACTION_UNITS: Final = 17
# OpenFace writes 17 intensities and 18 presences at the end of each row; used where the columns have other names.
_INTENSITIES: Final = slice(-35, -18)


class Collection(Protocol):
    """One file with the features of many clips."""

    def rows(self, key: str) -> Rows | None:
        """The features of one clip, None where the file has none."""
        ...


def read_clip_file(path: Path, settings: Precomputed) -> Rows:
    """The features of one clip, in a file of its own.

    Raises:
        ValueError: the file is damaged, has no such array or columns, or no time stamps and `row_s` is not set.
    """
    if path.suffix == ".csv":
        return _read_table(path, settings)
    if path.suffix in (".npz", ".npy"):
        return _timed(path, _arrays(path), settings)
    with _hdf5(path) as file:
        return _timed(path, {name: values[...] for name, values in file.items() if hasattr(values, "shape")}, settings)


def open_collection(path: Path, settings: Precomputed) -> Collection:
    """A file with the features of many clips.

    Raises:
        ValueError: it is missing, damaged, or of no known format.
    """
    if path.suffix == ".npz":
        return _vectors(path, settings)
    if path.suffix in (".csd", ".h5", ".hdf5"):
        return _Groups(path, settings)
    known = ", ".join(SUFFIXES)
    raise ValueError(f"{path} cannot hold many clips: name a .npz, .csd or .h5, or put {{clip_id}} in it; of {known}")


class _Vectors:
    """One row a clip."""

    def __init__(self, row_of: Mapping[str, int], values_NF: NDArray[np.float64]) -> None:
        self._row_of, self._values_NF = row_of, values_NF

    def rows(self, key: str) -> Rows | None:
        row = self._row_of.get(key)
        return None if row is None else Rows(self._values_NF[row : row + 1], None)


class _Sequences:
    """One array a clip, by name."""

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[Any]], settings: Precomputed) -> None:
        self._path, self._arrays, self._settings = path, arrays, settings

    def rows(self, key: str) -> Rows | None:
        if key not in self._arrays:
            return None
        return _timed(self._path, {"features": self._arrays[key]}, self._settings)


class _Groups:
    """A group or an array a clip in an HDF5 file, such as a computational sequence; opened anew in each process."""

    def __init__(self, path: Path, settings: Precomputed) -> None:
        self._path, self._settings = path, settings
        with _hdf5(path):
            pass

    def rows(self, key: str) -> Rows | None:
        with _hdf5(self._path) as file:
            place = file
            if self._path.suffix == ".csd":
                place = next(iter(file.values()))["data"]
            if key not in place:
                return None
            found = place[key]
            try:
                arrays = {"features": found[...]} if hasattr(found, "shape") else {k: v[...] for k, v in found.items()}
            except (OSError, RuntimeError) as error:
                raise ValueError(f"{self._path}: {key} cannot be read ({error}): get the file again") from error
        return _timed(self._path, arrays, self._settings)


def _vectors(path: Path, settings: Precomputed) -> Collection:
    arrays = _arrays(path)
    names = arrays.get("keys")
    if names is None and path.with_suffix(".csv").is_file():
        names = np.asarray(row_names(path.with_suffix(".csv")))
    if names is None:
        return _Sequences(path, arrays, settings)
    values = _chosen(path, arrays, settings, beside=("keys",))
    if values.ndim != 2 or len(values) != len(names):
        raise ValueError(f"{path}: {len(names)} names for an array of shape {values.shape}: one row a name is needed")
    row_of = {str(name): row for row, name in enumerate(names.tolist())}
    if len(row_of) < len(names):
        raise ValueError(f"{path}: {len(names) - len(row_of)} names are there more than once: make each name unique")
    return _Vectors(row_of, clean(_floats(path, values)))


def row_names(table: Path) -> list[str]:
    """Names of the clips in a table, in its order.

    Raises:
        ValueError: the table has none of `NAME_COLUMNS`.
    """
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        column = next((name for name in NAME_COLUMNS if name in (reader.fieldnames or ())), None)
        if column is None:
            raise ValueError(f"{table}: no column {' or '.join(NAME_COLUMNS)} says which clip a row is")
        return [row[column] for row in reader]


def _read_table(path: Path, settings: Precomputed) -> Rows:
    """OpenFace's output: columns by name, blanks around names dropped, else by their place in the row."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        lines = [line for line in reader if line]
    chosen = _columns(path, header, settings)
    lines = _of_main_face(header, lines)
    values_RF = clean(
        np.asarray([[_cell(line, column) for column in chosen] for line in lines]).reshape(-1, len(chosen))
    )
    if "timestamp" in header:
        at = header.index("timestamp")
        return rows_from_times(values_RF, np.asarray([_cell(line, at) for line in lines]))
    return _regular(path, values_RF, settings)


def _columns(path: Path, header: Sequence[str], settings: Precomputed) -> list[int]:
    patterns = [pattern.strip() for pattern in settings.columns.split(",")]
    chosen = [at for pattern in patterns for at, name in enumerate(header) if fnmatch.fnmatchcase(name, pattern)]
    is_unnamed = not chosen and settings.columns == Precomputed.model_fields["columns"].default
    if is_unnamed and len(header) >= -(_INTENSITIES.start or 0) and settings.width == _NUM_ACTION_UNITS:
        chosen = list(range(len(header)))[_INTENSITIES]
    if not chosen:
        raise ValueError(f"{path} has no column {settings.columns}: set columns to the names that it has")
    return chosen


def _of_main_face(header: Sequence[str], lines: list[list[str]]) -> list[list[str]]:
    """Where several faces were followed, the rows of the one that is there longest."""
    if "face_id" not in header:
        return lines
    at = header.index("face_id")
    counts = Counter(line[at].strip() for line in lines if len(line) > at)
    main = min(counts, key=lambda face: (-counts[face], face), default="")
    return [line for line in lines if len(line) > at and line[at].strip() == main]


def _cell(line: Sequence[str], column: int) -> float:
    try:
        return float(line[column])
    except (ValueError, IndexError):
        return float("nan")


def _timed(path: Path, arrays: Mapping[str, NDArray[Any]], settings: Precomputed) -> Rows:
    """An array with the time stamps that lie beside it."""
    beside = ("intervals", "times_s")
    values = _chosen(path, arrays, settings, beside=beside)
    if values.ndim == 1:
        return Rows(clean(_floats(path, values[None])), None)
    values_RF = clean(_floats(path, values.reshape(len(values), -1)))
    if "intervals" in arrays:
        intervals_R2 = _floats(path, arrays["intervals"]).reshape(-1, 2)
        _check_length(path, values_RF, intervals_R2)
        order = np.argsort(intervals_R2[:, 0], kind="stable")
        return Rows(values_RF[order], intervals_R2[order])
    if "times_s" in arrays:
        times_R = _floats(path, arrays["times_s"]).reshape(-1)
        _check_length(path, values_RF, times_R)
        return rows_from_times(values_RF, times_R)
    return _regular(path, values_RF, settings)


def _regular(path: Path, values_RF: NDArray[np.float64], settings: Precomputed) -> Rows:
    if settings.row_s is None:
        raise ValueError(f"{path} has no time stamps: set row_s to the length of a row in seconds")
    begins_R = np.arange(len(values_RF)) * settings.row_s
    return Rows(values_RF, np.stack([begins_R, begins_R + settings.row_s], axis=1))


def _check_length(path: Path, values_RF: NDArray[np.float64], times: NDArray[np.float64]) -> None:
    if len(values_RF) != len(times):
        raise ValueError(f"{path}: {len(values_RF)} rows of features and {len(times)} time stamps: make it again")


def _chosen(
    path: Path, arrays: Mapping[str, NDArray[Any]], settings: Precomputed, *, beside: Sequence[str]
) -> NDArray[Any]:
    names = [name for name in arrays if name not in beside]
    if settings.array is None and "features" in names:
        return arrays["features"]
    if settings.array is None and len(names) == 1:
        return arrays[names[0]]
    if settings.array not in names:
        wanted = "array is not set" if settings.array is None else f"no array {settings.array}"
        raise ValueError(f"{path}: {wanted}; there are {', '.join(names) or 'none'}: set array to one of them")
    return arrays[settings.array]


def _floats(path: Path, values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: an array of {values.dtype} holds no numbers: set array to one that does")
    return np.asarray(values, np.float64)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a numpy file; pickled ones are refused."""
    try:
        # Opened here: numpy leaves a file open that is no archive.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"features": loaded}
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no readable numpy file ({reason}): write it again, without objects") from error


def _hdf5(path: Path) -> Any:
    # h5py is only needed by those who have such files, and takes time to import in each worker.
    from components.datasets import _csd

    return _csd.opened_hdf5(path)
