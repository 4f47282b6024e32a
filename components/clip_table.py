"""The table of a run's clips, `clips.parquet`: one row a clip, sorted by clip_id, written and read piece by piece.

A corpus may have more clips than fit into memory as objects. Who needs those of one split says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet

from components.clip import Clip, Split

NAME: Final = "clips.parquet"
SCHEMA: Final = pyarrow.schema(
    [
        ("clip_id", pyarrow.string()),
        ("corpus", pyarrow.string()),
        ("speaker_id", pyarrow.string()),
        ("session_id", pyarrow.string()),
        ("split", pyarrow.string()),
        ("audio_uri", pyarrow.string()),
        ("video_uri", pyarrow.string()),
        ("start_s", pyarrow.float64()),
        ("end_s", pyarrow.float64()),
        ("duration_s", pyarrow.float64()),
        ("transcript", pyarrow.string()),
        ("speaker_sex", pyarrow.string()),
        ("speaker_age", pyarrow.float64()),
        ("labels", pyarrow.map_(pyarrow.string(), pyarrow.float64())),
        ("num_bytes", pyarrow.int64()),
        ("md5", pyarrow.string()),
    ]
)

# Rows that are objects at one time.
_ROWS_PER_BATCH: Final = 1024
# Rows that Parquet compresses together; until then they wait as columns.
_BATCHES_PER_GROUP: Final = 32


def write_rows(path: Path, schema: pyarrow.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a Parquet file as they come; what is held in memory does not depend on their number."""
    batches = _batches(iter(rows), schema)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        group = list(islice(batches, _BATCHES_PER_GROUP))
        while True:
            writer.write_table(pyarrow.Table.from_batches(group, schema).combine_chunks())
            group = list(islice(batches, _BATCHES_PER_GROUP))
            if not group:
                return


def find(folder: Path) -> Path:
    """The file of a clips folder.

    Raises:
        FileNotFoundError: the stage has not run.
    """
    path = folder / NAME
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the ingest stage first (`dvc repro ingest`)")
    return path


def read_clips(folder: Path, *, split: Split | None = None) -> pyarrow.Table:
    """The rows of a clips folder, or those of one split, with the URIs of generated media made absolute.

    Raises:
        FileNotFoundError: the stage has not run.
    """
    batches = (_of_split(batch, split) for batch in read_batches(folder))
    return pyarrow.Table.from_batches(batches, SCHEMA)


def read_batches(folder: Path) -> Iterator[pyarrow.RecordBatch]:
    """The same rows, all of them, a thousand at a time.

    Raises:
        FileNotFoundError: the stage has not run.
    """
    root = folder.absolute()
    with pyarrow.parquet.ParquetFile(find(folder)) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=SCHEMA.names):
            columns = {name: batch.column(name) for name in SCHEMA.names}
            for name in ("audio_uri", "video_uri"):
                absolute = [uri and (uri if "://" in uri else str(root / uri)) for uri in columns[name].to_pylist()]
                columns[name] = pyarrow.array(absolute, pyarrow.string())
            yield pyarrow.record_batch(columns, schema=SCHEMA)


def to_clip(row: Mapping[str, Any]) -> Clip:
    """The clip of one row of `read_clips(…).to_pylist()`."""
    return Clip(
        clip_id=row["clip_id"],
        speaker_id=row["speaker_id"],
        session_id=row["session_id"],
        split=row["split"],
        audio_uri=row["audio_uri"],
        video_uri=row["video_uri"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        transcript=row["transcript"],
        speaker_sex=row["speaker_sex"],
        speaker_age=row["speaker_age"],
        labels=dict(row["labels"]),
    )


def _batches(rows: Iterator[Mapping[str, Any]], schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    while batch := list(islice(rows, _ROWS_PER_BATCH)):
        yield pyarrow.RecordBatch.from_pylist(batch, schema)


def _of_split(batch: pyarrow.RecordBatch, split: Split | None) -> pyarrow.RecordBatch:
    return batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
