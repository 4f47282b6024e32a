"""One stage on a cluster of its own: a RayJob whose entrypoint runs the very same DVC stage.

The flow's pod and the cluster share the store and nothing else: the job's head brings the run's folder and what the
stage reads from there, and puts there what it made. The job is named by run, stage and attempt, so a flow that is
started again finds the job that it left, and whatever was lost goes on from the last checkpoint in the store.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from prefect_kubernetes.credentials import KubernetesCredentials

from components import run_archive
from components.settings import Settings
from components.stage import TRANSIENT_STATUS, Progress, read_progress
from components.storage import Storage
from flows.kubernetes import Conflict, CustomObject, Missing, RequestRefused

_POLL_S: Final = 2.0
# How long the Kubernetes API may be silent, and KubeRay behind with what it promises by a deadline.
SILENCE_S: Final = 300.0
_ATTEMPTS: Final = 3
# Without colours, and each line when it is written.
_ENVIRONMENT: Final = "env NO_COLOR=1 PYTHONUNBUFFERED=1 RAY_COLOR_PREFIX=0"
# Reasons of KubeRay that another cluster would not mend. Any other says that the cluster was lost, or never answered.
_FINAL: Final = {
    "PreRunningDeadlineExceeded": "its nodes did not come in time",
    "DeadlineExceeded": "it was not done in time",
    "ValidationFailed": "KubeRay refuses the RayJob that the cluster is made after",
}

Told = Callable[[str], object]


class NoCluster(RuntimeError):
    """The stage did not come to an end on a cluster; the message says why."""


class _Lost(RuntimeError):
    """The cluster is gone, and what it had not saved with it."""


def run(
    stage: str,
    *,
    folder: Path,
    settings: Settings,
    on_line: Told,
    on_progress: Callable[[Progress], object],
    cluster: KubernetesCredentials | None = None,
    poll_s: float = _POLL_S,
) -> tuple[list[str], int]:
    """Run a stage to its end on a cluster, telling each line as it comes; its lines but for progress, and its status.

    The cluster ends with this function: also when an exception ends it.

    Raises:
        NoCluster: no cluster came in time, or one after the other was lost.
    """
    cluster = cluster or KubernetesCredentials()
    namespace, _, name = settings.rayjob.partition("/")
    template = CustomObject(cluster, "rayjobs", namespace, name)
    follower = _Follower(settings, on_line, on_progress)
    why = ""
    try:
        archive = run_archive.give(folder, Storage(settings.storage_url))
        manifest = _manifest(template.read(time.monotonic() + SILENCE_S), stage, folder, archive)
        for attempt in range(_ATTEMPTS):
            manifest["metadata"]["name"] = f"{name}-{folder.name}-{stage}-{attempt}"
            job = CustomObject(cluster, "rayjobs", namespace, manifest["metadata"]["name"])
            try:
                return follower.lines, _run(job, manifest, follower, poll_s)
            except _Lost as lost:
                why = str(lost)
                on_line(f"{job}: {why}; another cluster goes on from the last checkpoint")
    except RequestRefused as error:
        raise NoCluster(str(error)) from error
    raise NoCluster(f"{_ATTEMPTS} clusters were lost; the last one: {why}")


def _manifest(template: dict[str, Any], stage: str, folder: Path, archive: str) -> dict[str, Any]:
    """The RayJob of one stage, after the one that is kept as a template."""
    # By this KubeRay leaves the template alone.
    spec = {key: value for key, value in template["spec"].items() if key != "managedBy"}
    spec["entrypoint"] = f"{_ENVIRONMENT} python -m components.stored_stage {shlex.quote(stage)} --archive {archive}"
    # KubeRay would start another cluster for a stage that has found an error in its input, too.
    spec["backoffLimit"] = 0
    metadata = {"namespace": template["metadata"]["namespace"], "labels": {"affect-run": folder.name}}
    return {"apiVersion": template["apiVersion"], "kind": template["kind"], "metadata": metadata, "spec": spec}


def _run(job: CustomObject, manifest: dict[str, Any], follower: _Follower, poll_s: float) -> int:
    _create(job, manifest, poll_s)
    try:
        return _wait(job, manifest["spec"], follower, poll_s)
    except BaseException:
        # Cancelled, lost or late: what nobody follows any more must not hold GPUs.
        with contextlib.suppress(RequestRefused):
            job.delete(time.monotonic() + SILENCE_S)
        raise


def _create(job: CustomObject, manifest: dict[str, Any], poll_s: float) -> None:
    """Make the job, or find the one that a former flow run left, unless that has ended."""
    deadline = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline:
        try:
            job.create(manifest, deadline)
            return
        except Conflict:
            with contextlib.suppress(Missing):
                present = job.read(deadline)
                has_ended = present.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed")
                if not has_ended and "deletionTimestamp" not in present["metadata"]:
                    return
                job.delete(deadline)
        time.sleep(poll_s)
    raise NoCluster(f"{job}: a former job of this name does not go away")


def _wait(job: CustomObject, spec: dict[str, Any], follower: _Follower, poll_s: float) -> int:
    """Follow a job to its end; the stage's status."""
    started = time.monotonic()
    while True:
        try:
            status = job.read(time.monotonic() + SILENCE_S).get("status", {})
        except Missing as error:
            raise NoCluster(f"{job} was deleted by somebody") from error
        state, outcome = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        follower.catch_up(status)
        if state == "Complete" and outcome == "SUCCEEDED":
            return 0
        if state in ("Complete", "Failed"):
            return _status_of_failure(job, status)
        reached = "Running" if state == "Running" else state or "not looked at by KubeRay"
        waited = time.monotonic() - started
        if state != "Running" and waited > spec["preRunningDeadlineSeconds"] + SILENCE_S:
            raise NoCluster(f"{job} is {reached} after {waited:.0f} s: {_words(status)}")
        if waited > spec["activeDeadlineSeconds"] + SILENCE_S:
            raise NoCluster(f"{job} is {reached} after {waited:.0f} s, and KubeRay has not ended it: {_words(status)}")
        time.sleep(poll_s)


def _status_of_failure(job: CustomObject, status: dict[str, Any]) -> int:
    """That of the stage when it ended with an error itself: 1, or one by which it may succeed later.

    Raises:
        NoCluster: nothing but a change of the settings or the cluster would help.
        _Lost: another cluster may help.
    """
    reason = status.get("reason", "")
    if reason in _FINAL:
        raise NoCluster(f"{job}: {_FINAL[reason]}: {_words(status)}")
    if status.get("jobStatus") == "FAILED" and reason in ("", "AppFailed"):
        # Ray says it in words alone.
        return TRANSIENT_STATUS if f"exit code {TRANSIENT_STATUS}," in status.get("message", "") else 1
    raise _Lost(f"the cluster was lost: {_words(status)}")


def _words(status: dict[str, Any]) -> str:
    told = [str(status.get(name, "")) for name in ("reason", "message")]
    return " ".join(" ".join(told).split()) or "no reason is given"


class _Follower:
    """Tells a job's lines as they come, from the log that its dashboard has.

    Attributes:
        lines: of all attempts, but for progress.
    """

    def __init__(self, settings: Settings, on_line: Told, on_progress: Callable[[Progress], object]) -> None:
        self.lines: list[str] = []
        self._settings, self._on_line, self._on_progress = settings, on_line, on_progress
        self._job, self._num_told = "", 0

    def catch_up(self, status: dict[str, Any]) -> None:
        """Tell what has come since. A dashboard that does not answer is asked the next time."""
        address, job = status.get("dashboardURL"), status.get("jobId")
        if not address or not job or status.get("jobDeploymentStatus") == "Initializing":
            return
        if job != self._job:
            self._job, self._num_told = job, 0
        try:
            answer = httpx.get(f"http://{address}/api/jobs/{job}/logs", headers=self._token(), timeout=30.0)
            answer.raise_for_status()
        except httpx.HTTPError:
            return
        has_ended = status.get("jobDeploymentStatus") in ("Complete", "Failed")
        whole = str(answer.json()["logs"]).split("\n")
        # What stands behind the last line break is a line that is still being written.
        for line in (whole if has_ended else whole[:-1])[self._num_told :]:
            self._num_told += 1
            self._tell(line.rstrip())

    def _tell(self, line: str) -> None:
        reached = read_progress(line)
        if reached is not None:
            self._on_progress(reached)
        elif line:
            self._on_line(line)
            self.lines.append(line)

    def _token(self) -> dict[str, str]:
        file = self._settings.ray_token_file
        return {} if file == Path() else {"Authorization": f"Bearer {file.read_text(encoding='ascii').strip()}"}
