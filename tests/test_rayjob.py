"""A stage on a cluster of its own, against a stand-in of the Kubernetes API and of the dashboard, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from components import run_archive
from components.settings import Settings
from components.stage import TRANSIENT_STATUS, Progress
from flows import rayjob
from tests.conftest import REPOSITORY
from tests.infra import INFRA
from tests.kubernetes_api import BROKEN, CUT, KubernetesApi, Object, running

# What an operator does with a job: given how often it has looked, its status.
Play = Callable[[int], Object]

RUNS = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


class World:
    """A cluster with the template of infra/base, and an operator that plays what is given for each job in turn."""

    def __init__(self, api: KubernetesApi, dashboard: Dashboard, folder: Path, here: Settings) -> None:
        self.api, self.dashboard, self.folder, self.here = api, dashboard, folder, here
        self.plays: list[Play] = []
        self.made: list[Object] = []
        self.told: list[str] = []
        self.progress: list[Progress] = []
        self._looked: dict[str, int] = {}
        [template] = yaml.safe_load_all((INFRA / "base" / "training.yaml").read_text(encoding="utf-8"))
        template["metadata"]["namespace"] = "affect"
        api.put("rayjobs", template)
        api.operator = self._operate

    def run(self, stage: str = "finetune", *, on_line: Callable[[str], object] | None = None) -> tuple[list[str], int]:
        return rayjob.run(
            stage,
            folder=self.folder,
            settings=self.here,
            on_line=on_line or self.told.append,
            on_progress=self.progress.append,
            cluster=self.api.cluster,
            poll_s=0.05,
        )

    def jobs(self) -> dict[str, Object]:
        return {name: each for (_, _, name), each in self.api.objects.items() if name != "training"}

    def _operate(self, _api: KubernetesApi) -> None:
        for name, job in self.jobs().items():
            if job not in self.made:
                self.made.append(job)
            uid = f"{name} {self.made.index(job)}"
            self._looked[uid] = self._looked.get(uid, 0) + 1
            number = min(self.made.index(job), len(self.plays) - 1)
            status = {
                "dashboardURL": self.dashboard.address,
                "jobId": f"job-{number}",
                **self.plays[number](self._looked[uid]),
            }
            job["status"] = status


class Dashboard:
    """The logs of jobs, by their id, for who has the token."""

    def __init__(self) -> None:
        self.address = ""
        self.logs: dict[str, str] = {}
        self.failures = 0


@contextlib.contextmanager
def _dashboard() -> Iterator[Dashboard]:
    found = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == "Bearer secret"
            job = self.path.removeprefix("/api/jobs/").removesuffix("/logs")
            status = 200 if allowed else 401
            if found.failures:
                found.failures -= 1
                status = 500
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"logs": found.logs.get(job, "")}).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "auth_token").write_text("secret\n", encoding="ascii")
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    here = Settings(home=tmp_path, rayjob="affect/training", ray_token_file=tmp_path / "auth_token")
    with running() as api, _dashboard() as dashboard:
        yield World(api, dashboard, folder, here)


def _ends_with(*states: Object) -> Play:
    """One state after the other, and then the last for good."""
    return lambda looked: states[min(looked, len(states)) - 1]


def test_a_job_is_made_after_the_template_and_left_to_its_rules(world: World) -> None:
    world.plays = [_ends_with({"jobDeploymentStatus": "Initializing"}, RUNS, DONE)]
    assert world.run() == ([], 0)
    [(name, job)] = world.jobs().items()
    template = world.api.objects["rayjobs", "affect", "training"]["spec"]
    assert name == "training-0123456789ab-finetune-0"
    assert "managedBy" not in job["spec"]
    assert job["spec"]["rayClusterSpec"] == template["rayClusterSpec"]
    assert job["spec"]["deletionStrategy"] == template["deletionStrategy"]
    assert job["spec"]["backoffLimit"] == 0


def test_lines_and_progress_come_once_and_as_they_come(world: World) -> None:
    log = 'one\n@progress {"stage": "finetune", "done": 1, "total": 2, "message": "half"}\ntwo, and\n'

    def play(looked: int) -> Object:
        world.dashboard.logs["job-0"] = log[: 12 * looked]
        return RUNS if 12 * looked < len(log) else DONE

    world.plays = [play]
    world.dashboard.failures = 2
    assert world.run() == (["one", "two, and"], 0)
    assert world.told == ["one", "two, and"]
    assert [(each.done, each.message) for each in world.progress] == [(1, "half")]


def test_an_error_of_the_stage_is_its_end(world: World) -> None:
    world.dashboard.logs["job-0"] = "error: finetune.num_workers = 4: this Ray has 2 GPU(s); lower it"
    world.plays = [_ends_with(RUNS, {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"})]
    lines, status = world.run()
    assert (lines[-1], status) == ("error: finetune.num_workers = 4: this Ray has 2 GPU(s); lower it", 1)
    assert len(world.made) == 1


def test_a_store_that_did_not_answer_the_head_is_told_apart(world: World) -> None:
    ended = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
    said = "Job entrypoint command failed with exit code 75, last available logs (truncated to 20,000 chars):"
    world.plays = [_ends_with(RUNS, {**ended, "message": said})]
    assert world.run() == ([], TRANSIENT_STATUS)


def test_a_lost_cluster_is_replaced(world: World) -> None:
    lost = {"jobDeploymentStatus": "Failed", "reason": "JobStatusCheckTimeoutExceeded", "message": "the head is gone"}
    world.dashboard.logs |= {"job-0": "epoch 1\n", "job-1": "epoch 2\n"}
    world.plays = [_ends_with(RUNS, lost), _ends_with(RUNS, DONE)]
    lines, status = world.run()
    assert (lines, status) == (["epoch 1", "epoch 2"], 0)
    assert list(world.jobs()) == ["training-0123456789ab-finetune-1"]
    assert any("the head is gone; another cluster goes on" in line for line in world.told)


def test_clusters_are_not_replaced_for_ever(world: World) -> None:
    lost = {"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed", "message": "no route to the head"}
    world.plays = [_ends_with(lost)]
    with pytest.raises(rayjob.NoCluster, match=r"3 clusters were lost; the last one: .* no route to the head"):
        world.run()
    assert len(world.made) == 3
    assert world.jobs() == {}


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("PreRunningDeadlineExceeded", "its nodes did not come in time: PreRunningDeadlineExceeded no GPU is left"),
        ("DeadlineExceeded", "it was not done in time"),
        ("ValidationFailed", "KubeRay refuses the RayJob"),
    ],
)
def test_what_another_cluster_would_not_mend_ends_the_stage(world: World, reason: str, said: str) -> None:
    world.plays = [_ends_with({"jobDeploymentStatus": "Failed", "reason": reason, "message": "no GPU is left"})]
    with pytest.raises(rayjob.NoCluster, match=said):
        world.run()
    assert len(world.made) == 1
    assert world.jobs() == {}


def test_a_kuberay_that_does_nothing_is_not_waited_for_for_ever(world: World) -> None:
    spec = world.api.objects["rayjobs", "affect", "training"]["spec"]
    spec["preRunningDeadlineSeconds"] = -rayjob.SILENCE_S
    world.plays = [lambda _: {}]
    with pytest.raises(rayjob.NoCluster, match="is not looked at by KubeRay after 0 s: no reason is given"):
        world.run()
    assert world.jobs() == {}


def test_a_cancelled_run_ends_its_cluster(world: World) -> None:
    def cancel(_line: str) -> None:
        raise KeyboardInterrupt

    world.dashboard.logs["job-0"] = "epoch 1\n"
    world.plays = [_ends_with(RUNS)]
    with pytest.raises(KeyboardInterrupt):
        world.run(on_line=cancel)
    assert world.jobs() == {}


def test_a_job_that_somebody_deletes_ends_the_stage(world: World) -> None:
    def play(looked: int) -> Object:
        if looked == 3:
            del world.api.objects["rayjobs", "affect", next(iter(world.jobs()))]
        return RUNS

    world.plays = [play]
    with pytest.raises(rayjob.NoCluster, match="training-0123456789ab-finetune-0 was deleted by somebody"):
        world.run()


@pytest.mark.parametrize(("left", "num_made"), [(RUNS, 1), ({"jobDeploymentStatus": "Failed", "reason": "X"}, 2)])
def test_a_job_that_a_former_run_left_is_followed_or_replaced(world: World, left: Object, num_made: int) -> None:
    name = "training-0123456789ab-finetune-0"
    world.api.put("rayjobs", {"metadata": {"name": name, "namespace": "affect"}, "spec": {"left": True}})
    world.plays = [
        _ends_with(left, left, left, left, DONE) if num_made == 1 else _ends_with(left),
        _ends_with(RUNS, DONE),
    ]
    assert world.run()[1] == 0
    assert len(world.made) == num_made
    assert ("left" in world.jobs()[name]["spec"]) == (num_made == 1)


def test_an_api_that_fails_for_a_while_costs_nothing(world: World) -> None:
    world.api.failures = [503]
    # The job is made, and its maker does not learn of it.
    world.api.lost_answers = ["POST"]
    world.plays = [_ends_with(RUNS, RUNS, RUNS, DONE)]
    assert world.run() == ([], 0)
    assert len(world.made) == 1


@pytest.mark.parametrize("failure", [BROKEN, CUT, 410, 429, 500])
def test_an_api_that_breaks_off_while_a_job_is_followed_costs_nothing(world: World, failure: int) -> None:
    def play(looked: int) -> Object:
        if looked == 2:
            world.api.failures = [failure]
        world.dashboard.logs["job-0"] = "epoch\n" * looked
        return RUNS if looked < 4 else DONE

    world.plays = [play]
    lines, status = world.run()
    assert (set(lines), status, len(world.made)) == ({"epoch"}, 0, 1)
    assert world.api.failures == []


@pytest.mark.parametrize("failure", [BROKEN, CUT, 500])
def test_a_cancelled_run_ends_its_cluster_though_the_api_breaks_off(world: World, failure: int) -> None:
    def cancel(_line: str) -> None:
        world.api.failures = [failure]
        raise KeyboardInterrupt

    world.dashboard.logs["job-0"] = "epoch 1\n"
    world.plays = [_ends_with(RUNS)]
    with pytest.raises(KeyboardInterrupt):
        world.run(on_line=cancel)
    assert world.jobs() == {}


def test_an_api_that_refuses_is_told(world: World) -> None:
    world.api.failures = [403]
    with pytest.raises(rayjob.NoCluster, match="the Kubernetes API refuses it \\(403\\)"):
        world.run()


# What a flow does with a stage, without its page.
RUN_STAGE = """
import sys
from pathlib import Path
from prefect.logging import disable_run_logger
from components.settings import load
from flows.stages import run_stage
with disable_run_logger():
    for stage in ("features", "finetune", "finetune"):
        print(stage, run_stage.fn(stage, Path(sys.argv[1]), load()).outcome)
"""


def test_a_flow_has_a_stage_run_there_unless_it_is_up_to_date(world: World, tmp_path: Path) -> None:
    """The entrypoint is run as the head would: in a shell that finds the image's programs, with a home of its own."""
    stages = {
        "features": {"cmd": "echo 1 > frames", "deps": ["params.yaml"], "outs": ["frames"]},
        "finetune": {"cmd": "cat frames > model && pwd >> model", "deps": ["frames"], "outs": ["model"]},
    }
    (world.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    (world.folder / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    run_archive.write_dvc_config(world.folder, world.here.home)
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    head = {"AFFECT_HOME": str(tmp_path / "head"), "AFFECT_STORAGE_URL": world.here.storage_url}
    started: list[subprocess.Popen[bytes]] = []

    def play(_looked: int) -> Object:
        if not started:
            [job] = world.jobs().values()
            with (tmp_path / "output").open("wb") as log:
                command = ["/bin/bash", "-c", job["spec"]["entrypoint"]]
                started.append(
                    subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **path, **head}, stdout=log, stderr=log)
                )
        ended = started[0].poll()
        world.dashboard.logs["job-0"] = (tmp_path / "output").read_text(encoding="utf-8")
        if ended is None:
            return RUNS
        return DONE if ended == 0 else {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}

    world.plays = [play]
    config = world.api.cluster.cluster_config
    assert config is not None
    (tmp_path / "kubeconfig").write_text(json.dumps(config.config), encoding="utf-8")
    here = {**world.here.environment(), "KUBECONFIG": str(tmp_path / "kubeconfig")}
    command = [sys.executable, "-c", RUN_STAGE, str(world.folder)]
    flow = subprocess.run(command, env={**os.environ, **path, **here}, stdout=subprocess.PIPE, text=True, check=True)
    assert flow.stdout.splitlines() == ["features ran", "finetune ran", "finetune unchanged"]
    assert len(world.made) == 1
    frames, folder = (world.folder / "model").read_text(encoding="utf-8").split()
    assert (frames, Path(folder).parent) == ("1", tmp_path / "head" / "workspaces")
