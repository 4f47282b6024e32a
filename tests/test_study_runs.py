"""A small study on a real Ray: what is shared is done once, a killed study goes on, and a failed run is shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.settings import Settings
from components.study import StudyChoices
from flows import study_runs
from flows.study_runs import Prepared
from tests.conftest import REPOSITORY
from tests.test_study_report import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CHOICES = StudyChoices(
    num_folds=3,
    folds=[0],
    label_shares=[1.0, 0.5],
    initializations=["scratch"],
    parallel=2,
    overrides={
        "synthetic": {"num_speakers": 6, "num_labelled": 48, "num_unlabelled": 24},
        "features": {"clips_per_shard": 16},
        "model": {"width": 32},
        "finetune": {"num_epochs": 2, "batch_size": 8, "num_workers": 1},
    },
)


class Driven:
    """One home folder, and studies in it as processes of their own."""

    def __init__(self, home: Path, ray_address: str) -> None:
        self.settings = Settings(home=home)
        self.home = self.settings.home
        self.ray_address = ray_address

    def start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "AFFECT_HOME": str(self.home),
            "AFFECT_RAY_ADDRESS": self.ray_address,
            "PYTHONPATH": str(REPOSITORY),
        }
        with (self.home.parent / "driver.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.study_driver", CHOICES.model_dump_json()],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def finish(self) -> list[dict[str, Any]]:
        """Run a study to its end; the lines that it told."""
        with self.start() as process:
            output, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, (self.home.parent / "driver.log").read_text()[-3000:]
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def prepared(self) -> Prepared:
        return study_runs.prepare(CHOICES, self.settings)

    def figures(self) -> dict[str, float]:
        """When the figures of each run were written, by its name."""
        found = {}
        for run, record in self.prepared().outcomes():
            if record and record.state == "done":
                folder = "ridge" if run.condition.learner == "ridge" else "evaluation"
                found[run.name] = (Path(record.folder) / "build" / folder / "predictions.parquet").stat().st_mtime
        return found


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Driven:
    return Driven(tmp_path_factory.mktemp("study") / "home", ray_address)


@pytest.fixture(scope="module")
def first_figures(driven: Driven) -> dict[str, float]:
    """The runs that had figures when the study was killed, with all that worked for it gone."""
    with driven.start() as process:
        try:
            _wait(lambda: bool(driven.figures() and _stages_of(driven)), 900)
            assert process.poll() is None
        finally:
            os.kill(process.pid, signal.SIGKILL)
    _wait(lambda: not _stages_of(driven), 60)
    figures = driven.figures()
    assert 1 <= len(figures) < len(driven.prepared().runs)
    return figures


@pytest.fixture(scope="module")
def lines(driven: Driven, first_figures: dict[str, float]) -> list[dict[str, Any]]:
    """What the study told that went on after the kill, with one run's code broken meanwhile."""
    prepared = driven.prepared()
    # Ridge works in the folder of the model that it is held against: break the code of one alone.
    folders = [prepared.workspaces[run.name].folder for run in prepared.unfinished()]
    broken = next(folder for folder in folders if folders.count(folder) == 1)
    (broken / "components" / "evaluate.py").write_text("raise SystemExit(7)\n")
    assert first_figures
    return driven.finish()


def test_a_killed_study_goes_on_with_what_is_left(
    driven: Driven, first_figures: dict[str, float], lines: list[dict[str, Any]]
) -> None:
    worked_on = {name for line in lines if line.get("stage") in ("evaluate", "ridge") for name in line["runs"]}
    assert not worked_on & set(first_figures)
    assert worked_on | set(first_figures) == {run.name for run in driven.prepared().runs}
    now = driven.figures()
    assert {name: now[name] for name in first_figures} == first_figures


def test_a_broken_run_is_shown_and_the_others_have_their_figures(driven: Driven, lines: list[dict[str, Any]]) -> None:
    [failed] = [line for line in lines if line.get("error")]
    [name] = failed["runs"]
    assert failed["error"].startswith("evaluate: ")
    assert lines[-1]["runs"] == {"planned": 4, "done": 3}
    page = Page((driven.home / "store/studies" / lines[-1]["study"] / "report.html").read_text(encoding="utf-8"))
    assert f"{name} failed: {failed['error']}" in page.words
    assert [row[3] for row in page.table("workspace, or why not").rows[1:]].count("done") == 3


def test_a_mended_run_is_all_that_is_done_again(driven: Driven, lines: list[dict[str, Any]]) -> None:
    before = driven.figures()
    [broken] = driven.prepared().unfinished()
    folder = driven.prepared().workspaces[broken.name].folder
    (folder / "components/evaluate.py").write_bytes((REPOSITORY / "components/evaluate.py").read_bytes())
    again = driven.finish()
    assert [line.get("runs") for line in again[:-1]] == [[broken.name]]
    assert again[-1] == {"study": lines[-1]["study"], "runs": {"planned": 4, "done": 4}}
    after = driven.figures()
    assert {name: after[name] for name in before} == before
    assert driven.finish() == again[-1:]


def test_what_runs_share_was_done_in_one_workspace_only(driven: Driven, lines: list[dict[str, Any]]) -> None:
    assert lines
    prepared = driven.prepared()
    folders = {workspace.folder for workspace in prepared.workspaces.values()}
    logs = [path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.log")]
    assert len([log for log in logs if "Running stage 'features'" in log]) == 1
    assert [log for log in logs if "Stage 'features' is cached - skipping run" in log]
    shards = {
        (path.relative_to(folder), path.read_bytes())
        for folder in folders
        for path in (folder / "build/features/train").glob("*.arrow")
    }
    assert len({path for path, _ in shards}) == len(shards)


def _stages_of(driven: Driven) -> list[str]:
    """Command lines of living processes that work in a workspace of this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(driven.home) in process.cwd() and "components." in " ".join(process.cmdline()):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
