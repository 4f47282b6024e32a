"""Pictures of figures, for reports, Prefect artifacts and DVC plots; equal figures give equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components import metrics
from components.metrics import Outcomes
from components.report import Report

_DARK_SHARE = 0.55


def write_confusion(folder: Path, outcomes: Outcomes, *, labels: Sequence[str], figures: Report) -> None:
    """Write `confusion.csv` (actual, predicted: one row a clip) and `confusion.png` (rows sum to one)."""
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        pairs = zip(outcomes.actual_N, outcomes.predicted_N, strict=True)
        writer.writerows((labels[actual], labels[predicted]) for actual, predicted in pairs)
    said = ", SYNTHETIC recordings" if figures.synthetic else ""
    title = f"{figures.dataset}{said}\n{figures.num_clips} clips of {figures.num_speakers} held-out speakers"
    _draw_confusion(outcomes, labels, title).savefig(folder / "confusion.png", metadata={"Software": None})


def _draw_confusion(outcomes: Outcomes, labels: Sequence[str], title: str) -> Figure:
    counts_CC = metrics.confusion_matrix(outcomes.actual_N, outcomes.predicted_N, len(labels))
    shares_CC = counts_CC / np.maximum(1, counts_CC.sum(axis=1, keepdims=True))
    side = 2.6 + 0.7 * len(labels)
    # A figure of its own, not pyplot's: nothing of it outlives the call, and no display is asked for.
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
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
