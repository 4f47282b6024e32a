"""What became of each run, kept in the store: the command line and the report read it, whoever started the run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from components import run_record
from components.run_record import RunRecord, StageResult
from components.settings import Settings
from components.stage import one_line
from components.storage import Storage
from flows.lineage import code_commit

_FOLDER = "runs"
_SUFFIX = ".json"


class Recorder:
    """Writes a run's record while the run goes on; entered and left with the run."""

    def __init__(self, settings: Settings, *, run_id: str, digest: str, folder: Path) -> None:
        self._storage = Storage(settings.storage_url)
        self.record = RunRecord(run_id, digest, str(folder), started_at=_now(), commit=code_commit(settings))

    def update(self, **changes: object) -> None:
        """Replace fields of the record and write it."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]  # names are checked by replace
        self._storage.write(_name(self.record.run_id), self.record.to_json().encode())

    def add_stage(self, result: StageResult) -> None:
        self.update(stages=(*self.record.stages, result))

    def add_check(self, result: StageResult) -> None:
        self.update(checks=(*self.record.checks, result))

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.update(outcome="failed", error=one_line(error), ended_at=_now())
        else:
            self.update(ended_at=_now())


def read_record(settings: Settings, run_id: str) -> RunRecord | None:
    """The record of a run, or None when it ended before it had a workspace."""
    storage = Storage(settings.storage_url)
    if not storage.exists(_name(run_id)):
        return None
    return run_record.parse(storage.read(_name(run_id)))


def last(settings: Settings) -> RunRecord | None:
    """The run that was started last; None before the first."""
    return max(_all(settings), key=lambda record: record.started_at, default=None)


def find_record(settings: Settings, name: str) -> RunRecord:
    """A run by its Prefect id or its digest, or the one that was started last, as "last".

    Raises:
        ValueError: there is no such run.
    """
    known = sorted(_all(settings), key=lambda record: record.started_at)
    fitting = [record for record in known if name in ("last", record.run_id, record.digest)]
    if not fitting:
        raise ValueError(f"there is no run {name!r}; the last one is {known[-1].run_id if known else 'still to come'}")
    return fitting[-1]


def _all(settings: Settings) -> list[RunRecord]:
    files = [file for file in Storage(settings.storage_url).names(_FOLDER) if file.endswith(_SUFFIX)]
    found = [read_record(settings, file.removesuffix(_SUFFIX)) for file in files]
    return [record for record in found if record]


def _name(run_id: str) -> str:
    return f"{_FOLDER}/{run_id}{_SUFFIX}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
