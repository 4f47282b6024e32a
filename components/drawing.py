"""Pictures of a report, as SVG that a page carries in itself: one look for all of them."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

INK, GRID, ACCENT, SECOND = "#22303c", "#dfe4ea", "#0b6e75", "#c98a1b"
# Keyed by names that matplotlib types one by one.
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "affect",
}
# Of a page's text, in inches.
WIDTH = 9.7
_COLUMNS = 2


@dataclass(frozen=True)
class Curve:
    """A training by its epochs; `score` is the figure on validation speakers, empty in pre-training."""

    epochs: tuple[int, ...]
    train: tuple[float, ...]
    validation: tuple[float, ...] = ()
    score: tuple[float, ...] = ()


def read_curve(path: Path) -> Curve | None:
    """The curve of a training's `losses.csv`; None when it tells of no epoch.

    Raises:
        FileNotFoundError: the training has not run.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return None
    columns = {name: tuple(float(row[name]) for row in rows) for name in rows[0]}
    score = next(
        (values for name, values in columns.items() if name not in ("step", "epoch", "train", "validation")), ()
    )
    is_validated = "validation" in columns
    return Curve(
        tuple(int(epoch) for epoch in columns["epoch"]),
        columns["train"],
        columns.get("validation", ()),
        score if is_validated else (),
    )


def svg(canvas: Canvas) -> str:
    """A picture as a `data:` address; equal pictures give equal text."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def canvas_of(num_panels: int, *, width: float, height: float, columns: int = 1) -> tuple[Canvas, list[Axes]]:
    """A picture of so many panels in rows of at most `columns`; `height` is that of a row, in inches."""
    columns = min(columns, num_panels)
    rows = -(-num_panels // columns)
    # A figure of its own, not pyplot's: nothing of it outlives the call, and no display is asked for.
    canvas = Canvas(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(rows, columns, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for spare in panels[num_panels:]:
        spare.remove()
    return canvas, panels[:num_panels]


def losses(curves: Mapping[str, Sequence[Curve]]) -> Canvas:
    """One panel a training: the loss by epoch, on training clips and where there is one on validation clips."""
    with mpl.rc_context(STYLE):
        canvas, panels = canvas_of(len(curves), width=WIDTH, height=2.7, columns=_COLUMNS)
        for axes, (title, of_panel) in zip(panels, curves.items(), strict=True):
            for name, colour in (("train", ACCENT), ("validation", SECOND)):
                found = [values for curve in of_panel if (values := getattr(curve, name))]
                for values in found:
                    axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.7, alpha=0.3)
                if found:
                    mean = mean_of_rows(found)
                    axes.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=name)
            axes.set(title=title, xlabel="epoch", ylabel="loss")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color=GRID)
            axes.legend(frameon=False)
    return canvas


def mean_of_rows(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean at each position over the rows that reach it."""
    return [
        float(np.mean([row[position] for row in rows if position < len(row)]))
        for position in range(max(map(len, rows)))
    ]
