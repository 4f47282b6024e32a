"""Releases on real servers: a person's word, rollbacks under load, one maker at a time, and back on any failure."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun

from components.claims import claimed
from components.datasets import synthetic
from components.params import Gates, load_choices, with_setting
from components.registry import Registry, ReleaseConflict
from components.storage import Storage
from flows import following, releasing, trials
from flows.laptop import on_platform
from flows.releasing import registry_of
from flows.workspace import Workspace, held
from tests.conftest import REPOSITORY
from tests.platform import SMALL, Platform, settings
from tests.ray_endpoint import Load

pytestmark = [pytest.mark.slow, pytest.mark.platform]

# A model of its own, of which only the last stages are new, and which nobody releases without a person's word.
ASKING = (*SMALL, "finetune.num_epochs=1", "gates.approval=true", "gates.max_champion_loss=1")


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)


def served(platform: Platform) -> int:
    """Number of the release that answers."""
    return int(httpx.get(f"{platform.endpoint}/v1/model", timeout=60.0).raise_for_status().json()["release"])


def processors_in_use(platform: Platform) -> float:
    """Those that Ray has given away."""
    url = f"http://127.0.0.1:{platform.ports['dashboard']}/api/cluster_status"
    status = httpx.get(url, timeout=60.0).raise_for_status().json()["data"]["clusterStatus"]
    return float(status["loadMetricsReport"]["usage"].get("CPU", [0.0])[0])


def paused(platform: Platform) -> list[FlowRun]:
    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
    with following.prefect_client(platform.settings) as client:
        return list(client.read_flow_runs(flow_run_filter=chosen))


def ended(run_id: UUID, platform: Platform) -> FlowRun:
    """A run once it has ended."""
    with following.prefect_client(platform.settings) as client:
        wait_for(lambda: client.read_flow_run(run_id).state.is_final(), f"run {run_id} to end")  # type: ignore[union-attr]  # a run has a state
        return client.read_flow_run(run_id)


@dataclass(frozen=True)
class Second:
    """The second release, made after a person had said yes.

    Attributes:
        form: what the person saw.
    """

    outcome: dict[str, Any]
    form: str
    refused: int


@pytest.fixture(scope="module")
def second(first_run: dict[str, Any], platform: Platform) -> Second:
    """A run that is cancelled while it trains, started again, and released by a person."""
    assert first_run["outcome"] == "promoted"
    before = processors_in_use(platform)
    run = platform.start("retrain", *settings(*ASKING))
    wait_for(lambda: bool(platform.processes("RayTrainWorker")), "a training worker")
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    # What the training had of Ray is free again.
    wait_for(lambda: not platform.processes("RayTrainWorker"), "the workers to end", 60)
    wait_for(lambda: processors_in_use(platform) <= before, "Ray's processors to be free", 60)

    run = platform.start("retrain", *settings(*ASKING), "--json")
    wait_for(lambda: bool(paused(platform)), "the run to wait for a person")
    [waiting] = paused(platform)
    assert served(platform) == first_run["release"]
    url = f"http://127.0.0.1:{platform.ports['prefect']}/api/flow_runs/{waiting.id}"
    assert waiting.state is not None
    keys = waiting.state.state_details.run_input_keyset
    assert keys is not None
    form = httpx.get(f"{url}/input/{keys['description']}", timeout=60.0).raise_for_status().text
    nobody = httpx.post(f"{url}/resume", json={"run_input": {"release": True}}, timeout=60.0)
    # Whoever follows the run in a terminal is told where to go.
    assert run.stderr is not None
    wait_for(lambda: "it waits for a person: http" in str(run.stderr and run.stderr.readline()), "the terminal to tell")
    answer = {"release": True, "decided_by": "anna", "reason": "heard twenty clips"}
    assert httpx.post(f"{url}/resume", json={"run_input": answer}, timeout=60.0).json()["status"] == "ACCEPT"
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return Second(json.loads(output), form, nobody.json()["status"] == "REJECT")


def test_a_person_sees_the_gates_and_is_named_in_the_log(
    second: Second, first_run: dict[str, Any], platform: Platform
) -> None:
    assert "macro_f1_floor" in second.form
    assert "robustness/noise_20_db" in second.form
    # Who does not give a name does not decide.
    assert second.refused
    assert second.outcome["outcome"] == "promoted"
    log = platform.json("releases")
    assert log[-1]["number"] == second.outcome["release"] == served(platform) > first_run["release"]
    assert (log[-1]["approved_by"], log[-1]["note"]) == ("anna", "heard twenty clips")


def test_every_gate_of_a_run_is_explained(second: Second, platform: Platform) -> None:
    told = platform.json("gate", "--explain", second.outcome["digest"])
    assert told["run_id"] == second.outcome["run_id"]
    names = {gate["name"] for gate in told["gates"]}
    assert {"macro_f1_floor", "not_worse_than_champion", "modalities/audio", "robustness/silence"} <= names
    assert {"calibration", "latency_p95", "memory", "size", "golden_reproduced"} <= names
    assert all(gate["passed"] for gate in told["gates"])
    table = platform.affect("gate").stdout
    assert all(name in table for name in names)
    assert "no run 'nothing'" in platform.affect("gate", "--explain", "nothing", status=1).stderr


def test_rolling_back_and_forth_under_load_loses_no_request(
    second: Second, first_run: dict[str, Any], platform: Platform
) -> None:
    video = next(request.video for request in synthetic.golden_requests() if request.video)
    with Load(on_platform(platform.settings), video) as load:
        load.wait_for(4)
        began = time.monotonic()
        back = platform.json("rollback", "--reason", "it was better before")
        took_s = time.monotonic() - began
        assert served(platform) == back["number"] == second.outcome["release"] + 1
        load.wait_for(4)
        # And forward again, by the deployment of the same name.
        began = time.monotonic()
        run_id = following.start(
            "rollback/rollback", {"release": second.outcome["release"], "reason": "it was not"}, platform.settings
        )
        run = ended(run_id, platform)
        deployment_took_s = time.monotonic() - began
        load.wait_for(4)
    assert run.state is not None
    assert run.state.is_completed(), run.state.message
    assert not load.failures
    log = platform.json("releases")
    assert [(each["kind"], each["note"]) for each in log[-2:]] == [
        ("rollback", "it was better before"),
        ("rollback", "it was not"),
    ]
    assert (log[-2]["bundle"], log[-1]["bundle"]) == (log[first_run["release"] - 1]["bundle"], log[-3]["bundle"])
    assert served(platform) == log[-1]["number"]
    versions = [answer.model.version for answer in load.answers]
    assert {log[-2]["version"], log[-1]["version"]} == set(versions)
    # On a machine of its own it takes less than ten seconds; here others train beside it.
    print(f"rollback: {took_s:.1f} s by the command, {deployment_took_s:.1f} s by the deployment")
    assert max(took_s, deployment_took_s) < 60


def test_trials_begin_and_end_under_load_without_a_failed_request(
    second: Second, first_run: dict[str, Any], platform: Platform
) -> None:
    """A shadow by the commands, then a canary as a run holds it, of the first model beside the second."""
    here = on_platform(platform.settings)
    video = next(request.video for request in synthetic.golden_requests() if request.video)
    live = platform.json("releases")[-1]
    assert live["number"] > second.outcome["release"]
    challenger = platform.json("releases")[first_run["release"] - 1]["version"]
    with Load(here, video) as load:
        load.wait_for(2)
        begun = platform.json("trial", "start", first_run["digest"], "--shadow", "1")
        assert (begun["release"], begun["version"]) == (live["number"], challenger)
        told = platform.affect("trial", "start", first_run["digest"], "--canary", "0.5", status=1).stderr
        assert f"trial {begun['number']} of version {challenger} goes on" in told
        wait_for(
            lambda: platform.json("trial", "status")["figures"]["num_clips"] >= 3, "the shadow to be compared", 120
        )
        assert {answer.model.version for answer in load.answers} == {live["version"]}
        ended = platform.json("trial", "end", "--reason", "seen enough")
        assert not ended["is_running"]
        assert ended["end"]["reason"] == "seen enough"
        assert ended["figures"]["agreement"] is not None
        assert {"live_trial/requests", "live_trial/agreement"} <= {gate["name"] for gate in ended["gates"]}
        num_before = len(load.answers)
        champion = registry_of(here).champion()
        assert champion is not None
        wanted = Gates(trial="canary", trial_share=1.0, trial_clips=4, max_trial_slowdown=100)
        workspace = Workspace(Path(first_run["folder"]), first_run["digest"])
        results = trials.hold(workspace, champion, wanted, settings=here, tell=print)
        load.wait_for(4)
    assert not load.failures
    assert [(result.name, result.passed) for result in results] == [
        ("live_trial/requests", True),
        ("live_trial/failures", True),
        ("live_trial/slowdown", False),
    ]
    after = load.answers[num_before:]
    assert {(answer.model.version, answer.model.release) for answer in after} == {
        (challenger, 0),
        (live["version"], live["number"]),
    }
    # Whatever it answered: the champion is what it was, and alone.
    assert after[-1].model.version == live["version"]
    assert platform.json("trial", "status")["end"]["outcome"] == "refused"
    assert platform.json("releases")[-1] == live
    # Nothing that was sent is kept.
    kept = [path for path in (platform.home / "store/trials").rglob("*") if path.is_file()]
    assert len(kept) >= 6
    assert sum(path.stat().st_size for path in kept) < 100_000
    assert "no trial goes on" in platform.affect("trial", "end", status=1).stderr


def test_of_two_who_release_at_once_one_is_told(second: Second, platform: Platform) -> None:
    live = served(platform)
    assert live >= second.outcome["release"]
    with claimed(Storage(str(platform.home / "store")), live + 1, holder="run abc"):
        told = platform.affect("rollback", status=1).stderr
    assert f"release {live + 1} is being made by run abc" in told
    assert served(platform) == live
    assert len(platform.json("releases")) == live


def test_a_bundle_that_answers_wrongly_is_not_released_and_the_former_one_is_back(
    second: Second, platform: Platform, tmp_path: Path
) -> None:
    here = on_platform(platform.settings)
    registry = Registry(Storage(here.storage_url))
    live = registry.champion()
    assert live is not None
    assert live.number > second.outcome["release"]
    folder = Path(shutil.copytree(registry.fetch_bundle(live.bundle, tmp_path), tmp_path / "wrong"))
    golden = json.loads((folder / "golden.json").read_text())
    golden["requests"][0]["probabilities"].reverse()
    (folder / "golden.json").write_text(json.dumps(golden))
    wrong = replace(live, bundle=registry.store_bundle(folder), kind="promotion")
    told: list[str] = []
    with pytest.raises(releasing.ReleaseFailed, match=f"golden requests.*; release {live.number} is served again"):
        releasing.make(wrong, after=live.number, holder="a test", settings=here, tell=told.append)
    assert "putting back" in told[0]
    assert served(platform) == live.number == len(registry.releases())
    assert not registry.storage.names("claims")
    # What was decided against an older release does not even touch the endpoint.
    with pytest.raises(ReleaseConflict, match=f"release {live.number} was made by somebody else"):
        releasing.make(live, after=live.number - 1, holder="a test", settings=here, tell=told.append)
    assert len(told) == 1


def test_a_second_run_waits_for_who_works_in_its_workspace(first_run: dict[str, Any], platform: Platform) -> None:
    choices = load_choices(REPOSITORY / "params.yaml")
    for assignment in SMALL:
        choices = with_setting(choices, assignment)
    workspace = Workspace(Path(first_run["folder"]), first_run["digest"])
    with held(workspace, print):
        run_id = following.start("ingest/ingest", {"choices": choices.model_dump(mode="json")}, platform.settings)
        chosen = LogFilter.model_validate({"flow_run_id": {"any_": [run_id]}})
        with following.prefect_client(platform.settings) as client:

            def told() -> bool:
                return any("another run works in" in line.message for line in client.read_logs(log_filter=chosen))

            wait_for(told, "the run to say that it waits", 60)
            run = client.read_flow_run(run_id)
        assert run.state is not None
        assert run.state.is_running()
        assert not platform.processes("components.ingest")
    run = ended(run_id, platform)
    assert run.state is not None
    assert run.state.is_completed(), run.state.message


def test_a_finished_run_is_judged_again_and_found_to_be_live(second: Second, platform: Platform) -> None:
    run_id = following.start("promote/promote", {"run": second.outcome["digest"]}, platform.settings)
    run = ended(run_id, platform)
    assert run.state is not None
    assert run.state.is_completed(), run.state.message
    told = platform.json("gate", "--explain", str(run_id))
    assert told["outcome"] == "unchanged"
    assert told["release"] == served(platform)
    unknown = ended(following.start("promote/promote", {"run": "nothing"}, platform.settings), platform)
    assert unknown.state is not None
    assert "there is no run 'nothing'" in (unknown.state.message or "")


def test_forms_refuse_what_cannot_be(platform: Platform) -> None:
    """By the API, before there is a run: also when somebody talks to it who knows nothing of our code."""
    with following.prefect_client(platform.settings) as client:
        before = {run.id for run in client.read_flow_runs()}
        with pytest.raises(ValueError, match="the API refuses the parameters"):
            following.start("rollback/rollback", {"release": 0}, platform.settings)
        retrain = client.read_deployment_by_name("retrain/retrain")
        url = f"http://127.0.0.1:{platform.ports['prefect']}/api/deployments/{retrain.id}/create_flow_run"
        for wrong in ({"recipe": "quikc"}, {"seed": -1}, {"gates": {"min_macro_f1": 7}}, {"sead": 1}):
            answer = httpx.post(url, json={"parameters": {"choices": wrong}}, timeout=60.0)
            assert answer.status_code == 409, answer.text
            assert next(iter(wrong)) in answer.text
        assert {run.id for run in client.read_flow_runs()} == before


def test_only_what_may_pass_is_tried_again(platform: Platform, tmp_path: Path) -> None:
    """A run on the platform's server: its first module does not reach the store at first, its second has bad data."""
    (tmp_path / "flaky.py").write_text(
        "from pathlib import Path\n"
        "from components.stage import run_stage\n"
        "def main():\n"
        "    tries = Path('tries')\n"
        "    tries.write_text(tries.read_text() + 'x' if tries.exists() else 'x')\n"
        "    if len(tries.read_text()) < 2:\n"
        "        raise ConnectionRefusedError('the store does not answer')\n"
        "run_stage(main)\n"
    )
    (tmp_path / "wrong.py").write_text(
        "from pathlib import Path\n"
        "from components.stage import run_stage\n"
        "def main():\n"
        "    Path('wrong').mkdir()\n"
        "    raise ValueError('the table has no rows')\n"
        "run_stage(main)\n"
    )
    driver = (
        "import sys\n"
        "from pathlib import Path\n"
        "from prefect import flow\n"
        "from components.settings import load\n"
        "from flows.stages import run_module\n"
        "@flow\n"
        "def both():\n"
        "    for module in ('flaky', 'wrong'):\n"
        "        run_module(module, [], Path(sys.argv[1]), load())\n"
        "both()\n"
    )
    environment = {**platform.environment, "PYTHONPATH": str(REPOSITORY)}
    environment["PREFECT_API_URL"] = f"http://127.0.0.1:{platform.ports['prefect']}/api"
    command = [str(Path(shutil.which("python", path=environment["PATH"]) or "")), "-c", driver, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert "StageFailed: wrong: the table has no rows" in done.stderr
    assert (tmp_path / "tries").read_text() == "xx"
