"""What an endpoint keeps of some of its requests: numbers about a clip and what was answered, never the clip itself.

A part is one Parquet file, written whole: `samples/RELEASE/DATE/HOUR-REPLICA-UUID.parquet`. Nobody's words, keys or
recordings are in it, and it can be read with any tool that reads Parquet.

F columns of a modality, N clips, C labels.
"""

from __future__ import annotations

import io
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from components.clip import MODALITIES, Modality
from components.drift import Summary
from components.storage import Storage

FOLDER: Final = "samples"

SCHEMA: Final = pa.schema(
    [
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("release", pa.int32(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        *(pa.field(name, pa.list_(pa.float32())) for name in MODALITIES),
        pa.field("movements", pa.map_(pa.string(), pa.float32()), nullable=False),
        pa.field("warnings", pa.list_(pa.string()), nullable=False),
        pa.field("answers", pa.map_(pa.string(), pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class Sample:
    """One request.

    Attributes:
        version: of the bundle that answered, `release` its number in the release log.
        warnings: stable codes, such as no-face or silence.
        answers: by label its probability, or its value.
    """

    at: datetime
    release: int
    version: str
    summary: Summary
    warnings: tuple[str, ...]
    answers: Mapping[str, float]


def write(storage: Storage, samples: Sequence[Sample], *, replica: str) -> list[str]:
    """Write samples as parts, one for each release and hour, and return their names.

    Raises:
        OSError: the store does not take them.
    """
    groups: dict[tuple[int, datetime], list[Sample]] = defaultdict(list)
    for each in samples:
        groups[each.release, each.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)].append(each)
    names = []
    for (release, hour), group in groups.items():
        name = f"{_day(release, hour.date())}/{hour:%H}-{replica}-{uuid.uuid4().hex}.parquet"
        storage.write(name, to_parquet(group))
        names.append(name)
    return names


def to_parquet(samples: Iterable[Sample]) -> bytes:
    """One part's content."""
    rows: list[dict[str, Any]] = [
        {
            "at": each.at,
            "release": each.release,
            "version": each.version,
            **{name: each.summary.rows.get(name) for name in MODALITIES},
            "movements": list(each.summary.movements.items()),
            "warnings": list(each.warnings),
            "answers": list(each.answers.items()),
        }
        for each in samples
    ]
    content = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), content, compression="zstd")
    return content.getvalue()


def read(storage: Storage, release: int, *, since: datetime, until: datetime, max_clips: int) -> list[Sample]:
    """The samples of a release from `since` until before `until`, oldest first; the newest where there are too many.

    Raises:
        OSError: the store does not answer.
        ValueError: a part is damaged.
    """
    found: list[Sample] = []
    day = until.astimezone(UTC).date()
    # From the newest day back, so that no more is read than is kept.
    while day >= since.astimezone(UTC).date() and len(found) < max_clips:
        folder = _day(release, day)
        for name in storage.names(folder):
            found += (each for each in _read(storage, f"{folder}/{name}") if since <= each.at < until)
        day -= timedelta(days=1)
    return sorted(found, key=lambda each: each.at)[-max_clips:]


def forget(storage: Storage, *, before: date) -> int:
    """Remove all samples of the days before a date; how many folders there were."""
    old = [
        f"{FOLDER}/{release}/{day}"
        for release in storage.names(FOLDER)
        for day in storage.names(f"{FOLDER}/{release}")
        if day < before.isoformat()
    ]
    for folder in old:
        storage.remove(folder)
    return len(old)


def rows_of(samples: Sequence[Sample], modality: Modality) -> NDArray[np.float32]:
    """The rows of the clips that have a modality, (N, F)."""
    rows = [each.summary.rows[modality] for each in samples if modality in each.summary.rows]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def answers_of(samples: Sequence[Sample], labels: Sequence[str]) -> NDArray[np.float32]:
    """What was answered to each clip, in the order of the labels, (N, C)."""
    return np.array([[each.answers[label] for label in labels] for each in samples], np.float32).reshape(
        -1, len(labels)
    )


def _day(release: int, day: date) -> str:
    return f"{FOLDER}/{release:06d}/{day.isoformat()}"


def _read(storage: Storage, name: str) -> list[Sample]:
    try:
        table = pa.parquet.read_table(io.BytesIO(storage.read(name)), schema=SCHEMA)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{storage.uri(name)} is no part of samples ({error}): remove it") from error
    return [
        Sample(
            row["at"],
            row["release"],
            row["version"],
            Summary(
                {modality: np.array(row[modality], np.float32) for modality in MODALITIES if row[modality] is not None},
                dict(row["movements"]),
            ),
            tuple(row["warnings"]),
            dict(row["answers"]),
        )
        for row in table.to_pylist()
    ]
