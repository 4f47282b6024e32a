"""The report of a run: complete, self-contained, honest about what a run did not reach; and where it is opened."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.responses import PlainTextResponse

from components import evaluate, metrics_calibration
from components.gates import GateResult
from components.metrics import Interval
from components.registry import Release
from components.run_record import RunRecord, StageResult, parse
from components.run_report import build, gather
from components.run_report.__main__ import main as write_report
from components.run_report.changes import Change, of_params
from components.settings import Settings
from components.stage import read_cost
from components.storage import Storage
from flows import last_run, report_pages
from flows.prefect_server import WithReports
from flows.records import Recorder
from tests.finished_run import FinishedRun

RUN_ID = "0b0f4be5-6c1e-4d24-9f7e-3b1f3f3f0001"
STAGES = (
    StageResult("finetune", "ran", 100.0, cpu_s=1800.0, gpu_s=3600.0),
    StageResult("evaluate", "restored", 2.5),
)
GATES = (
    GateResult("macro_f1_floor", True, 0.5, 0.3, 0.4, 0.6, "high enough"),
    GateResult("not_worse_than_champion", False, -0.1, -0.02, -0.2, 0.01, "lost too <much>"),
    GateResult("slice/speaker_sex=female", True, -0.05, -0.1, -0.2, 0.1, "within what may be lost"),
)
RECORD = RunRecord(
    RUN_ID,
    "abcdef012345",
    "/workspace",
    "2026-01-01T10:00:00+00:00",
    outcome="failed",
    stages=STAGES,
    checks=(StageResult("components.gates", "ran", 5.0, cpu_s=4.0),),
    gates=GATES,
    champion=2,
    commit="0123456+",
    error="gate not_worse_than_champion: lost too <much>; the champion stays",
    ended_at="2026-01-01T10:10:00+00:00",
)


class _Page(HTMLParser):
    """The ids of a page's sections, its text, and what it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attributes)
        if tag == "section":
            self.sections.append(str(found["id"]))
        self.addresses += [str(value) for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def evaluated(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("run") / "build"
    shutil.copytree(finished_run.build, folder)
    evaluate.evaluate(finished_run.settings, build=folder)
    (folder / "finetune/losses.csv").write_text(
        "step,epoch,train,validation,validation_macro_f1\n5,1,1.9,1.8,0.2\n9,2,1.5,1.7,0.3\n"
    )
    (folder.parent / "dvc.lock").write_text(
        "stages:\n  ingest:\n    outs:\n    - path: build/clips\n      md5: 77cc.dir\n", encoding="utf-8"
    )
    return FinishedRun(folder, finished_run.settings)


@pytest.fixture(scope="module")
def champion(evaluated: FinishedRun) -> Release:
    before = evaluated.settings.model_dump(mode="json")
    before["finetune"]["num_epochs"] = 77
    return Release(
        "promotion",
        "bundles/old",
        "old",
        run="before",
        commit="9999999",
        data={"build/clips": "11aa.dir"},
        params=before,
        metrics={"macro_f1": Interval(0.61, 0.5, 0.7)},
        number=2,
        created_at="2026-01-01T08:00:00+00:00",
    )


def test_a_report_tells_everything_and_asks_nobody(evaluated: FinishedRun, champion: Release, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(RECORD.to_json())
    (tmp_path / "champion.json").write_text(champion.to_json())
    files = [f"--{name}={tmp_path / name}.json" for name in ("champion",)]
    write_report(
        [f"--record={tmp_path / 'run.json'}", *files, f"--build={evaluated.build}", f"--output={tmp_path / 'r.html'}"]
    )
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = _Page(html)
    assert page.sections == [
        *("changes", "figures", "gates", "curves", "answers", "reliability", "slices", "cost", "parameters")
    ]
    # Nothing runs in it and nothing is fetched for it.
    assert not page.tags & {"script", "link", "iframe", "object", "form"}
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"url\(|@import", html)
    figures = json.loads((evaluated.build / "evaluation/metrics.json").read_text())
    for words in (
        "gate not_worse_than_champion: lost too <much>; the champion stays",
        "1 of 3 gates did not let it pass",
        "Against release 2, version old",
        "finetune.num_epochs",
        "9999999",
        "11aa.dir",
        f"{figures['macro_f1']['value']:.3f}",
        "0.610",
        "-0.100 [-0.200, +0.010]",
        "synthetic",
        "0.501 CPU hours and 1.000 GPU hours",
        "and took 10.0 min",
    ):
        assert words in page.text, words
    # Nothing else differs from the champion.
    assert "finetune.batch_size" not in page.text.partition("all parameters")[0]


def test_what_a_run_did_not_reach_is_left_out(evaluated: FinishedRun) -> None:
    failed = replace(RECORD, stages=STAGES[:1], checks=(), gates=(), champion=None, error="evaluate: no room")
    page = _Page(build(gather(failed, None, evaluated.build)))
    # What lies in the folder is of another run: this one was never evaluated.
    assert page.sections == ["changes", "curves", "cost", "parameters"]
    assert "evaluate: no room" in page.text
    assert "Nothing was live" in page.text
    at_once = replace(failed, stages=())
    assert _Page(build(gather(at_once, None, evaluated.build.parent / "nothing"))).sections == ["changes"]


def test_a_reliability_diagram_shows_what_the_error_is_made_of() -> None:
    generator = np.random.default_rng(0)
    probabilities_NC = generator.dirichlet(np.ones(3), size=200)
    actual_N = generator.integers(0, 3, size=200)
    found = metrics_calibration.of_classes(actual_N, probabilities_NC, ["a"] * 200)
    mean_Q, share_Q, num_Q = metrics_calibration.reliability(found)
    assert num_Q.sum() == 200
    error = float(np.abs(mean_Q - share_Q) @ num_Q / 200)
    assert error == pytest.approx(metrics_calibration.expected_calibration_error(actual_N, probabilities_NC))


def test_changes_are_told_by_the_names_that_settings_have() -> None:
    before = {"seed": 0, "finetune": {"num_epochs": 3, "batch_size": 8}, "finetune_on": {"root": "/a", "task": None}}
    now = {"seed": 0, "finetune": {"num_epochs": 4, "batch_size": 8}, "finetune_on": {"root": "/b", "task": "x"}}
    assert of_params(before, now) == [
        Change("finetune.num_epochs", "3", "4"),
        Change("finetune_on.task", "null", "x"),
    ]


def test_a_damaged_record_is_told() -> None:
    assert parse(RECORD.to_json().encode()) == RECORD
    with pytest.raises(ValueError, match="no record of a run"):
        parse(b"{}")


def test_a_stage_tells_what_it_used() -> None:
    cost = read_cost("cost: 12.5 s of processors, 3.0 s of GPUs")
    assert cost is not None
    assert (cost.cpu_s, cost.gpu_s) == (12.5, 3.0)
    assert read_cost("the cost: 1 s of processors, 2 s of GPUs") is None


def test_the_last_run_is_told_in_short(
    evaluated: FinishedRun, champion: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Settings(home=tmp_path)
    assert last_run.tell(here) is None
    recorder = Recorder(here, run_id=RUN_ID, digest="abcdef012345", folder=evaluated.build.parent)
    changes = {name: getattr(RECORD, name) for name in ("outcome", "stages", "checks", "gates", "error", "champion")}
    recorder.update(**changes, report=report_pages.of_run(RUN_ID))
    for number in (1, 2):
        Storage(here.storage_url).create(
            f"releases/{number:06d}.json", replace(champion, number=number).to_json().encode()
        )
    told = last_run.tell(here)
    assert told is not None
    assert "finetune.num_epochs" in {change.name for change in told.changes}
    assert (told.num_gates, told.failed_gates) == (3, ("not_worse_than_champion",))
    assert (told.cpu_s, told.gpu_s) == (1804.0, 3600.0)
    assert told.report == f"{here.prefect_url}/reports/runs/{RUN_ID}"
    last_run.show(told)
    printed = capsys.readouterr().out
    for words in ("2 of 3 passed, FAILED: not_worse_than_champion", "0.501 CPU hours, 1.000 GPU hours", told.report):
        assert words in printed


def _get(app: WithReports, path: str, method: str = "GET", login: tuple[str, str] | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, path, auth=login)

    return asyncio.run(ask())


def test_reports_are_read_beside_the_ui_and_behind_its_login(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write(report_pages.file_of_run(RUN_ID), b"<!doctype html>a run")
    storage.write("studies/abc123/report.html", b"<!doctype html>a study")
    storage.write("runs/secret.json", b"{}")
    free = WithReports(PlainTextResponse("the UI"), storage, None)
    answer = _get(free, report_pages.of_run(RUN_ID))
    assert (answer.status_code, answer.text) == (200, "<!doctype html>a run")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert _get(free, report_pages.of_study("abc123")).text == "<!doctype html>a study"
    assert _get(free, "/runs").text == "the UI"
    for path in ("runs/secret", f"runs/{RUN_ID[:-1]}2", "runs/..%2Fsecret.json", "studies/abc123/../x", ""):
        assert _get(free, f"{report_pages.PREFIX}{path}").status_code == 404, path
    assert _get(free, report_pages.of_run(RUN_ID), method="POST").status_code == 405
    closed = WithReports(PlainTextResponse("the UI"), storage, "anna:word")
    refused = _get(closed, report_pages.of_run(RUN_ID))
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert _get(closed, report_pages.of_run(RUN_ID), login=("anna", "wrong")).status_code == 401
    assert _get(closed, report_pages.of_run(RUN_ID), login=("anna", "word")).status_code == 200
