"""What inputs looked like in training, so that a service can tell when they begin to differ.

A clip becomes one short row of numbers a modality: the mean of each feature over time, or for words how many
there are and how many are unknown. The reference keeps each column's mean, deviation and deciles.

F columns of a modality, N clips, Q quantiles, C classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.clip import MODALITIES, Modality
from components.features import ClipFeatures
from components.features.text import UNKNOWN_ID
from components.storage import write_atomically

QUANTILES: Final = tuple(np.linspace(0, 1, 11).tolist())

_VALUES: Final = "values"


@dataclass(frozen=True, eq=False)
class Columns:
    """Distribution over clips of one modality's columns.

    Attributes:
        num_clips: clips that have the modality; with none, the arrays are empty.
        mean_F, deviation_F: over clips.
        quantiles_QF: at the shares `QUANTILES`.
    """

    num_clips: int
    mean_F: NDArray[np.float32]
    deviation_F: NDArray[np.float32]
    quantiles_QF: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DriftReference:
    """Inputs of the training part, and what was answered on the validation part.

    Attributes:
        class_shares_C: the share of clips for which each class was answered, or each of several labels; of values,
            nothing.
        values: the distribution of each answered value; None for other kinds of task.
    """

    modalities: Mapping[Modality, Columns]
    class_shares_C: NDArray[np.float32]
    values: Columns | None = None

    def save(self, path: Path) -> None:
        """Write as plain arrays, without pickles; the same content gives the same bytes."""
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {"class_shares": self.class_shares_C}
        named: dict[str, Columns] = {str(name): columns for name, columns in self.modalities.items()}
        if self.values is not None:
            named[_VALUES] = self.values
        for name, columns in named.items():
            arrays[f"{name}_num_clips"] = np.asarray(columns.num_clips, dtype=np.int64)
            arrays[f"{name}_mean"] = columns.mean_F
            arrays[f"{name}_deviation"] = columns.deviation_F
            arrays[f"{name}_quantiles"] = columns.quantiles_QF
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_atomically(path, content.getvalue())


def load(path: Path) -> DriftReference:
    """Read what `DriftReference.save` wrote.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    try:
        # From memory: numpy leaves a file open when it is no archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            columns = {modality: _stored(arrays, modality) for modality in MODALITIES}
            values = _stored(arrays, _VALUES) if f"{_VALUES}_num_clips" in arrays else None
            return DriftReference(columns, arrays["class_shares"], values)
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"no drift reference: {' '.join(str(error).split())}") from error


def summarise(features: ClipFeatures, *, unknown_id: int | None = UNKNOWN_ID) -> dict[Modality, NDArray[np.float32]]:
    """One row of numbers for each modality that the clip has; of words, their number and the share of unknown ones.

    Args:
        features: of the clip.
        unknown_id: the tokenizer's own; None where it knows every word.
    """
    rows: dict[Modality, NDArray[np.float32]] = {}
    if len(features.audio_TF):
        rows["audio"] = features.audio_TF.mean(axis=0, dtype=np.float32)
    if len(features.video_TF):
        rows["video"] = features.video_TF.mean(axis=0, dtype=np.float32)
    if num_words := len(features.word_ids_T):
        unknown_share = 0.0 if unknown_id is None else float(np.mean(features.word_ids_T == unknown_id))
        rows["text"] = np.array([num_words, unknown_share], dtype=np.float32)
    return rows


def describe(
    clips: Sequence[ClipFeatures],
    class_shares_C: NDArray[np.float32],
    values: Columns | None = None,
    *,
    unknown_id: int | None = UNKNOWN_ID,
) -> DriftReference:
    """The reference that these training clips make, with what was answered on others."""
    rows: dict[Modality, list[NDArray[np.float32]]] = {modality: [] for modality in MODALITIES}
    for clip in clips:
        for modality, row in summarise(clip, unknown_id=unknown_id).items():
            rows[modality].append(row)
    return DriftReference({name: columns_of(found) for name, found in rows.items()}, class_shares_C, values)


def columns_of(rows: Sequence[NDArray[np.float32]]) -> Columns:
    """The distribution of each column of some rows."""
    if not rows:
        nothing = np.zeros(0, dtype=np.float32)
        return Columns(0, nothing, nothing, np.zeros((len(QUANTILES), 0), dtype=np.float32))
    values_NF = np.stack(rows).astype(np.float64)
    return Columns(
        num_clips=len(rows),
        mean_F=values_NF.mean(axis=0).astype(np.float32),
        deviation_F=values_NF.std(axis=0).astype(np.float32),
        quantiles_QF=np.quantile(values_NF, QUANTILES, axis=0).astype(np.float32),
    )


def _stored(arrays: Mapping[str, NDArray[Any]], name: str) -> Columns:
    return Columns(
        int(arrays[f"{name}_num_clips"]),
        arrays[f"{name}_mean"],
        arrays[f"{name}_deviation"],
        arrays[f"{name}_quantiles"],
    )
