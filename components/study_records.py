"""What became of each run of a study, kept in the store: a study that is started again reads it and goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from components.storage import Storage

REPORT = "report.html"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunRecord:
    """One run of a study that has ended.

    Attributes:
        name: of the run within the study.
        digest, folder: its workspace.
        error: why it failed, on one line; empty when it did not.
        duration_s: of what was done for it alone.
        data: md5 of its clips and features, by path.
    """

    name: str
    digest: str
    folder: str
    state: Literal["done", "failed"]
    error: str = ""
    duration_s: float = 0.0
    data: Mapping[str, str] = field(default_factory=dict)
    ended_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Records:
    """The records of one study."""

    storage: Storage
    study: str

    def read(self, name: str) -> RunRecord | None:
        """The record of a run; None when it has not ended, or its record is damaged and the run has to go again."""
        place = self._place(name)
        if not self.storage.exists(place):
            return None
        try:
            return TypeAdapter(RunRecord).validate_json(self.storage.read(place))
        except ValidationError:
            return None

    def write(self, record: RunRecord) -> None:
        self.storage.write(self._place(record.name), json.dumps(asdict(record), indent=1).encode())

    def write_file(self, name: str, content: bytes) -> str:
        """Keep a file of the study, such as its report; returns its address."""
        place = f"studies/{self.study}/{name}"
        self.storage.write(place, content)
        return self.storage.uri(place)

    def _place(self, name: str) -> str:
        return f"studies/{self.study}/runs/{name}.json"


def study_digest(digests: Sequence[str]) -> str:
    """The name of a study: a digest of the names of its runs, each of which follows from parameters, data and code."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12]


def note_start(storage: Storage, flow_run: str, study: str) -> None:
    """Keep which study a flow run works on."""
    storage.write(f"studies/flow-runs/{flow_run}", study.encode())


def started_by(storage: Storage, flow_run: str) -> str | None:
    """The study that a flow run works on; None when it ended before it knew."""
    place = f"studies/flow-runs/{flow_run}"
    return storage.read(place).decode() if storage.exists(place) else None
