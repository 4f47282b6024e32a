"""Starting a deployment through the Prefect API, as the Run button does, and watching it from a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from components.settings import Settings
from flows.consoles import plain_console
from flows.stages import PROGRESS_KEY

_POLL_S = 0.5
# Prefect's own five, each waiting twice as long, leave a person a minute before a dead server is told.
_NUM_RETRIES = 2
_PLAIN_INTERVAL_S = 10.0
_CANCEL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _Step:
    """What the terminal shows of one task run."""

    name: str
    state: str
    percent: float
    message: str


@contextmanager
def prefect_client(settings: Settings) -> Iterator[SyncPrefectClient]:
    """A client of this platform's Prefect server.

    Raises:
        ConnectionError: no server answers.
    """
    here = {PREFECT_API_URL: f"{settings.prefect_url}/api", PREFECT_CLIENT_MAX_RETRIES: _NUM_RETRIES}
    with temporary_settings(here), get_client(sync_client=True) as client:
        try:
            yield client
        except httpx.ConnectError as error:
            raise ConnectionError(
                f"no Prefect server answers at {settings.prefect_url}: start the platform with `affect up`"
            ) from error


def start(deployment: str, parameters: dict[str, Any], settings: Settings) -> UUID:
    """Create a run of `FLOW/DEPLOYMENT`, and return its id.

    Raises:
        ConnectionError: no server answers.
        ValueError: the deployment is not served, or the API refuses the parameters.
    """
    with prefect_client(settings) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            raise ValueError(f"deployment {deployment} is not served: run `affect up`") from error
        try:
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id
        except httpx.HTTPStatusError as error:
            raise ValueError(f"the API refuses the parameters: {error.response.json().get('detail')}") from error


def follow(run_id: UUID, settings: Settings) -> State[Any]:
    """Show a run's stages on standard error until it ends; Ctrl-C cancels the run and waits for that.

    Raises:
        KeyboardInterrupt: after the run was cancelled.
    """
    console = plain_console(stderr=True)
    with prefect_client(settings) as client:
        shown = _Bars(console) if console.is_terminal else _Lines(console)
        told_of_pause = False
        try:
            with shown:
                while True:
                    run = client.read_flow_run(run_id)
                    shown.show(_steps(client, run))
                    if run.state is not None and run.state.is_final():
                        return run.state
                    if run.state is not None and run.state.is_paused() and not told_of_pause:
                        told_of_pause = True
                        console.print(f"it waits for a person: {settings.prefect_url}/runs/flow-run/{run_id}")
                    time.sleep(_POLL_S)
        except KeyboardInterrupt:
            console.print("cancelling the run; the same command goes on from here")
            _cancel(client, run_id)
            raise


def _cancel(client: SyncPrefectClient, run_id: UUID) -> None:
    client.set_flow_run_state(run_id, Cancelling())
    deadline = time.monotonic() + _CANCEL_TIMEOUT_S
    while time.monotonic() < deadline:
        state = client.read_flow_run(run_id).state
        if state is not None and state.is_final():
            return
        time.sleep(_POLL_S)


def _steps(client: SyncPrefectClient, run: FlowRun) -> list[_Step]:
    runs = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    tasks = client.read_task_runs(flow_run_filter=runs)
    progress: dict[UUID, tuple[float, str]] = {}
    artifacts = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}, "key": {"like_": f"{PROGRESS_KEY}%"}})
    for artifact in client.read_artifacts(artifact_filter=artifacts):
        if artifact.task_run_id is not None:
            progress[artifact.task_run_id] = (float(str(artifact.data)), artifact.description or "")
    steps = []
    for task in sorted(tasks, key=lambda task: task.start_time.timestamp() if task.start_time else sys.float_info.max):
        state = (task.state.name if task.state else None) or "Pending"
        if state == "Pending":
            continue  # It gets its name when it starts.
        percent, message = progress.get(task.id, (0.0, ""))
        if state == "Completed":
            percent = 100.0
        steps.append(_Step(task.name, state, percent, message))
    return steps


class _Bars:
    """One bar a stage, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[stage]:>10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[message]}", markup=False),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def show(self, steps: list[_Step]) -> None:
        for step in steps:
            if step.name not in self._bars:
                self._bars[step.name] = self._progress.add_task("", total=100, stage=step.name, message="")
            message = step.message if step.state in {"Running", "Completed"} else step.state.lower()
            self._progress.update(self._bars[step.name], completed=step.percent, message=message)


class _Lines:
    """A line when something changes, for a log file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, tuple[str, float]] = {}
        # When a stage first told how far it was, and how far that was: before, it only started.
        self._first: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def show(self, steps: list[_Step]) -> None:
        now = time.monotonic()
        for step in steps:
            state, told_at = self._told.get(step.name, ("", 0.0))
            if step.percent > 0:
                self._first.setdefault(step.name, (now, step.percent))
            if step.state == state and (step.state != "Running" or now - told_at < _PLAIN_INTERVAL_S):
                continue
            self._told[step.name] = (step.state, now)
            left = ""
            since, percent = self._first.get(step.name, (now, step.percent))
            if step.state == "Running" and percent < step.percent < 100:
                left = f", {(now - since) / (step.percent - percent) * (100 - step.percent):.0f} s left"
            message = f"{step.percent:3.0f}% {step.message}{left}" if step.state == "Running" else ""
            self._console.print(f"{step.name:>16}  {step.state:<10} {message}".rstrip(), highlight=False)
