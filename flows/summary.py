"""What the command line shows at the end of a run, of a prediction and of a status."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet
from prefect.client.schemas.objects import State
from rich.table import Table

from components.registry import Registry
from components.report import HEADLINES
from components.run_record import RunRecord, data_versions
from components.settings import Settings
from components.storage import Storage
from flows import laptop, records
from flows.consoles import plain_console
from flows.lineage import code_commit
from flows.trials import TrialStatus

_console = plain_console()


@dataclass(frozen=True)
class HeldOutClip:
    """A clip of a speaker that no training saw."""

    path: Path
    transcript: str | None
    speaker_id: str
    actual: str


def of_run(run_id: UUID, state: State[Any], settings: Settings) -> dict[str, Any]:
    """Everything worth telling about a finished run, as plain values."""
    record = records.read_record(settings, str(run_id))
    told: dict[str, Any] = {"run_id": str(run_id), "state": state.name, "urls": laptop.urls(settings)}
    if record is None:
        return {**told, "error": state.message or "the run ended before it began its work"}
    folder = Path(record.folder)
    told |= {**asdict(record), "commit": code_commit(settings)}
    # A stage that failed leaves no figures of this run.
    if record.gates:
        told["metrics"] = json.loads((folder / "build/evaluation/metrics.json").read_text(encoding="utf-8"))
        told["data"] = data_versions(folder)
    if not state.is_completed() and not record.error:
        told["error"] = state.message or state.name
    return told


def show(outcome: dict[str, Any]) -> None:
    """Print a run's outcome for a person."""
    for stage in outcome.get("stages", []):
        _console.print(f"  {stage['stage']:<10} {stage['outcome']:<10} {stage['duration_s']:6.1f} s")
    if "metrics" in outcome:
        _show_metrics(outcome["metrics"])
    for gate in outcome.get("gates", []):
        _console.print(f"  gate {gate['name']}: {'passed' if gate['passed'] else 'FAILED'}: {gate['message']}")
    if "digest" in outcome:
        data = ", ".join(f"{path} {md5}" for path, md5 in outcome.get("data", {}).items())
        _console.print(f"  lineage: run {outcome['digest']}, commit {outcome['commit'] or 'unknown'}")
        if data:
            _console.print(f"           data md5 {data}")
    if outcome.get("report"):
        _console.print(f"  report: {outcome['urls']['prefect']}{outcome['report']}")
    match outcome.get("outcome"):
        case "promoted":
            _console.print(f"promoted: release {outcome['release']} is live")
        case "unchanged":
            _console.print(f"unchanged: release {outcome['release']} is this very model and stays live")
        case _:
            _console.print(f"{outcome['state']}: {outcome.get('error', '')}")


def _show_metrics(metrics: dict[str, Any]) -> None:
    origin = ", a synthetic corpus: nothing here is about people" if metrics["synthetic"] else ""
    _console.print(
        f"{metrics['dataset']}{origin}: {metrics['num_clips']} clips of {metrics['num_speakers']} held-out speakers"
    )
    classes = {"macro_f1": "macro-F1", "ua": "UA", "wa": "WA"}
    for key, figure in metrics.get("figures", {key: metrics.get(key) for key in classes}).items():
        name = classes.get(key, key.replace("_", " "))
        _console.print(f"  {name:<9} {figure['value']:.3f}  95 % interval {figure['low']:.3f} to {figure['high']:.3f}")
    if metrics.get("selected_on") == "test":
        _console.print("  the epoch was chosen on these very clips: the figures are too good")
    subsets = ", ".join(f"{name} {_value(figure):.3f}" for name, figure in metrics["subsets"].items())
    _console.print(f"  {HEADLINES[metrics.get('kind', 'classes')].words} by modality: {subsets}")


def show_gates(record: RunRecord) -> None:
    """Print the gates of a run as a table, and below it why it failed where it did."""
    _console.print(f"run {record.run_id}, {record.digest}, {record.started_at}: {record.outcome}")
    if not record.gates:
        _console.print(f"no gate has judged it{': ' + record.error if record.error else ''}")
        return
    width = max(len(gate.name) for gate in record.gates)
    # No table of rich's: where nobody sees a terminal, it would cut the names.
    _console.print(f"{'gate':<{width}}  verdict  {'value':>9}  {'95 % interval':<20}  threshold")
    for gate in record.gates:
        value = "" if gate.value is None else f"{gate.value:.3g}"
        verdict = "passed" if gate.passed else "FAILED"
        _console.print(f"{gate.name:<{width}}  {verdict:<7}  {value:>9}  {gate.interval:<20}  {gate.threshold:.3g}")
    for gate in record.gates:
        if not gate.passed:
            _console.print(f"{gate.name}: {gate.message}")


def show_trial(now: TrialStatus | None) -> None:
    """Print the last trial for a person."""
    if now is None:
        _console.print("no model has been tried yet: `affect trial start` begins a trial")
        return
    trial, figures = now.trial, now.figures
    told = "goes on" if now.is_running else f"ended: {now.end.outcome}, {now.end.reason}" if now.end else "is over"
    _console.print(
        f"trial {trial.number} of version {trial.version} beside release {trial.release}: {trial.mode} on "
        f"{100 * trial.share:g} % of the requests, since {trial.started_at}; it {told}"
    )
    if figures.agreement is not None:
        _console.print(f"  the same answer  {figures.agreement}, mean distance {figures.mean_distance:.3f}")
    for gate in now.gates:
        verdict = "passed" if gate.passed else "not yet" if now.is_running else "FAILED"
        _console.print(f"  {gate.name:<22} {verdict}: {gate.message}")


def show_prediction(answer: dict[str, Any]) -> None:
    """Print an answer of the endpoint for a person."""
    if "clip" in answer:
        clip = answer["clip"]
        _console.print(
            f"{clip['path']} (speaker {clip['speaker']}, held out; actually {clip['actual']})", soft_wrap=True
        )
    for line in _answer_lines(answer):
        _console.print(line)
    _console.print(f"  contributions: {_contributions(answer)}; model {answer['model']['version']}")
    for warning in answer["warnings"]:
        _console.print(f"  warning: {warning}")


def _answer_lines(answer: dict[str, Any]) -> list[str]:
    """One line a label, by the kind of the answer: a share, a probability with its verdict, or a value."""
    if answer.get("kind") == "multilabel":
        return [
            f"  {label:<12} {found['probability']:6.4f}  {'present' if found['present'] else 'absent'}"
            for label, found in answer["labels"].items()
        ]
    if answer.get("kind") == "values":
        low, high = answer["scale"]
        return [f"  {label:<12} {value:6.2f}  on {low:g} to {high:g}" for label, value in answer["values"].items()]
    shares = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    return [f"  {label:<12} {share:6.4f}  {'#' * round(40 * share)}" for label, share in shares]


def _contributions(answer: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:+.2f}"
        if isinstance(value, float)
        else f"{name} ({', '.join(f'{label} {fall:+.2f}' for label, fall in value.items())})"
        for name, value in answer["contributions"].items()
    )


def show_releases(log: list[dict[str, Any]]) -> None:
    """Print the release log for a person."""
    if not log:
        _console.print("no release yet: run `affect retrain`")
        return
    table = Table(
        "release", "made at", "kind", "model", "recipe", "dataset", "macro-F1", "commit", "approved by", "note"
    )
    for release in log:
        # The figure that releases are judged by comes first; that of classes has no need to say its name.
        name, figure = next(iter(release["metrics"].items()), ("", None))
        words = "" if name == "macro_f1" else f"{name.replace('_', ' ')} "
        table.add_row(
            *(str(release[key]) for key in ("number", "created_at", "kind", "version", "recipe", "dataset")),
            f"{words}{figure['value']:.3f}" if figure else "",
            release["commit"],
            release["approved_by"],
            release["note"],
        )
    _console.print(table)


def show_models(listed: list[dict[str, Any]]) -> None:
    """Print the recipes and their models for a person."""
    for entry in listed:
        inputs = ", ".join(entry[key] for key in ("audio", "video", "text") if entry[key] != "-")
        _console.print(f"  {entry['recipe']:<14} {entry['system']:<12} {entry['num_parameters']:>13,}  {inputs}")


def show_status(now: laptop.Status) -> None:
    """Print the platform's state for a person."""
    for name, runs in (("Prefect", now.prefect), ("Ray", now.ray), ("deployments", now.runner)):
        _console.print(f"  {name:<12} {'up' if runs else 'down'}")
    release = f", release {now.release}" if now.release else ""
    _console.print(f"  {'endpoint':<12} {now.endpoint}{release}")
    if now.monitor:
        _console.print(f"  {'requests':<12} {now.monitor['told']} ({now.monitor['at'][:16]} UTC)")
    if not now.is_up:
        _console.print("start it with `affect up`")
        return
    for name, text in (("prefect", "Prefect UI"), ("ray", "Ray dashboard"), ("docs", "endpoint's docs")):
        _console.print(f"  {text:<16} {now.urls[name]}")


def held_out_clip(settings: Settings) -> HeldOutClip:
    """The first clip with a picture or sound of the champion's evaluation: of a speaker in no training split.

    Raises:
        ValueError: nothing has been released, or its recordings are gone.
    """
    champion = Registry(Storage(settings.storage_url)).champion()
    if champion is None:
        raise ValueError("no model has been released: run `affect retrain`, or name a recording")
    build = settings.home / "workspaces" / champion.run / "build"
    table = build / "evaluation/predictions.parquet"
    if not table.exists():
        raise ValueError(f"the evaluation of release {champion.number} is not on this machine; name a recording")
    for row in pyarrow.parquet.read_table(table).to_pylist():
        uri = row["video_uri"] or row["audio_uri"]
        if uri is not None and (path := build / "clips" / uri).exists():
            return HeldOutClip(path, row["transcript"], row["speaker_id"], row["actual"])
    raise ValueError(f"the held-out recordings of release {champion.number} are gone; name a recording")


def _value(figure: float | dict[str, float]) -> float:
    return figure["value"] if isinstance(figure, dict) else figure
