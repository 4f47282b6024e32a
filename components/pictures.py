"""Pictures of figures, for reports, Prefect artifacts and DVC plots; equal figures give equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from components import metrics
from components.metrics import Outcomes
from components.report import ClassReport, LabelReport
from components.task import Kind

FILES: Final[Mapping[Kind, str]] = {"classes": "confusion.png", "multilabel": "labels.png", "values": "values.png"}

_DARK_SHARE = 0.55
# Above it a point is drawn so faintly that a crowd still shows where it is thickest.
_MANY_CLIPS = 200
_BARS: Final[Mapping[str, str]] = {"weighted_accuracy": "weighted accuracy", "positive_f1": "F1 of being there"}


def write_confusion(folder: Path, outcomes: Outcomes, *, labels: Sequence[str], figures: ClassReport) -> None:
    """Write `confusion.csv` (actual, predicted: one row a clip) and `confusion.png` (rows sum to one)."""
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        pairs = zip(outcomes.actual_N, outcomes.predicted_N, strict=True)
        writer.writerows((labels[actual], labels[predicted]) for actual, predicted in pairs)
    _draw_confusion(outcomes, labels, _title(figures)).savefig(folder / FILES["classes"], metadata={"Software": None})


def write_labels(folder: Path, figures: LabelReport) -> None:
    """Write `labels.png`: bars of each label's weighted accuracy and F1 with their intervals."""
    labels = list(figures.by_label)
    figure = _figure(3.0 + 0.9 * len(labels), 4.2)
    axes = figure.add_subplot()
    width = 0.8 / len(_BARS)
    for number, (name, words) in enumerate(_BARS.items()):
        found = {label: by_name[name] for label, by_name in figures.by_label.items() if name in by_name}
        places = [labels.index(label) + (number - (len(_BARS) - 1) / 2) * width for label in found]
        values = np.array([interval.value for interval in found.values()])
        ends = [(interval.low, interval.high) for interval in found.values()]
        reach = np.abs(np.array(ends).reshape(-1, 2).T - values)
        axes.bar(places, values, width, yerr=reach, capsize=3, label=words)
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set(ylim=(0, 1), title=_title(figures))
    axes.legend()
    figure.savefig(folder / FILES["multilabel"], metadata={"Software": None})


def write_values(
    folder: Path, actual_NL: NDArray[np.floating], predicted_NL: NDArray[np.floating], *, figures: LabelReport
) -> None:
    """Write `values.png`: for each label a point a clip, what was annotated against what was answered."""
    assert figures.scale is not None
    labels = list(figures.by_label)
    figure = _figure(0.6 + 3.6 * len(labels), 4.2)
    for number, label in enumerate(labels):
        axes = figure.add_subplot(1, len(labels), number + 1)
        axes.plot(figures.scale, figures.scale, color="grey", linewidth=0.8, linestyle="--")
        alpha = min(1.0, max(0.1, _MANY_CLIPS / len(actual_NL)))
        axes.scatter(actual_NL[:, number], predicted_NL[:, number], s=12, alpha=alpha)
        ccc = figures.by_label[label].get("ccc")
        axes.set(xlabel="annotated", ylabel="answered", title=f"{label}\nCCC {ccc}" if ccc else label)
    figure.suptitle(_title(figures))
    figure.savefig(folder / FILES["values"], metadata={"Software": None})


def _title(figures: ClassReport | LabelReport) -> str:
    said = ", SYNTHETIC recordings" if figures.synthetic else ""
    chosen = "\nEPOCH CHOSEN ON THESE CLIPS" if figures.selected_on == "test" else ""
    return f"{figures.dataset}{said}\n{figures.num_clips} clips of {figures.num_speakers} held-out speakers{chosen}"


def _figure(width: float, height: float) -> Figure:
    # A figure of its own, not pyplot's: nothing of it outlives the call, and no display is asked for.
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_confusion(outcomes: Outcomes, labels: Sequence[str], title: str) -> Figure:
    counts_CC = metrics.confusion_matrix(outcomes.actual_N, outcomes.predicted_N, len(labels))
    shares_CC = counts_CC / np.maximum(1, counts_CC.sum(axis=1, keepdims=True))
    side = 2.6 + 0.7 * len(labels)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts_CC):
        colour = "white" if shares_CC[row, column] > _DARK_SHARE else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    figure.colorbar(image, ax=axes, shrink=0.75, label="share of the actual label's clips")
    return figure
