"""Shards: files of many clips' features, read by memory mapping.

A shard is one Arrow IPC file with one row a clip and one record batch. The features of all its clips lie one
behind the other in the file, so that a clip is a view into the mapped pages and nothing is copied: a corpus larger
than the memory costs no more of it than a small one.

Shapes: N clips, C labels, T steps, F features of a step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import eq
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.features import ClipFeatures
from components.storage import write_atomically

SUFFIX = ".arrow"
_NOTES_KEY = b"notes"
_REMEDY = "delete build/features and run `dvc repro features`"


@dataclass(frozen=True)
class Example:
    """One clip in a shard: who speaks, its labels' values in the order of `labels.json` (none: unlabelled)."""

    clip_id: str
    speaker_id: str
    label_values: tuple[float, ...]
    features: ClipFeatures


@dataclass(frozen=True)
class Skipped:
    """A clip that is not in the shard it belongs to: `reason` is the code of the `MediaError`."""

    clip_id: str
    reason: str


@dataclass(frozen=True)
class ShardNotes:
    """What making a shard told: clips that could not be read, and the number of clips by warning."""

    skipped: tuple[Skipped, ...] = ()
    num_warnings: Mapping[str, int] = field(default_factory=dict)


def shard_name(index: int) -> str:
    """File name of a split's shard."""
    return f"{index:05d}{SUFFIX}"


def write_shard(
    path: Path, examples: Sequence[Example], *, widths: tuple[int, int], notes: ShardNotes | None = None
) -> None:
    """Write a shard: whole or not at all, and the same bytes for the same content.

    Args:
        path: the file to write.
        examples: the clips in their order; none is allowed, so that an empty split has a shard too.
        widths: features of an audio and of a video step.
        notes: what is to be known beside the clips.
    """
    features = [example.features for example in examples]
    columns = [
        pa.array([example.clip_id for example in examples], pa.string()),
        pa.array([example.speaker_id for example in examples], pa.string()),
        pa.array([example.label_values for example in examples], pa.list_(pa.float32())),
        _steps([clip.audio_TF for clip in features], widths[0]),
        _steps([clip.video_TF for clip in features], widths[1]),
        _ragged([len(clip.word_ids_T) for clip in features], _joined([clip.word_ids_T for clip in features], np.int32)),
    ]
    schema = _schema(*widths).with_metadata({_NOTES_KEY: _to_json(notes or ShardNotes())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    write_atomically(path, sink.getvalue().to_pybytes())


def read_notes(path: Path) -> ShardNotes:
    """What is to be known of a shard beside its clips.

    Raises:
        ValueError: the shard is damaged.
    """
    notes = _open_shard(path).schema.metadata[_NOTES_KEY]
    try:
        values = json.loads(notes)
        return ShardNotes(tuple(Skipped(**skip) for skip in values["skipped"]), dict(values["num_warnings"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {_REMEDY}") from error


class ShardSet:
    """The clips of some shards, by position: a `components.batches.ClipSource` over files.

    Attributes:
        clip_ids, speaker_ids: one a clip.
        labels_NC: (N, C) float32; a row of NaN for a clip without labels, no columns when none has any.
        num_steps_N3: (N, 3) int32 steps of audio, video and text.

    Raises:
        ValueError: a shard is damaged, or shards were made with different settings.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._shards = [_Shard(path) for path in self.paths]
        for shard in self._shards[1:]:
            if shard.widths != self._shards[0].widths:
                raise ValueError(
                    f"{shard.path} has features of widths {shard.widths}, {self.paths[0]} of "
                    f"{self._shards[0].widths}: run `dvc repro features` so that all are made alike"
                )
        self.clip_ids: Sequence[str] = _Names([shard.batch.column("clip_id") for shard in self._shards])
        self.speaker_ids: Sequence[str] = _Names([shard.batch.column("speaker_id") for shard in self._shards])
        # Filled shard by shard: of a million clips, parts to be joined would double what a process takes for good.
        self._ends = np.cumsum([shard.batch.num_rows for shard in self._shards])
        self.num_steps_N3 = np.empty((sum(shard.batch.num_rows for shard in self._shards), 3), np.int32)
        for shard, last in zip(self._shards, self._ends, strict=True):
            shard.count_steps(self.num_steps_N3[last - shard.batch.num_rows : last])
        self.labels_NC = _labels(self._shards)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __reduce__(self) -> tuple[type[ShardSet], tuple[tuple[Path, ...]]]:
        # A copy in another process maps the same files instead of carrying their content there.
        return ShardSet, (self.paths,)

    @property
    def widths(self) -> tuple[int, int]:
        """Features of an audio and of a video step."""
        return self._shards[0].widths if self._shards else (0, 0)

    def features(self, index: int) -> ClipFeatures:
        """The features of one clip: read-only views into its file."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[number - 1]) if number else 0
        return self._shards[number].features(index - first)


def open_split(features_folder: Path, *splits: str) -> ShardSet:
    """Open all shards of one or several splits of a features folder.

    Raises:
        ValueError: a split has no shards, or one is damaged.
    """
    paths: list[Path] = []
    for split in splits:
        found = sorted((features_folder / split).glob(f"*{SUFFIX}"))
        if not found:
            raise ValueError(f"{features_folder / split} has no shards: run `dvc repro features` first")
        paths += found
    return ShardSet(paths)


class _Names(Sequence[str]):
    """Strings that stay in the mapped files: a million of Python's own would take a hundred megabytes."""

    def __init__(self, columns: Sequence[pa.StringArray]) -> None:
        self._column = pa.chunked_array(columns, pa.string())

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        found: str | list[str] = (
            self._column[index].to_pylist() if isinstance(index, slice) else self._column[int(index)].as_py()
        )
        return found

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of every sequence that is compared by content


class _Shard:
    """One mapped file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batch = _open_shard(path)
        columns = [self.batch.column(name) for name in ("audio", "video", "word_ids")]
        self.widths: tuple[int, int] = (columns[0].type.value_type.list_size, columns[1].type.value_type.list_size)
        self.offsets = [column.offsets.to_numpy() for column in columns]
        audio, video, words = (column.values for column in columns)
        self.audio_TF = audio.values.to_numpy(zero_copy_only=True).reshape(-1, self.widths[0])
        self.video_TF = video.values.to_numpy(zero_copy_only=True).reshape(-1, self.widths[1])
        self.word_ids_T = words.to_numpy(zero_copy_only=True)

    def count_steps(self, out_N3: NDArray[np.int32]) -> None:
        for modality, ends in enumerate(self.offsets):
            np.subtract(ends[1:], ends[:-1], out=out_N3[:, modality], casting="unsafe")

    def features(self, row: int) -> ClipFeatures:
        audio, video, words = (slice(ends[row], ends[row + 1]) for ends in self.offsets)
        return ClipFeatures(self.audio_TF[audio], self.video_TF[video], self.word_ids_T[words])


def _open_shard(path: Path) -> pa.RecordBatch:
    try:
        # The mapping outlives the file object, so that many shards need no file descriptors.
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batch = reader.get_batch(0)
        batch.validate(full=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or half written: {_REMEDY}") from error
    types = {field.name: field.type for field in batch.schema}
    widths = [getattr(getattr(types.get(name), "value_type", None), "list_size", 0) for name in ("audio", "video")]
    if not batch.schema.equals(_schema(*widths)) or _NOTES_KEY not in (batch.schema.metadata or {}):
        raise ValueError(f"{path} is no shard of this version: {_REMEDY}")
    return batch


def _to_json(notes: ShardNotes) -> str:
    skipped = [asdict(skip) for skip in notes.skipped]
    return json.dumps({"skipped": skipped, "num_warnings": dict(notes.num_warnings)}, sort_keys=True)


def _schema(audio_width: int, video_width: int) -> pa.Schema:
    return pa.schema(
        {
            "clip_id": pa.string(),
            "speaker_id": pa.string(),
            "label_values": pa.list_(pa.float32()),
            "audio": pa.list_(pa.list_(pa.float16(), audio_width)),
            "video": pa.list_(pa.list_(pa.float16(), video_width)),
            "word_ids": pa.list_(pa.int32()),
        }
    )


def _steps(arrays_TF: Sequence[NDArray[np.float16]], width: int) -> pa.ListArray:
    wrong = [array_TF.shape for array_TF in arrays_TF if array_TF.ndim != 2 or array_TF.shape[1] != width]
    assert not wrong, f"features of shape {wrong[0]} in a shard of width {width}"
    values = pa.array(_joined([array_TF.ravel() for array_TF in arrays_TF], np.float16), pa.float16())
    return _ragged([len(array_TF) for array_TF in arrays_TF], pa.FixedSizeListArray.from_arrays(values, width))


def _joined(arrays: Sequence[NDArray[np.generic]], dtype: type[np.generic]) -> NDArray[np.generic]:
    return np.concatenate([np.zeros(0, dtype), *arrays], dtype=dtype)


def _ragged(num_steps: Sequence[int], values: pa.Array | NDArray[np.generic]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(num_steps)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values) if isinstance(values, np.ndarray) else values)


def _labels(shards: Sequence[_Shard]) -> NDArray[np.float32]:
    columns = [shard.batch.column("label_values") for shard in shards]
    counts_N = np.empty(sum(map(len, columns)), np.int32)
    first = 0
    for column in columns:
        ends = column.offsets.to_numpy()
        np.subtract(ends[1:], ends[:-1], out=counts_N[first : first + len(column)], casting="unsafe")
        first += len(column)
    counts = sorted({int(count) for count in np.unique(counts_N)} - {0})
    if len(counts) > 1:
        raise ValueError(f"{shards[0].path.parent}: clips with {counts} labels: run `dvc repro features`")
    labels_NC = np.full((len(counts_N), max(counts, default=0)), np.nan, np.float32)
    first = 0
    for column in columns:
        here_N = slice(first, first + len(column))
        labels_NC[here_N][counts_N[here_N] > 0] = column.flatten().to_numpy().reshape(-1, labels_NC.shape[1] or 1)
        first += len(column)
    return labels_NC
