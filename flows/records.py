"""What became of each run, kept in the store: the command line and the report read it, whoever started the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from components.gates import GateResult
from components.settings import Settings
from components.stage import one_line
from components.storage import Storage
from flows.stages import StageResult

_FOLDER = "runs"

Outcome = Literal["running", "promoted", "unchanged", "failed"]


@dataclass(frozen=True)
class RunRecord:
    """One run of the `retrain` flow.

    Attributes:
        run_id: the Prefect flow run.
        digest: name of the run's parameters, data and code.
        folder: the run's workspace.
        outcome: `unchanged` when the model is the one that is live already.
        release: number of the release that is live afterwards.
        error: why it failed, on one line.
    """

    run_id: str
    digest: str
    folder: str
    started_at: str
    outcome: Outcome = "running"
    stages: tuple[StageResult, ...] = ()
    gates: tuple[GateResult, ...] = ()
    release: int | None = None
    error: str = ""
    ended_at: str = field(default="")


class Recorder:
    """Writes a run's record while the run goes on; entered and left with the run."""

    def __init__(self, settings: Settings, *, run_id: str, digest: str, folder: Path) -> None:
        self._storage = Storage(settings.storage_url)
        self._record = RunRecord(run_id, digest, str(folder), started_at=_now())

    def update(self, **changes: object) -> None:
        """Replace fields of the record and write it."""
        self._record = replace(self._record, **changes)  # type: ignore[arg-type]  # names are checked by replace
        self._storage.write(_name(self._record.run_id), json.dumps(asdict(self._record), indent=1).encode())

    def add_stage(self, result: StageResult) -> None:
        self.update(stages=(*self._record.stages, result))

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
    values = json.loads(storage.read(_name(run_id)))
    values["stages"] = tuple(StageResult(**stage) for stage in values["stages"])
    values["gates"] = tuple(GateResult(**gate) for gate in values["gates"])
    return RunRecord(**values)


def find_record(settings: Settings, name: str) -> RunRecord:
    """A run by its Prefect id or its digest, or the one that was started last, as "last".

    Raises:
        ValueError: there is no such run.
    """
    stored = Storage(settings.storage_url).names(_FOLDER)
    found = [read_record(settings, file.removesuffix(".json")) for file in stored]
    known = sorted((record for record in found if record), key=lambda record: record.started_at)
    fitting = [record for record in known if name in ("last", record.run_id, record.digest)]
    if not fitting:
        raise ValueError(f"there is no run {name!r}; the last one is {known[-1].run_id if known else 'still to come'}")
    return fitting[-1]


def _name(run_id: str) -> str:
    return f"{_FOLDER}/{run_id}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
