"""What the command line and the Prefect UI tell of figures, answers and releases, by the kind of task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.gates import GateResult
from components.run_record import RunRecord
from components.settings import Settings
from flows import cli, report, summary
from flows.records import Recorder, find_record

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6}
COMMON = {"synthetic": True, "dataset": "synthetic", "num_clips": 12, "num_speakers": 2, "subsets": {"audio": 0.5}}
CLASSES: dict[str, Any] = {**COMMON, "macro_f1": FIGURE, "ua": FIGURE, "wa": FIGURE}
VALUES: dict[str, Any] = {**COMMON, "kind": "values", "selected_on": "test", "figures": {"mean_ccc": FIGURE}}
COLUMNS = ("number", "created_at", "kind", "version", "recipe", "dataset", "commit", "note", "approved_by")
RELEASE = dict.fromkeys(COLUMNS, "x")


def test_figures_are_told_under_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    classes, values = report.metrics_markdown(CLASSES), report.metrics_markdown(VALUES)
    assert "| UA, mean recall | 0.500 | 0.400 to 0.600 |" in classes
    assert "| modalities | macro-F1 |" in classes
    assert "chosen on these very clips" not in classes
    assert "| mean ccc | 0.500 | 0.400 to 0.600 |" in values
    assert "| modalities | mean CCC |" in values
    assert "chosen on these very clips" in values
    summary.show({"metrics": VALUES, "state": "Completed"})
    told = capsys.readouterr().out
    assert "mean ccc  0.500  95 % interval 0.400 to 0.600" in told
    assert "mean CCC by modality: audio 0.500" in told
    assert "chosen on these very clips" in told


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"probabilities": {"sad": 0.25, "happy": 0.75}, "contributions": {"audio": 0.5}}, "happy        0.7500  ####"),
        (
            {
                "kind": "multilabel",
                "labels": {"happy": {"probability": 0.75, "threshold": 0.8, "present": False}},
                "contributions": {"audio": {"happy": 0.5}},
            },
            "happy        0.7500  absent",
        ),
        (
            {
                "kind": "values",
                "values": {"arousal": 3.5},
                "scale": [1, 5],
                "contributions": {"audio": {"arousal": 0.5}},
            },
            "arousal        3.50  on 1 to 5",
        ),
    ],
)
def test_an_answer_is_told_by_its_kind(answer: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary.show_prediction({**answer, "model": {"version": "abc"}, "warnings": ["no-face"]})
    told = capsys.readouterr().out
    assert words in told
    assert "+0.50" in told
    assert "warning: no-face" in told


def test_releases_are_told_by_the_figure_they_were_judged_by(capsys: pytest.CaptureFixture[str]) -> None:
    logs = [{"macro_f1": FIGURE, "ua": FIGURE}, {"mean_ccc": {**FIGURE, "value": 0.25}}, {}]
    summary.show_releases([{**RELEASE, "metrics": metrics} for metrics in logs])
    told = " ".join(capsys.readouterr().out.split())
    assert "0.500" in told
    assert "ccc" in told
    assert "0.250" in told


GATES = (
    GateResult("macro_f1_floor", True, 0.51234, 0.4, 0.45, 0.6, "high enough"),
    GateResult("size", False, None, 100.0, None, None, "size was not measured"),
)


def test_gates_are_told_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord("id", "digest", "/folder", "2026-01-01T10:00:00+00:00", outcome="failed", gates=GATES)
    summary.show_gates(record)
    told = capsys.readouterr().out
    for words in ("macro_f1_floor", "0.512", "0.45 to 0.6", "FAILED", "size: size was not measured"):
        assert words in told
    assert "high enough" not in told
    summary.show_gates(replace(record, gates=(), error="no room"))
    assert "no gate has judged it: no room" in capsys.readouterr().out


def test_a_run_is_found_by_its_names(tmp_path: Path) -> None:
    here = Settings(home=tmp_path)
    with pytest.raises(ValueError, match="no run 'last'; the last one is still to come"):
        find_record(here, "last")
    for number, digest in enumerate(("aaa", "bbb")):
        recorder = Recorder(here, run_id=f"run-{number}", digest=digest, folder=tmp_path)
        recorder.update(started_at=f"2026-01-0{number + 1}T00:00:00+00:00", gates=GATES)
    assert find_record(here, "last").digest == find_record(here, "run-1").digest == "bbb"
    assert find_record(here, "aaa").run_id == "run-0"
    assert find_record(here, "aaa").gates == GATES
    with pytest.raises(ValueError, match="no run 'ccc'; the last one is run-1"):
        find_record(here, "ccc")


def test_what_a_message_quotes_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    # As HAProxy's log has it: no markup, no emoji, and no word lost.
    quoted = "[ALERT] parsing [/tmp/haproxy.cfg:49]: cannot bind :warning: [127.0.0.1:8000]"

    summary.show({"outcome": "failed", "state": "Failed", "error": quoted})
    with pytest.raises(SystemExit), cli._told_errors():
        raise RuntimeError(quoted)

    told = capsys.readouterr()
    assert f"Failed: {quoted}\n" in told.out
    assert told.err == f"error: {quoted}\n"
