"""What became of each run, kept in the store: the command line and the report read it, whoever started the run."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from components import run_record
from components.run_record import RunRecord, StageResult
from components.settings import Settings
from components.stage import one_line
from components.storage import Storage
from flows.lineage import code_commit

_FOLDER = "runs"
_SUFFIX = ".json"
# How long the end of a run waits for a store that does not answer.
_PATIENCE_S = 180.0

_log = logging.getLogger(__name__)


class Recorder:
    """Writes a run's record while the run goes on; entered and left with the run.

    A store that does not answer for a while costs no run: what could not be written is written with the next change,
    and at the end, when there is none, the store is waited for.
    """

    def __init__(self, settings: Settings, *, run_id: str, digest: str, folder: Path) -> None:
        self._storage = Storage(settings.storage_url)
        self.record = RunRecord(run_id, digest, str(folder), started_at=_now(), commit=code_commit(settings))

    def update(self, **changes: object) -> None:
        """Replace fields of the record and write it, or have it written with the next change."""
        self._replace(**changes)
        try:
            self._write()
        except ConnectionError as error:
            _log.warning("the run's record is written later: %s", error)

    def add_stage(self, result: StageResult) -> None:
        self.update(stages=(*self.record.stages, result))

    def add_check(self, result: StageResult) -> None:
        self.update(checks=(*self.record.checks, result))

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._replace(outcome="failed", error=one_line(error))
        self._replace(ended_at=_now())
        patient = Retrying(
            retry=retry_if_exception_type(ConnectionError),
            wait=wait_exponential(max=10),
            stop=stop_after_delay(_PATIENCE_S),
            reraise=True,
        )
        patient(self._write)

    def _replace(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]  # names are checked by replace

    def _write(self) -> None:
        self._storage.write(_name(self.record.run_id), self.record.to_json().encode())


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
