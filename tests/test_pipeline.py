"""The whole job on real servers: train, be interrupted, gate, promote, predict; then nothing changed, a refused model,
bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun

from components.bundle_files import version_of
from components.params import load_choices, with_setting
from flows import following
from flows.laptop import client_environment
from tests.conftest import REPOSITORY
from tests.platform import BIN, SMALL, Platform, checkout, settings

pytestmark = [pytest.mark.slow, pytest.mark.platform]


@dataclass(frozen=True)
class Repository:
    """A checkout of the project with a home folder of its own beside it."""

    folder: Path

    def dvc(self, *arguments: str, on: Platform | None = None) -> str:
        """What `dvc ARGUMENTS` prints. Without a platform whose Ray it may use, each stage that needs one starts it."""
        home = self.folder.parent
        environment = {
            **(client_environment(on.settings) if on else {}),
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(home),
            "AFFECT_HOME": str(home / "home"),
        }
        done = subprocess.run(
            [str(BIN / "dvc"), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def git(self, *arguments: str) -> None:
        author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *author, *arguments], cwd=self.folder, check=True)


def test_first_run_promotes_and_tells_everything(first_run: dict[str, Any], platform: Platform) -> None:
    assert first_run["outcome"] == "promoted"
    # What was complete before the interruptions was not done again.
    assert [stage["outcome"] for stage in first_run["stages"]] == ["unchanged"] * 3 + ["ran"] * 4
    assert {gate["name"] for gate in first_run["gates"]} >= {"macro_f1_floor", "not_worse_than_champion"}
    assert 0 <= first_run["metrics"]["macro_f1"]["low"] <= first_run["metrics"]["macro_f1"]["high"] <= 1
    assert first_run["metrics"]["synthetic"] is True
    assert first_run["data"]["build/clips"].endswith(".dir")
    [release] = platform.json("releases")
    assert (release["number"], release["run"]) == (first_run["release"], first_run["digest"])


def test_what_was_interrupted_ended_as_it_ended(first_run: dict[str, Any], platform: Platform) -> None:
    """The first by its person, two by the death of their process: none of them is running for ever."""
    with following.prefect_client(platform.settings) as client:
        runs = client.read_flow_runs()
    states = {str(run.id): run.state_name for run in sorted(runs, key=lambda run: str(run.start_time))}
    ended = list(states.values())[: list(states).index(first_run["run_id"]) + 1]
    assert ended == ["Cancelled", "Crashed", "Crashed", "Completed"]


@dataclass(frozen=True)
class AtOnce:
    """Four runs that were started at the same moment: two of the main flow, of which one is refused by a gate, and
    beside the first of them one in the same workspace and one in the other's."""

    again: dict[str, Any]
    refused: dict[str, Any]
    beside: tuple[FlowRun, FlowRun]


@pytest.fixture(scope="module")
def at_once(first_run: dict[str, Any], platform: Platform) -> AtOnce:
    assert first_run["outcome"] == "promoted"
    strict = (*SMALL, "gates.min_macro_f1=0.999")
    runs = [platform.start("retrain", *settings(*chosen), "--json") for chosen in (SMALL, strict)]
    ids = [
        following.start(f"{name}/{name}", {"choices": choices(*chosen)}, platform.settings)
        for name, chosen in (("evaluate", SMALL), ("finetune", strict))
    ]
    told = [run.communicate(timeout=540) for run in runs]
    assert [run.returncode for run in runs] == [0, 1], told
    with following.prefect_client(platform.settings) as client:
        while not all(is_final(client.read_flow_run(run_id)) for run_id in ids):
            time.sleep(0.5)
        same, other = (client.read_flow_run(run_id) for run_id in ids)
    again, refused = (json.loads(output) for output, _ in told)
    return AtOnce(again, refused, (same, other))


def is_final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def choices(*assignments: str) -> dict[str, Any]:
    """The choices of params.yaml with these settings, as the form gives them."""
    chosen = load_choices(REPOSITORY / "params.yaml")
    for assignment in assignments:
        chosen = with_setting(chosen, assignment)
    return chosen.model_dump(mode="json")


def test_second_run_skips_every_stage_and_keeps_the_champion(
    at_once: AtOnce, first_run: dict[str, Any], platform: Platform
) -> None:
    again = at_once.again
    assert [stage["outcome"] for stage in again["stages"]] == ["unchanged"] * 7
    assert (again["outcome"], again["release"]) == ("unchanged", first_run["release"])
    assert len(platform.json("releases")) == 1


def test_runs_at_once_do_not_disturb_each_other(at_once: AtOnce, platform: Platform) -> None:
    with following.prefect_client(platform.settings) as client:
        one, two = (client.read_flow_run(UUID(run["run_id"])) for run in (at_once.again, at_once.refused))
    # Of one deployment the second waited for the first, whichever that was; other deployments did not.
    first, second = sorted((one, two), key=lambda run: str(run.start_time))
    assert first.end_time is not None
    assert second.start_time is not None
    assert second.start_time >= first.end_time
    assert [run.state_name for run in at_once.beside] == ["Completed", "Completed"]
    assert min(run.start_time for run in at_once.beside if run.start_time) < first.end_time
    # What both workspaces hold is whole, and equal where gates make no difference.
    mine, others = (Path(run["folder"]) for run in (at_once.again, at_once.refused))
    assert mine != others
    assert version_of(mine / "build/bundle") == version_of(others / "build/bundle")
    assert platform.json("releases")[-1]["version"] == version_of(mine / "build/bundle")
    for name in ("build/evaluation/metrics.json", "build/evaluation/predictions.parquet"):
        assert (mine / name).read_bytes() == (others / name).read_bytes()


def test_every_run_leaves_its_report(at_once: AtOnce, first_run: dict[str, Any], platform: Platform) -> None:
    for run in (first_run, at_once.again, at_once.refused):
        assert run["report"] == f"/reports/runs/{run['run_id']}"
        page = httpx.get(f"http://127.0.0.1:{platform.ports['prefect']}{run['report']}", timeout=60.0)
        assert page.status_code == 200
        assert run["digest"] in page.text
        for section in ("gates", "changes", "figures", "curves", "answers", "reliability", "cost"):
            assert f'<section id="{section}">' in page.text
    assert "below the floor of 0.999" in page.text
    assert "gates.min_macro_f1" in page.text
    # What ran used processors, on Ray too; what did not run used hardly any.
    used = {stage["stage"]: stage["cpu_s"] for stage in first_run["stages"]}
    assert min(used["pretrain"], used["finetune"]) > 1
    assert all(stage["cpu_s"] < 1 for stage in at_once.again["stages"])
    last = platform.json("status")["last_run"]
    assert last["run_id"] in (at_once.again["run_id"], at_once.refused["run_id"])
    assert last["report"].endswith(f"/reports/runs/{last['run_id']}")
    assert last["report"] in platform.affect("status").stdout


def test_command_and_curl_give_the_same_probabilities(first_run: dict[str, Any], platform: Platform) -> None:
    told = platform.json("predict")
    clip = Path(told["clip"]["path"])
    assert told["clip"]["speaker"] not in _training_speakers(Path(first_run["folder"]))
    mine = platform.json("predict", str(clip))["probabilities"]
    answer = subprocess.run(
        ["curl", "--silent", "--fail", "-F", f"video=@{clip}", f"{platform.endpoint}/v1/emotion"],
        capture_output=True,
        check=True,
    )
    curled = json.loads(answer.stdout)["probabilities"]
    assert mine.keys() == curled.keys()
    assert all(abs(mine[label] - curled[label]) <= 1e-5 for label in mine)


def test_failed_gate_ends_red_and_the_champion_stays(
    at_once: AtOnce, first_run: dict[str, Any], platform: Platform
) -> None:
    refused = at_once.refused
    assert refused["state"] == "Failed"
    assert "gate macro_f1_floor" in refused["error"]
    assert "below the floor of 0.999" in refused["error"]
    assert "the champion stays" in refused["error"]
    assert platform.json("status")["release"] == first_run["release"]
    # A run of its own: all that its other gate does not change came from the cache that all runs share.
    assert refused["digest"] != first_run["digest"]
    assert all(stage["outcome"] in ("restored", "unchanged") for stage in refused["stages"][1:])


@pytest.fixture(scope="module")
def repository(first_run: dict[str, Any], platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A checkout in which `dvc repro` has run without Prefect, with the choices of the platform's run."""
    folder = checkout(tmp_path_factory.mktemp("alone") / "checkout")
    shutil.copyfile(Path(first_run["folder"]) / "params.yaml", folder / "params.yaml")
    repository = Repository(folder)
    repository.dvc("repro", on=platform)
    return repository


def test_dvc_alone_builds_the_bundle_of_the_run_that_was_interrupted(
    first_run: dict[str, Any], repository: Repository
) -> None:
    """Nobody disturbed it: the killed run lost nothing, to the bit."""
    assert version_of(repository.folder / "build/bundle") == version_of(Path(first_run["folder"]) / "build/bundle")


def test_dvc_compares_figures_and_draws_plots(repository: Repository) -> None:
    repository.git("add", "dvc.lock", "params.yaml")
    repository.git("commit", "--quiet", "--message", "first")
    choices_file = repository.folder / "params.yaml"
    choices = yaml.safe_load(choices_file.read_text(encoding="utf-8"))
    choices["overrides"]["finetune"]["num_epochs"] = 1
    choices_file.write_text(yaml.safe_dump(choices), encoding="utf-8")
    repository.dvc("repro", "evaluate")
    difference = json.loads(repository.dvc("metrics", "diff", "--json"))
    # Which figures move is the training's business; this one, a float of many digits, always does.
    assert difference["build/evaluation/metrics.json"]["calibration_error"]["diff"] != 0
    repository.dvc("plots", "show")
    page = (repository.folder / "dvc_plots/index.html").read_text(encoding="utf-8")
    for plot in ("Confusion on test speakers", "Loss of pre-training", "Loss of fine-tuning"):
        assert plot in page


def _training_speakers(workspace: Path) -> set[str]:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(workspace / "build/clips/clips.parquet").to_pylist()
    return {row["speaker_id"] for row in rows if row["split"] != "test"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "quikc"], ["unknown recipe 'quikc'", "did you mean quick?"]),
        (["--set", "finetune.num_epoch=3"], ["unknown key", "did you mean num_epochs?"]),
        (["--set", "finetune.num_epochs=0"], ["finetune.num_epochs", "greater than or equal to 1"]),
        (["--dataset", "ravdes"], ["unknown dataset 'ravdes'", "did you mean ravdess?"]),
        (["--dataset", "ravdess", "--data-root", "/nowhere/at/all"], ["/nowhere/at/all"]),
        (["--dataset", "ravdess"], ["--data-root"]),
    ],
)
def test_bad_choices_are_told_in_one_line(platform: Platform, arguments: list[str], words: list[str]) -> None:
    told = platform.affect("retrain", *arguments, status=1).stderr.strip()
    for word in words:
        assert word in told
    assert told.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in told


def test_port_in_use_is_named(platform: Platform, tmp_path: Path) -> None:
    other = Platform(tmp_path / "home", platform.ports)
    told = other.affect("up", status=1).stderr
    assert f"port {platform.ports['prefect']}" in told
    assert "AFFECT_PREFECT_PORT" in told


def test_json_is_one_document_and_nothing_else(platform: Platform) -> None:
    now = platform.json("status")
    assert now["prefect"]
    assert now["ray"]
    assert now["runner"]
    assert now["urls"]["endpoint"] == platform.endpoint


def test_repository_is_untouched_by_runs(first_run: dict[str, Any]) -> None:
    assert first_run["outcome"] == "promoted"
    assert not Path(first_run["folder"]).is_relative_to(REPOSITORY)
