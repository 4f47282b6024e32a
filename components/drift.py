"""What inputs looked like in training, so that a service can tell when they begin to differ.

A clip becomes one short row of numbers a modality: the mean of each feature over time, or for words how many
there are and how many are unknown; and one number more, how much moves in it. The reference keeps each
column's mean, deviation and deciles, and some clips as they are, by speaker: two speakers differ more than two clips
of one, and only who knows by how much can tell other speakers from another world.

F columns of a modality, N clips, Q quantiles, C classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
_ANSWERS: Final = "answers"

# So many speakers are kept, and so many clips of each: what a day of traffic is compared with.
MAX_SPEAKERS: Final = 64
MAX_CLIPS_PER_SPEAKER: Final = 32
_SEED: Final = 0

# A clip that moves less than this share of a usual one is dead: digital silence and a picture that stands still are at
# 0, noise moves nearly as much as a voice.
DEAD_SHARE_OF_MOVEMENT: Final = 0.05


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
class SpokenRows:
    """Rows of some clips with who speaks in each.

    Attributes:
        rows_NF: one row a clip.
        speaker_N: a number for each speaker, who is not named.
    """

    rows_NF: NDArray[np.float32]
    speaker_N: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows_NF)

    @property
    def num_speakers(self) -> int:
        return len(np.unique(self.speaker_N))


@dataclass(frozen=True, eq=False)
class DriftReference:
    """Inputs of the training part, and what was answered on the validation part.

    Attributes:
        class_shares_C: the share of clips for which each class was answered, or each of several labels; of values,
            nothing.
        values: the distribution of each answered value; None for other kinds of task.
        clips: of each modality some clips of the training part; none in a bundle from before they were kept.
        movements: of each modality what `Summary.movements` is in the middle of the training clips that have it.
        dead_shares: the share of training clips without a modality, or with one in which nothing moves.
        answers: what was answered on the validation part, with its speakers.
    """

    modalities: Mapping[Modality, Columns]
    class_shares_C: NDArray[np.float32]
    values: Columns | None = None
    clips: Mapping[Modality, SpokenRows] = field(default_factory=dict)
    movements: Mapping[Modality, float] = field(default_factory=dict)
    dead_shares: Mapping[Modality, float] = field(default_factory=dict)
    answers: SpokenRows | None = None

    def save(self, path: Path) -> None:
        """Write as plain arrays, without pickles; the same content gives the same bytes."""
        arrays: dict[str, NDArray[Any]] = {"class_shares": self.class_shares_C}
        named: dict[str, Columns] = {str(name): columns for name, columns in self.modalities.items()}
        if self.values is not None:
            named[_VALUES] = self.values
        for name, columns in named.items():
            arrays[f"{name}_num_clips"] = np.asarray(columns.num_clips, dtype=np.int64)
            arrays[f"{name}_mean"] = columns.mean_F
            arrays[f"{name}_deviation"] = columns.deviation_F
            arrays[f"{name}_quantiles"] = columns.quantiles_QF
        spoken: dict[str, SpokenRows] = {str(name): rows for name, rows in self.clips.items()}
        if self.answers is not None:
            spoken[_ANSWERS] = self.answers
        for name, rows in spoken.items():
            # The features are of half precision themselves.
            arrays[f"{name}_rows"] = rows.rows_NF.astype(np.float16)
            arrays[f"{name}_speakers"] = rows.speaker_N
        for modality, movement in self.movements.items():
            arrays[f"{modality}_movement"] = np.asarray(movement, np.float32)
            arrays[f"{modality}_dead_share"] = np.asarray(self.dead_shares[modality], np.float32)
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
            return DriftReference(
                columns,
                arrays["class_shares"],
                values,
                {name: rows for name in MODALITIES if (rows := _spoken(arrays, name)) is not None},
                {name: float(arrays[f"{name}_movement"]) for name in MODALITIES if f"{name}_movement" in arrays},
                {name: float(arrays[f"{name}_dead_share"]) for name in MODALITIES if f"{name}_dead_share" in arrays},
                _spoken(arrays, _ANSWERS),
            )
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"no drift reference: {' '.join(str(error).split())}") from error


@dataclass(frozen=True, eq=False)
class Summary:
    """One clip in a few numbers, from which neither its sound nor its picture nor its words can be had again.

    Attributes:
        rows: of each modality that the clip has, as `summarise` makes them.
        movements: of sound and picture, how far one step is from the next in the middle of the clip's steps, as a mean
            over the features: 0 where nothing moves. A clip of one step has none.
    """

    rows: Mapping[Modality, NDArray[np.float32]]
    movements: Mapping[Modality, float]


def summary_of(features: ClipFeatures, *, unknown_id: int | None = UNKNOWN_ID) -> Summary:
    """What is kept of a clip, whether of the training part or of a request."""
    steps: dict[Modality, NDArray[np.float16]] = {"audio": features.audio_TF, "video": features.video_TF}
    movements = {name: _movement(each) for name, each in steps.items() if len(each) > 1}
    return Summary(summarise(features, unknown_id=unknown_id), movements)


def _movement(steps_TF: NDArray[np.float16]) -> float:
    return float(np.median(np.abs(np.diff(steps_TF.astype(np.float32), axis=0)).mean(axis=1)))


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
    speakers: Sequence[str] = (),
    answers: SpokenRows | None = None,
) -> DriftReference:
    """The reference that these training clips make, with what was answered on others.

    Without `speakers`, one a clip, it keeps no clips, and a window of requests cannot be compared with it.
    """
    summaries = [summary_of(clip, unknown_id=unknown_id) for clip in clips]
    rows = {name: [each.rows[name] for each in summaries if name in each.rows] for name in MODALITIES}
    movements: dict[Modality, float] = {}
    dead_shares: dict[Modality, float] = {}
    heard = [each.movements["audio"] for each in summaries if "audio" in each.movements]
    # A picture without a face has no steps, so it is as dead as one that stands still.
    seen = [each.movements.get("video", 0.0) for each in summaries]
    moved: dict[Modality, list[float]] = {"audio": heard, "video": seen}
    for name, each_moved in moved.items():
        found = np.array(each_moved)
        alive = found[found > 0]
        movements[name] = float(np.median(alive)) if len(alive) else 0.0
        dead_shares[name] = float(np.mean(found < DEAD_SHARE_OF_MOVEMENT * movements[name])) if len(found) else 0.0
    kept: dict[Modality, SpokenRows] = {}
    for name in MODALITIES if speakers else ():
        having = [number for number, each in enumerate(summaries) if name in each.rows]
        kept[name] = spoken_rows(rows[name], [speakers[number] for number in having])
    columns = {name: columns_of(found) for name, found in rows.items()}
    return DriftReference(columns, class_shares_C, values, kept, movements, dead_shares, answers)


def spoken_rows(rows: Sequence[NDArray[np.float32]], speakers: Sequence[str]) -> SpokenRows:
    """Rows of up to `MAX_SPEAKERS` of these speakers, `MAX_CLIPS_PER_SPEAKER` of each, always the same ones."""
    if not rows:
        return SpokenRows(np.zeros((0, 0), np.float32), np.zeros(0, np.int32))
    generator = np.random.default_rng(_SEED)
    names, speaker_N = np.unique(np.asarray(speakers), return_inverse=True)
    chosen = generator.permutation(len(names))[:MAX_SPEAKERS]
    parts = [
        generator.permutation(np.flatnonzero(speaker_N == each))[:MAX_CLIPS_PER_SPEAKER] for each in sorted(chosen)
    ]
    kept = np.concatenate([np.sort(part) for part in parts])
    return SpokenRows(np.stack([rows[index] for index in kept]), speaker_N[kept].astype(np.int32))


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


def _spoken(arrays: Mapping[str, NDArray[Any]], name: str) -> SpokenRows | None:
    if f"{name}_rows" not in arrays:
        return None
    return SpokenRows(arrays[f"{name}_rows"].astype(np.float32), arrays[f"{name}_speakers"])


def _stored(arrays: Mapping[str, NDArray[Any]], name: str) -> Columns:
    return Columns(
        int(arrays[f"{name}_num_clips"]),
        arrays[f"{name}_mean"],
        arrays[f"{name}_deviation"],
        arrays[f"{name}_quantiles"],
    )
