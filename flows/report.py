"""What a run leaves in the Prefect UI: tables and pictures of its figures, its gates and its release."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from components import pictures
from components.gates import GateResult, Verdict
from components.registry import Release
from components.report import HEADLINES


def publish_training(folder: Path) -> None:
    """Figures, their picture (of classes the confusion matrix) and loss curves of a run's folder."""
    metrics = json.loads((folder / "build/evaluation/metrics.json").read_text(encoding="utf-8"))
    create_markdown_artifact(metrics_markdown(metrics), key="metrics", description="Figures on held-out speakers")
    picture = Path(pictures.FILES[metrics.get("kind", "classes")])
    content = (folder / "build/evaluation" / picture).read_bytes()
    what = "Confusion matrix" if picture.stem == "confusion" else "Answers"
    create_image_artifact(_data_url(content), key=picture.stem, description=f"{what} on held-out speakers")
    for stage in ("pretrain", "finetune"):
        curves = loss_curves(folder / "build" / stage / "losses.csv", title=f"{stage}: loss")
        create_image_artifact(_data_url(curves), key=f"{stage}-losses", description=f"Loss curves of {stage}")


def publish_gates(gates: Sequence[GateResult]) -> None:
    """Every gate with its figure and verdict."""
    rows = [
        {
            "gate": gate.name,
            "verdict": "passed" if gate.passed else "FAILED",
            "value": gate.value,
            "interval": gate.interval,
            "threshold": gate.threshold,
            "message": gate.message,
        }
        for gate in gates
    ]
    create_table_artifact(rows, key="gates", description="What the model had to reach")


def approval_markdown(folder: Path, verdict: Verdict) -> str:
    """What a person sees who is asked whether a model is released: its figures, and what every gate said."""
    metrics = json.loads((folder / "build/evaluation/metrics.json").read_text(encoding="utf-8"))
    champion = f"the champion is {verdict.champion_version}" if verdict.champion_version else "nothing is served yet"
    lines = [
        f"Model version `{verdict.candidate_version}` passed its gates; {champion}.",
        "",
        metrics_markdown(metrics),
    ]
    lines += ["", "| gate | value | interval | threshold |", "|---|---|---|---|"]
    for gate in verdict.gates:
        value = "" if gate.value is None else f"{gate.value:.3g}"
        lines.append(f"| {gate.name} | {value} | {gate.interval} | {gate.threshold:.3g} |")
    return "\n".join(lines)


def publish_release(release: Release) -> None:
    """Which release is live now."""
    create_markdown_artifact(
        f"Release **{release.number}**, model version `{release.version}`, from {release.dataset} "
        f"by recipe {release.recipe}, run `{release.run}`.",
        key="release",
        description="The release that is live",
    )


def metrics_markdown(metrics: dict[str, Any]) -> str:
    """The figures of `metrics.json` as a table, with their intervals."""
    origin = " (synthetic recordings: the figures say nothing about people)" if metrics["synthetic"] else ""
    lines = [
        f"{metrics['num_clips']} clips of {metrics['num_speakers']} held-out speakers of "
        f"{metrics['dataset']}{origin}; 95 % intervals by bootstrap over speakers.",
        "",
        "| figure | value | interval |",
        "|---|---|---|",
    ]
    classes = {"macro_f1": "macro-F1", "ua": "UA, mean recall", "wa": "WA, accuracy"}
    for key, figure in metrics.get("figures", {key: metrics.get(key) for key in classes}).items():
        name = classes.get(key, key.replace("_", " "))
        lines.append(f"| {name} | {figure['value']:.3f} | {figure['low']:.3f} to {figure['high']:.3f} |")
    if metrics.get("selected_on") == "test":
        lines += ["", "**The epoch was chosen on these very clips: the figures are too good.**"]
    lines += ["", f"| modalities | {HEADLINES[metrics.get('kind', 'classes')].words} |", "|---|---|"]
    lines += [f"| {name} | {_number(value):.3f} |" for name, value in metrics["subsets"].items()]
    return "\n".join(lines)


def loss_curves(table: Path, title: str) -> bytes:
    """A PNG of the losses that a training wrote, by epoch: in training, and on validation where there is one."""
    curves: dict[str, list[tuple[int, float]]] = {"train": [], "validation": []}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for split in curves.keys() & row.keys():
                curves[split].append((int(row["epoch"]), float(row[split])))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for split, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=split, marker=".")
    axes.set(title=title, ylabel="loss", xlabel="epoch")
    if any(curves.values()):
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _number(value: float | dict[str, float]) -> float:
    return value["value"] if isinstance(value, dict) else value


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
