"""What each run of the main flow leaves for people: its page in the store, and a link to it in the Prefect UI."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact

from components.run_record import RunRecord
from components.settings import Settings
from components.storage import Storage
from flows import report_pages
from flows.records import Recorder
from flows.releasing import registry_of
from flows.stages import StageFailed, run_module


class Reported:
    """Keeps a run's record while the block lasts, and leaves its page afterwards, however the block ended.

    A run that is cancelled ends at once and leaves none.
    """

    def __init__(self, recorder: Recorder, settings: Settings) -> None:
        self._recorder, self._settings = recorder, settings

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._recorder.__exit__(kind, error, traceback)
        if error is None or isinstance(error, Exception):
            _leave(self._recorder, self._settings)


def _leave(recorder: Recorder, settings: Settings) -> None:
    """Write the page. What became of the run stays as it is when that fails."""
    record = recorder.record
    address = report_pages.of_run(record.run_id)
    try:
        _write(record, settings)
        recorder.update(report=address)
    except (StageFailed, OSError, ValueError) as error:
        get_run_logger().error("the run has no report: %s", error)
        return
    create_link_artifact(
        address, link_text="The report of this run", key="report", description="All of this run on one page"
    )


def _write(record: RunRecord, settings: Settings) -> None:
    with tempfile.TemporaryDirectory(prefix="affect-report-") as folder:
        files = {name: Path(folder) / name for name in ("run.json", "champion.json", "report.html")}
        files["run.json"].write_text(record.to_json(), encoding="utf-8")
        arguments = ["--record", str(files["run.json"]), "--output", str(files["report.html"])]
        if record.champion is not None:
            champion = registry_of(settings).release(record.champion)
            files["champion.json"].write_text(champion.to_json(), encoding="utf-8")
            arguments += ["--champion", str(files["champion.json"])]
        run_module("components.run_report", arguments, Path(record.folder), settings)
        Storage(settings.storage_url).write(report_pages.file_of_run(record.run_id), files["report.html"].read_bytes())
