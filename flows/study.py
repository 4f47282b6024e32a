"""The flow behind `affect study`: many runs of one system on one corpus, fanned out over Ray, and one report."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from components.settings import Settings
from components.settings import load as load_settings
from components.stage import Progress
from components.storage import Storage
from components.study import StudyChoices
from components.study_records import REPORT, SUMMARY, note_start
from flows import report_pages
from flows.lineage import code_commit
from flows.stages import ProgressReporter

if TYPE_CHECKING:
    # Ray, torch and matplotlib come with these: only who runs a study waits for them.
    from components.study_report import Built
    from flows.study_runs import Ended, Prepared


class RunsFailed(RuntimeError):
    """Some runs of a study have no figures; the report shows which, and the same study tries them again."""


@flow(name="study", persist_result=False)
def study(choices: StudyChoices = StudyChoices()) -> None:  # noqa: B008  # Prefect makes the form from this default
    """Bring every run of a study to its figures, and write the report.

    Raises:
        ValueError: the choices name something that does not exist.
        RunsFailed: not every run has figures; the report is written all the same.
    """
    from flows import study_runs

    settings = load_settings()
    prepared = study_runs.prepare(choices, settings)
    note_start(Storage(settings.storage_url), str(flow_run.id), prepared.digest)
    log = get_run_logger()
    log.info("study %s: %d runs, %d to do", prepared.digest, len(prepared.runs), len(prepared.unfinished()))
    run_all(prepared, settings)
    address = report(prepared, settings)
    log.info("report: %s", address)
    failed = prepared.unfinished()
    if failed:
        raise RunsFailed(f"{len(failed)} of {len(prepared.runs)} runs have no figures, see {address}")


@task(task_run_name="runs", persist_result=False)
def run_all(prepared: Prepared, settings: Settings) -> None:
    """Carry out what is still to do, telling each job as it ends."""
    from flows import study_runs

    log, reporter = get_run_logger(), ProgressReporter("runs")

    def tell(ended: Ended, number: int, total: int) -> None:
        what = f"{ended.job.stage} of {ended.job.run}"
        if ended.error:
            log.error("%s failed: %s", what, ended.error)
        else:
            log.info("%s done in %.0f s, for %d run(s)", what, ended.duration_s, len(ended.job.runs))
        reporter.report(Progress("runs", number, total, f"{number}/{total} jobs, last {what}"))

    study_runs.carry_out(prepared, settings, tell)


@task(task_run_name="report", persist_result=False)
def report(prepared: Prepared, settings: Settings) -> str:
    """Write the report of a study as far as it is, and return its address."""
    built = write_report(prepared, settings)
    create_markdown_artifact(
        _markdown(built, report_pages.of_study(prepared.digest)), key="study", description="The figures of the study"
    )
    return Storage(settings.storage_url).uri(f"studies/{prepared.digest}/{REPORT}")


def write_report(prepared: Prepared, settings: Settings) -> Built:
    """Build the report and keep it with the study's records."""
    from components import study_report

    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    about = study_report.Study(prepared.choices, prepared.division, prepared.digest, code_commit(settings), ended_at)
    built = study_report.build(about, prepared.outcomes())
    prepared.records.write_file(REPORT, built.html.encode())
    prepared.records.write_file(SUMMARY, json.dumps(built.summary, indent=1).encode())
    return built


def _markdown(built: Built, address: str) -> str:
    titles = [figure["title"] for figure in built.summary["figures"].values()]
    head = ["condition", "runs", *titles]
    lines = [f"[The whole report]({address})", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for each in built.summary["conditions"]:
        cells = [told(each["figures"].get(key), figure["scale"]) for key, figure in built.summary["figures"].items()]
        lines.append(f"| {each['name']} | {each['num_runs']} | {' | '.join(cells)} |")
    lines += [f"\n**failed**: {name}: {error}" for name, error in built.summary["failed"].items()]
    return "\n".join(lines)


def told(figure: dict[str, float] | None, scale: float, *, sign: str = "") -> str:
    """A figure of a summary with its interval, as people read it."""
    if figure is None:
        return "–"
    digits = 1 if scale == 100 else 3
    value, low, high = (f"{scale * figure[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
