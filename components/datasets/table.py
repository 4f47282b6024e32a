"""One's own recordings: a CSV or Parquet file with the columns of `Clip`.

Needed are `speaker_id`, `labels` and one of `audio_uri`, `video_uri`, `transcript`; an empty cell means none. `labels`
is a name (`happy`), shares (`happy=0.7;sad=0.3`) or empty for an unlabelled recording. A relative path is relative to
the table's folder. `clip_id` is the file's name without its ending, where it is not given. A video's own sound is
used where `audio_uri` is empty. `speaker_sex` (any word) and `speaker_age` (in years) let the gates look at each
group of speakers.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import pyarrow
import pyarrow.parquet

from components.clip import SPLITS, Clip, Split
from components.datasets import Refusal
from components.protocols import EvaluationProtocol
from components.task import Task

TASKS: Mapping[str, Task] | None = None
PROTOCOLS: Mapping[str, EvaluationProtocol] = {}
SOURCE: str = "a table of one's own: CSV or Parquet, the columns are in the README"

_COLUMNS: Final = tuple(field.name for field in fields(Clip))
_CONTENT: Final = ("audio_uri", "video_uri", "transcript")
_PARQUET_MARK: Final = b"PAR1"

Cell = str | float | list[tuple[str, float]] | None


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The clips that the table lists, with the labels that it names.

    Raises:
        ValueError: the table is missing or unreadable, a column is unknown or missing, or a cell is wrong; the
            message names row (as a spreadsheet counts, the header first) and column.
    """
    assert task is None, "the table itself names the labels"
    if not root.is_file():
        raise ValueError(f"table: there is no file {root}; root must name a CSV or Parquet file")
    with root.open("rb") as file:
        is_parquet = file.read(len(_PARQUET_MARK)) == _PARQUET_MARK
    rows = _parquet_rows(root) if is_parquet else _csv_rows(root)
    first_row_of: dict[str, int] = {}
    for number, row in rows:
        clip = _clip(root, number, row)
        if clip.clip_id in first_row_of:
            raise ValueError(
                f"{root}: row {number}, column clip_id: {clip.clip_id!r} is already in row "
                f"{first_row_of[clip.clip_id]}; give each recording a clip_id of its own"
            )
        first_row_of[clip.clip_id] = number
        yield clip
    if not first_row_of:
        raise ValueError(f"{root}: the table has no rows; list one recording a row")


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Cell]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: row {row}: not UTF-8 ({error.reason}); save the table as UTF-8") from error
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        for number, cells in enumerate(reader, start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}: row {number}: {len(cells)} cells, header {len(header)}; quote cells holding commas"
                )
            yield number, {name: cell.strip() or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise ValueError(f"{path}: row {reader.line_num}: no valid CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Cell]]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            number = 1
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: no readable Parquet file ({error}); write it again") from error


def _check_columns(path: Path, names: list[str]) -> None:
    for name in names:
        if name not in _COLUMNS:
            nearest = difflib.get_close_matches(name, _COLUMNS, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"{path}: unknown column {name!r}{hint} Columns are: {', '.join(_COLUMNS)}")
        if names.count(name) > 1:
            raise ValueError(f"{path}: column {name} is there twice; keep one")
    for name in ("speaker_id", "labels"):
        if name not in names:
            raise ValueError(f"{path}: column {name} is missing; add it")
    if not set(_CONTENT) & set(names):
        raise ValueError(f"{path}: no column says what was recorded; add one of {', '.join(_CONTENT)}")


def _clip(path: Path, number: int, row: Mapping[str, Cell]) -> Clip:
    audio_uri, video_uri = (_uri(path, _text(path, number, row, name)) for name in ("audio_uri", "video_uri"))
    recorded = audio_uri or video_uri
    clip_id = _text(path, number, row, "clip_id") or (Path(recorded).stem if recorded else f"row-{number:06d}")
    speaker_id = _text(path, number, row, "speaker_id")
    if not speaker_id:
        raise ValueError(f"{path}: row {number}, column speaker_id: empty; name who speaks, splits keep speakers apart")
    try:
        return Clip(
            clip_id=clip_id,
            speaker_id=speaker_id,
            session_id=_text(path, number, row, "session_id") or "",
            split=_split(path, number, row),
            audio_uri=audio_uri,
            video_uri=video_uri,
            start_s=_number(path, number, row, "start_s") or 0.0,
            end_s=_number(path, number, row, "end_s"),
            transcript=_text(path, number, row, "transcript"),
            speaker_sex=_text(path, number, row, "speaker_sex"),
            speaker_age=_number(path, number, row, "speaker_age"),
            labels=_labels(path, number, row.get("labels")),
        )
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: row {number}: {text}") from error


def _text(path: Path, number: int, row: Mapping[str, Cell], name: str) -> str | None:
    cell = row.get(name)
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, int) and name in ("clip_id", "speaker_id", "session_id"):
        return str(cell)
    raise ValueError(f"{path}: row {number}, column {name}: {cell!r} is not text; write the column as text")


def _number(path: Path, number: int, row: Mapping[str, Cell], name: str) -> float | None:
    cell = row.get(name)
    if cell is None or isinstance(cell, float | int):
        return cell
    try:
        return float(cell)  # type: ignore[arg-type]  # a list of labels fails as text does
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: row {number}, column {name}: {cell!r} is no number") from error


def _split(path: Path, number: int, row: Mapping[str, Cell]) -> Split | None:
    name = _text(path, number, row, "split")
    for split in SPLITS:
        if split == name:
            return split
    if name is None:
        return None
    raise ValueError(f"{path}: row {number}, column split: {name!r} is none of {', '.join(SPLITS)}")


def _labels(path: Path, number: int, cell: Cell) -> dict[str, float]:
    if cell is None or cell == "":
        return {}
    if isinstance(cell, list):
        return dict(cell)
    where = f"{path}: row {number}, column labels"
    if not isinstance(cell, str):
        raise ValueError(f"{where}: {cell!r} is no label; write happy, or happy=0.7;sad=0.3")
    labels: dict[str, float] = {}
    for part in cell.split(";"):
        name, equals, share = (text.strip() for text in part.partition("="))
        try:
            value = float(share) if equals else 1.0
        except ValueError as error:
            raise ValueError(f"{where}: {share!r} is no number; write happy=0.7;sad=0.3") from error
        if not name or name in labels or not value >= 0:
            raise ValueError(f"{where}: {cell!r} is not a name, or names with shares such as happy=0.7;sad=0.3")
        labels[name] = value
    if not any(value > 0 for value in labels.values()):
        raise ValueError(f"{where}: {cell!r} has no share above zero; leave it empty for an unlabelled recording")
    return labels


def _uri(path: Path, uri: str | None) -> str | None:
    if uri is None or "://" in uri:
        return uri
    return str(path.parent / uri)
