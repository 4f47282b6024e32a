"""Running DVC stages as Prefect tasks: the stage's output becomes the task's log, its progress an artifact."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypedDict
from uuid import UUID

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from components.run_record import StageOutcome, StageResult
from components.settings import Settings, inherited_environment
from components.stage import (
    NOT_THERE_STATUS,
    TRANSIENT_STATUS,
    Cost,
    Progress,
    is_transient,
    read_cost,
    read_progress,
)
from flows import processes

STAGES = ("params", "ingest", "features", "pretrain", "finetune", "evaluate", "bundle")

# What a cluster of GPUs is started for, where the settings name one.
ON_A_CLUSTER = ("pretrain", "finetune")

# Name of the artifacts by which whoever watches a run learns how far a stage is.
PROGRESS_KEY = "progress-"

# The Prefect API is told about progress at most this often.
_PROGRESS_INTERVAL_S = 1.0


class _Retrying(TypedDict):
    retries: int
    retry_delay_seconds: Callable[[int], list[float]]
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


class StageFailed(RuntimeError):
    """A stage ended with an error; the message is the stage's own."""


class StageInterrupted(StageFailed):
    """A stage ended because a server did not answer it; it may succeed when it is run again."""


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task that failed is worth another try: bad data and a refused model stay what they are."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageInterrupted) or (isinstance(error, BaseException) and is_transient(error))


RETRYING: Final[_Retrying] = {
    # Over more than a minute: an object store that is started anew takes some time.
    "retries": 5,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_condition_fn": may_pass,
}


@task(task_run_name="{stage}", persist_result=False, **RETRYING)
def run_stage(stage: str, folder: Path, settings: Settings) -> StageResult:
    """Bring one DVC stage up to date in a run's folder.

    Raises:
        StageFailed: the stage ended with an error.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", *_command(stage, settings)]
    if settings.rayjob and stage in ON_A_CLUSTER:
        lines = _run_on_cluster(command, stage, folder, settings)
    else:
        lines, _ = _follow(command, stage, folder, settings)
    outcome: StageOutcome = "ran"
    if any("didn't change, skipping" in line for line in lines):
        outcome = "unchanged"
    elif any("is cached - skipping run" in line for line in lines):
        outcome = "restored"
    return _result(stage, lines, started, outcome)


@task(task_run_name="{module}", persist_result=False, **RETRYING)
def run_module(module: str, arguments: list[str], folder: Path, settings: Settings) -> StageResult:
    """Run a module that is no DVC stage, because its answer depends on what is live now.

    Raises:
        StageFailed: the module ended with an error.
    """
    started = time.monotonic()
    lines, _ = _follow([sys.executable, "-m", module, *arguments], module, folder, settings)
    return _result(module, lines, started)


def _command(stage: str, settings: Settings) -> list[str]:
    """What brings a stage up to date: by the store where other machines use it too, or may run the stage."""
    # The first stage takes no longer than asking the store.
    by_store = settings.goes_by_store and stage != STAGES[0]
    return ["components.stored_stage", stage] if by_store else ["dvc", "repro", "--single-item", stage]


def bring_all(folder: Path, settings: Settings) -> None:
    """Bring what the stages of a finished run made, on a machine that has its folder alone.

    Raises:
        StageFailed: the store does not have it all.
    """
    for stage in STAGES:
        command = [sys.executable, "-m", *_command(stage, settings), *(["--only-bring"] if stage != STAGES[0] else [])]
        lines, status = read_lines(command, folder, stage_environment(settings), on_line=_ignore, on_progress=_ignore)
        if status == NOT_THERE_STATUS:
            raise StageFailed(f"{stage}: what it made is not in {settings.storage_url} any more: run `affect retrain`")
        if status != 0:
            raise StageFailed(f"{stage}: {reason_of(lines, status)}")


def _ignore(_told: object) -> None:
    """Do nothing with a line: nobody follows it."""


def _result(name: str, lines: list[str], started: float, outcome: StageOutcome = "ran") -> StageResult:
    cost = sum((found for line in lines if (found := read_cost(line))), Cost())
    return StageResult(name, outcome, round(time.monotonic() - started, 1), cost.cpu_s, cost.gpu_s)


def stage_environment(settings: Settings) -> dict[str, str]:
    """The environment of a stage's process: these settings, this interpreter, and an end with this process."""
    inherited = inherited_environment()
    return {
        **inherited,
        **settings.environment(),
        "AFFECT_SHARE_INSPECTIONS": "true",
        "AFFECT_PARENT_PID": str(os.getpid()),
        "PATH": f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        # The lines go into a log, where escape codes are noise.
        "NO_COLOR": "1",
        "RAY_COLOR_PREFIX": "0",
    }


def _follow(
    command: list[str], stage: str, folder: Path, settings: Settings, *, also: int = 0
) -> tuple[list[str], int]:
    """The lines of a command that ends well, or with the status `also`."""
    logger, reporter = get_run_logger(), ProgressReporter(stage)
    lines, status = read_lines(
        command, folder, stage_environment(settings), on_line=logger.info, on_progress=reporter.report
    )
    if status not in (0, also):
        raise _failure(stage, lines, status)
    return lines, status


def _failure(stage: str, lines: list[str], status: int) -> StageFailed:
    # DVC has a status of its own, and tells that of the stage.
    passing = status == TRANSIENT_STATUS or any(line.endswith(f"exited with {TRANSIENT_STATUS}") for line in lines)
    return (StageInterrupted if passing else StageFailed)(f"{stage}: {reason_of(lines, status)}")


def _run_on_cluster(command: list[str], stage: str, folder: Path, settings: Settings) -> list[str]:
    """Have a cluster run a stage, unless the store has what it makes; and bring that."""
    bring = [*command, "--only-bring"]
    lines, status = _follow(bring, stage, folder, settings, also=NOT_THERE_STATUS)
    if status == 0:
        return lines
    lines = _follow_on_cluster(stage, folder, settings)
    _follow(bring, stage, folder, settings)
    return lines


def _follow_on_cluster(stage: str, folder: Path, settings: Settings) -> list[str]:
    # The client of Kubernetes takes a second to import.
    from flows import rayjob

    logger, reporter = get_run_logger(), ProgressReporter(stage)
    try:
        lines, status = rayjob.run(
            stage, folder=folder, settings=settings, on_line=logger.info, on_progress=reporter.report
        )
    except rayjob.NoCluster as error:
        raise StageFailed(f"{stage}: {error}") from error
    if status != 0:
        raise _failure(stage, lines, status)
    return lines


def read_lines(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    *,
    on_line: Callable[[str], object],
    on_progress: Callable[[Progress], object],
) -> tuple[list[str], int]:
    """Run a stage's process to its end, telling each line as it comes; its lines but for progress, and its status.

    The process, and all that it started, ends with this function: also when an exception ends it.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = raw.rstrip()
                reached = read_progress(line)
                if reached is not None:
                    on_progress(reached)
                elif line:
                    on_line(line)
                    lines.append(line)
        except BaseException:
            # The run is being cancelled: what nobody follows any more must not go on for hours.
            processes.end_tree(process.pid)
            raise
    return lines, process.returncode


def reason_of(lines: list[str], status: int, log: str = "the task's log") -> str:
    """The stage's own words about its failure, not DVC's about the stage."""
    told = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    if told:
        return told[0]
    # A mistake of ours ends in a traceback, whose last line says what; DVC adds its own lines behind it.
    own = [line for line in lines if not line.startswith("ERROR: ")]
    return f"{own[-1] if own else 'no message'} (status {status}; {log} has the traceback)"


class ProgressReporter:
    """Keeps one progress artifact of a task up to date."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None
        self._told_at = 0.0

    def report(self, reached: Progress) -> None:
        now = time.monotonic()
        finished = reached.done >= reached.total
        if now - self._told_at < _PROGRESS_INTERVAL_S and not finished:
            return
        self._told_at = now
        percent = 100.0 * reached.done / reached.total if reached.total else 0.0
        if self._artifact is None:
            created = create_progress_artifact(
                percent, key=f"{PROGRESS_KEY}{_key(self._stage)}", description=reached.message
            )
            # The function serves callers with and without an event loop; this one has none.
            assert isinstance(created, UUID)
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, percent, description=reached.message)


def _key(stage: str) -> str:
    return stage.replace(".", "-").replace("_", "-")
