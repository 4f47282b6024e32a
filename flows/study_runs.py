"""The runs of a study, fanned out over Ray: each job is a stage in a run's workspace, as the main flow runs it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.exceptions

from components import compute
from components.params import Choices
from components.run_record import data_versions
from components.settings import PROJECT_ROOT, Settings
from components.stage import one_line
from components.storage import Storage
from components.study import Division, StudyChoices, StudyRun, divide, plan
from components.study_jobs import RIDGE, Job, figures_of, jobs_of, read_pipeline
from components.study_records import Records, RunRecord, study_digest
from flows.stages import read_lines, reason_of, stage_environment
from flows.workspace import Workspace, fingerprinted, prepare_known

# A training may have to wait until another run's has left it room; Ray Train gives up after a minute.
_START_TIMEOUT_S = 6 * 3600

Tell = Callable[["Ended", int, int], None]


@dataclass(frozen=True)
class Prepared:
    """A study whose runs have their workspaces.

    Attributes:
        workspaces: by the name of the run.
        digest: name of the study.
    """

    choices: StudyChoices
    division: Division
    runs: tuple[StudyRun, ...]
    workspaces: Mapping[str, Workspace]
    digest: str
    records: Records

    def outcomes(self) -> list[tuple[StudyRun, RunRecord | None]]:
        """Each run with what became of it; None for one that has not ended."""
        found = ((run, self.records.read(run.name)) for run in self.runs)
        return [
            (run, record if record and record.digest == self.workspaces[run.name].digest else None)
            for run, record in found
        ]

    def unfinished(self) -> list[StudyRun]:
        """The runs without figures: those that have not ended, that failed, or whose files are gone."""
        return [
            run
            for run, record in self.outcomes()
            if not (record and record.state == "done" and figures_of(run, Path(record.folder)).exists())
        ]


@dataclass(frozen=True)
class Ended:
    """A job that has ended: `error` is empty when it did well."""

    job: Job
    error: str
    duration_s: float


def prepare(choices: StudyChoices, settings: Settings) -> Prepared:
    """Plan a study, and make or find again the workspaces of its runs.

    Raises:
        ValueError: the choices name something that does not exist.
    """
    plan(choices)  # What is misspelt is told before a corpus is listed.
    shared = ("recipe", "finetune_on", "pretrain_on", "overrides")
    known = fingerprinted(Choices(**{name: getattr(choices, name) for name in shared}))
    choices = choices.model_copy(update={name: getattr(known, name) for name in shared})
    runs = tuple(plan(choices))
    workspaces = {run.name: prepare_known(run.choices, settings) for run in runs}
    digest = study_digest([f"{run.name} {workspaces[run.name].digest}" for run in runs])
    return Prepared(choices, divide(choices), runs, workspaces, digest, Records(Storage(settings.storage_url), digest))


def carry_out(prepared: Prepared, settings: Settings, tell: Tell) -> None:
    """Bring every run to its figures or to its error; both are recorded as they come.

    A run that has its figures is left alone. The error of a job that several runs share is the error of each.
    """
    jobs = jobs_of(prepared.unfinished(), read_pipeline(PROJECT_ROOT / "dvc.yaml"))
    if not jobs:
        return
    compute.connect(code=PROJECT_ROOT)
    address = settings.ray_address or str(ray.get_runtime_context().gcs_address)
    choices, num_cpus = prepared.choices, compute.num_cpus()
    parallel = choices.parallel or max(1, num_cpus // choices.workers_per_run)
    shared = {
        "ray_address": address,
        # Folds and seeds differ in who is in which part; what a clip looks and sounds like stays.
        "share_frames": True,
        # Threads of runs beside each other would wait for one another's turn, each on a processor of its own.
        "train_threads": max(1, num_cpus // (parallel * choices.workers_per_run)),
    }
    crew = _Crew(
        folders={name: workspace.folder for name, workspace in prepared.workspaces.items()},
        settings=settings.model_copy(update=shared),
        parallel=parallel,
    )
    needed = {key for job in jobs for key in job.waits_for}
    for number, ended in enumerate(crew.work(jobs), start=1):
        for name in ended.job.runs if ended.error or ended.job.key not in needed else ():
            prepared.records.write(_record(name, prepared.workspaces[name], ended))
        tell(ended, number, len(jobs))


@dataclass(frozen=True)
class _Crew:
    """Who does the jobs: so many at once, and never two in one folder, which DVC would refuse."""

    folders: Mapping[str, Path]
    settings: Settings
    parallel: int

    def work(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        waiting, running = list(jobs), dict[Any, Job]()
        errors: dict[str, str] = {}
        while waiting or running:
            for job in list(waiting):
                cause = next((errors[key] for key in job.waits_for if errors.get(key)), "")
                if cause:
                    waiting.remove(job)
                    errors[job.key] = cause
                    yield Ended(job, cause, 0.0)
                elif len(running) < self.parallel and self._may_start(job, running.values(), errors):
                    waiting.remove(job)
                    running[self._start(job)] = job
            if running:
                [reference], _ = ray.wait(list(running), num_returns=1)
                ended = _result(running.pop(reference), reference)
                errors[ended.job.key] = ended.error
                yield ended

    def _may_start(self, job: Job, running: Any, errors: Mapping[str, str]) -> bool:
        is_free = all(self.folders[other.run] != self.folders[job.run] for other in running)
        return is_free and all(key in errors for key in job.waits_for)

    def _start(self, job: Job) -> Any:
        # The stages ask Ray for processors themselves; this only starts them and waits, on whichever node.
        remote = ray.remote(_do).options(num_cpus=0, max_retries=0, scheduling_strategy="SPREAD", name=job.stage)
        return remote.remote(job, self.folders[job.run], self.settings)


def _do(job: Job, folder: Path, settings: Settings) -> Ended:
    """What a Ray worker does: one DVC stage with all before it, in a process that ends with the worker."""
    started = time.monotonic()
    stage = "features" if job.stage == RIDGE else job.stage
    commands = [["dvc", "repro", stage], *([["components.ridge"]] if job.stage == RIDGE else [])]
    log = folder / f"{job.stage}.log"
    environment = {**stage_environment(settings), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_START_TIMEOUT_S)}
    error = ""
    # What an interrupted study did in this folder stays readable.
    with log.open("a", encoding="utf-8") as output:
        for command in commands:
            if not error:
                error = _run([sys.executable, "-m", *command], folder, environment, output)
    return Ended(job, error and f"{job.stage}: {error}", round(time.monotonic() - started, 1))


def _run(command: list[str], folder: Path, environment: dict[str, str], log: TextIO) -> str:
    """Why the command failed; empty when it did not."""

    def keep(line: str) -> None:
        log.write(f"{line}\n")
        log.flush()

    lines, status = read_lines(command, folder, environment, on_line=keep, on_progress=lambda _reached: None)
    return reason_of(lines, status, log=log.name) if status else ""


def _result(job: Job, reference: Any) -> Ended:
    try:
        ended: Ended = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Ended(job, f"{job.stage}: its process was lost: {one_line(error)[-400:]}", 0.0)
    return ended


def _record(name: str, workspace: Workspace, ended: Ended) -> RunRecord:
    if ended.error:
        return RunRecord(name, workspace.digest, str(workspace.folder), "failed", error=ended.error)
    return RunRecord(
        name,
        workspace.digest,
        str(workspace.folder),
        "done",
        duration_s=ended.duration_s,
        data=data_versions(workspace.folder),
    )
