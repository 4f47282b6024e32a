"""A table of utterances whose features were made elsewhere: a CSV beside a numpy file with one vector a row.

The root is the CSV, or a folder with one. It needs a column that names the utterance (`clip_id` or `utterance_id`) and
`label` or `labels` (a class; empty: unlabelled); `speaker_id`, `transcript` and `split` are optional. Without
`speaker_id` it is the name up to its last `_`, which in CMU-MOSI is the video. Sound and picture come as
`features.audio.precomputed` and `features.video.precomputed` from the `.npz` with the CSV's name: row for row, an array
each (see `vectors_file`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from components.clip import SPLITS, Clip, Split
from components.datasets import Refusal
from components.protocols import EvaluationProtocol
from components.task import Task

TASKS: Mapping[str, Task] | None = None
PROTOCOLS: Mapping[str, EvaluationProtocol] = {}
SOURCE: str = "your own table, or the declare-lab/multimodal-deep-learning repository for CMU-MOSI"

_NAMES: Final = ("clip_id", "utterance_id")
_LABELS: Final = ("labels", "label")


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The utterances of the table.

    Raises:
        ValueError: the table or its vectors are missing, a column is missing, or a cell is wrong.
    """
    assert task is None, "the data name the labels"
    table = _table(root)
    vectors_file(table)
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        name = _column(table, columns, _NAMES)
        label = _column(table, columns, _LABELS)
        first_row_of: dict[str, int] = {}
        for row in reader:
            clip_id = row[name].strip()
            if clip_id in first_row_of:
                raise ValueError(
                    f"{table}: row {reader.line_num}: {clip_id!r} is already in row {first_row_of[clip_id]}"
                )
            first_row_of[clip_id] = reader.line_num
            try:
                yield _clip(clip_id, (row[label] or "").strip(), row)
            except ValueError as error:
                raise ValueError(f"{table}: row {reader.line_num}: {error}") from error


def vectors_file(table: Path) -> Path:
    """The numpy file that belongs to a table.

    Raises:
        ValueError: it is not there.
    """
    path = table.with_suffix(".npz")
    if not path.is_file():
        raise ValueError(f"vectors: {path} is missing: the arrays belong beside the table, in its order")
    return path


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = [path for path in sorted(root.glob("*.csv")) if path.with_suffix(".npz").is_file()]
    if len(tables) != 1:
        raise ValueError(
            f"vectors: {root} has {len(tables)} tables with vectors beside them (NAME.csv, NAME.npz): name one as root"
        )
    return tables[0]


def _column(table: Path, columns: Sequence[str], wanted: Sequence[str]) -> str:
    found = [name for name in wanted if name in columns]
    if not found:
        raise ValueError(f"{table}: no column {' or '.join(wanted)}; add it")
    return found[0]


def _clip(clip_id: str, label: str, row: Mapping[str, str | None]) -> Clip:
    split = (row.get("split") or "").strip() or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    known: Split | None = next((each for each in SPLITS if each == split), None)
    speaker_id = (row.get("speaker_id") or "").strip() or clip_id.rpartition("_")[0]
    if not speaker_id:
        raise ValueError(f"{clip_id!r} names no speaker before a last _; add a column speaker_id")
    return Clip(
        clip_id=clip_id,
        speaker_id=speaker_id,
        split=known,
        transcript=(row.get("transcript") or "").strip(),
        labels={label: 1.0} if label else {},
    )
