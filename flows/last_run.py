"""What `affect status` tells of the last run: its report in short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components import params, report
from components.metrics import Interval
from components.registry import Registry
from components.run_record import Outcome, RunRecord, data_versions
from components.run_report import changes
from components.run_report.changes import Change
from components.settings import Settings
from components.storage import Storage
from flows import records
from flows.consoles import plain_console

_MOST_CHANGES = 6


@dataclass(frozen=True)
class LastRun:
    """The last run in short.

    Attributes:
        champion: number of the release that it was judged against.
        changes: what differs from that: commit, md5 of data, parameters.
        figures: by name; empty when it was not evaluated.
        num_gates, failed_gates: how many judged, and the names of those that did not let it pass.
        duration_s, cpu_s, gpu_s: over all its stages and gates.
        report: URL of its page; empty when it has none.
    """

    run_id: str
    digest: str
    started_at: str
    outcome: Outcome
    error: str
    champion: int | None
    changes: tuple[Change, ...]
    figures: dict[str, Interval]
    num_gates: int
    failed_gates: tuple[str, ...]
    duration_s: float
    cpu_s: float
    gpu_s: float
    report: str


def tell(settings: Settings) -> LastRun | None:
    """The last run in short; None before the first."""
    record = records.last(settings)
    if record is None:
        return None
    done, evaluation = (*record.stages, *record.checks), Path(record.folder) / "build/evaluation" / report.FILE
    return LastRun(
        record.run_id,
        record.digest,
        record.started_at,
        record.outcome,
        record.error,
        record.champion,
        tuple(_changes(record, settings)),
        dict(report.read(evaluation).figures) if record.gates and evaluation.exists() else {},
        len(record.gates),
        tuple(gate.name for gate in record.gates if not gate.passed),
        round(sum(each.duration_s for each in done), 1),
        round(sum(each.cpu_s for each in done), 1),
        round(sum(each.gpu_s for each in done), 1),
        f"{settings.prefect_url}{record.report}" if record.report else "",
    )


def show(last: LastRun) -> None:
    """Print it for a person."""
    console = plain_console()
    console.print(f"  last run         {last.digest}, {last.started_at}: {last.outcome}")
    if last.error:
        console.print(f"    {last.error}")
    if last.champion is not None:
        shown = [f"{each.name} {each.before or '-'} > {each.now or '-'}" for each in last.changes[:_MOST_CHANGES]]
        more = len(last.changes) - len(shown)
        told = "; ".join([*shown, *([f"{more} more"] if more else [])]) or "nothing"
        console.print(f"    changed since release {last.champion}: {told}")
    for name, figure in last.figures.items():
        console.print(f"    {name.replace('_', ' '):<12} {figure}")
    if last.num_gates:
        failed = f", FAILED: {', '.join(last.failed_gates)}" if last.failed_gates else ""
        console.print(f"    gates        {last.num_gates - len(last.failed_gates)} of {last.num_gates} passed{failed}")
    gpu = f", {last.gpu_s / 3600:.3f} GPU hours" if last.gpu_s else ""
    console.print(f"    cost         {last.duration_s:.0f} s, {last.cpu_s / 3600:.3f} CPU hours{gpu}")
    if last.report:
        console.print(f"    report       {last.report}")


def _changes(record: RunRecord, settings: Settings) -> list[Change]:
    """What differs from the release that the run was judged against."""
    if record.champion is None:
        return []
    champion = Registry(Storage(settings.storage_url)).release(record.champion)
    folder, found = Path(record.folder), []
    if champion.commit != record.commit:
        found.append(Change("commit", champion.commit, record.commit))
    if (folder / "build/params.yaml").exists() and champion.params:
        now = params.load_params(folder / "build/params.yaml").model_dump(mode="json")
        found += changes.of_params(champion.params, now)
    return [*found, *changes.of_data(champion.data, data_versions(folder))]
