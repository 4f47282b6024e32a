"""The pictures of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from components import metrics
from components.drawing import ACCENT, GRID, INK, SECOND, STYLE, WIDTH, Curve, canvas_of, mean_of_rows
from components.metrics import Interval, Outcomes
from components.study_report.results import ConditionResult, Difference

COLOURS: Mapping[str, str] = {"pretrained": ACCENT, "scratch": "#8a94a6", "ridge": SECOND}
NAMES: Mapping[str, str] = {"pretrained": "pre-trained", "scratch": "from scratch", "ridge": "ridge"}
_PAPER = "#a3195b"
_COLUMNS = 2
_DARK_SHARE = 0.62


def intervals(
    rows: Sequence[tuple[str, str, Interval]], *, label: str, scale: float, marks: Sequence[tuple[str, float]] = ()
) -> Canvas:
    """One row a condition: its figure as a dot on its interval. Rows are (name, learner, interval).

    `marks` are published values, drawn as vertical lines with their names.
    """
    with mpl.rc_context(STYLE):
        canvas, [axes] = canvas_of(1, width=WIDTH, height=1.15 + 0.36 * len(rows))
        for row, (_, learner, figure) in enumerate(rows):
            colour = COLOURS[learner]
            axes.plot([scale * figure.low, scale * figure.high], [row, row], color=colour, linewidth=3, alpha=0.45)
            axes.plot([scale * figure.value], [row], "o", color=colour, markersize=7)
            axes.annotate(
                f"{scale * figure.value:.{1 if scale == 100 else 3}f}",
                (scale * figure.high, row),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        for name, value in marks:
            axes.axvline(value, color=_PAPER, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(name, (value, -0.75), color=_PAPER, fontsize=8.5, ha="center", va="bottom")
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.8)
        axes.set_xlabel(f"{label}, with its 95 % interval over speakers")
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
    return canvas


def gains(differences: Sequence[tuple[str, Difference]], *, key: str, label: str, scale: float) -> Canvas:
    """Paired differences against the line of no difference."""
    with mpl.rc_context(STYLE):
        canvas, [axes] = canvas_of(1, width=WIDTH, height=1.0 + 0.4 * len(differences))
        axes.axvline(0, color=INK, linewidth=1)
        for row, (_, each) in enumerate(differences):
            figure = each.figures[key]
            is_clear = figure.low > 0 or figure.high < 0
            colour = COLOURS["pretrained"] if is_clear else COLOURS["scratch"]
            axes.plot([scale * figure.low, scale * figure.high], [row, row], color=colour, linewidth=3, alpha=0.5)
            axes.plot([scale * figure.value], [row], "o", color=colour, markersize=7)
            axes.annotate(
                f"{scale * figure.value:+.{1 if scale == 100 else 3}f}",
                (scale * figure.value, row),
                (0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        axes.set_yticks(range(len(differences)), [name for name, _ in differences])
        axes.set_ylim(len(differences) - 0.4, -0.7)
        axes.set_xlabel(label)
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
    return canvas


def learning_curves(curves: Mapping[str, Sequence[tuple[str, Curve]]], *, score: str) -> Canvas:
    """One panel a share of the labels: the score on validation speakers, a thin line a run and a thick one their mean.

    `curves` holds, by panel, pairs of a learner and the curve of a run.
    """
    with mpl.rc_context(STYLE):
        canvas, panels = canvas_of(len(curves), width=WIDTH, height=3.1, columns=2)
        for axes, (title, of_panel) in zip(panels, curves.items(), strict=True):
            for learner in dict.fromkeys(name for name, _ in of_panel):
                of_learner = [curve for name, curve in of_panel if name == learner]
                for curve in of_learner:
                    axes.plot(curve.epochs, curve.score, color=COLOURS[learner], linewidth=0.7, alpha=0.35)
                mean = mean_of_rows([curve.score for curve in of_learner])
                axes.plot(range(1, len(mean) + 1), mean, color=COLOURS[learner], linewidth=2.2, label=NAMES[learner])
            axes.set(title=title, xlabel="epoch of fine-tuning", ylabel=score)
            axes.grid(color=GRID)
            axes.legend(frameon=False, loc="lower right")
    return canvas


def confusions(found: Sequence[tuple[str, ConditionResult]], labels: Sequence[str]) -> Canvas:
    """One panel a condition: the share of each actual label's clips that got each answer, in percent."""
    columns = min(2, len(found))
    side = 1.5 + 0.42 * len(labels)
    with mpl.rc_context(STYLE):
        canvas, panels = canvas_of(
            len(found), width=min(WIDTH, columns * (side + 0.9)), height=side + 0.3, columns=columns
        )
        for axes, (title, each) in zip(panels, found, strict=True):
            assert isinstance(each.pooled, Outcomes)
            counts_CC = metrics.confusion_matrix(each.pooled.actual_N, each.pooled.predicted_N, len(labels))
            _confusion(axes, counts_CC, labels)
            axes.set_title(title)
    return canvas


def contributions(
    panels: Sequence[tuple[str, str, Mapping[str, Sequence[float]]]], *, label: str, scale: float
) -> Canvas:
    """One panel a condition (name, learner), one row a subset of modalities: the mean as a bar, each run as a dot."""
    rows = max(len(subsets) for _, _, subsets in panels)
    most = max(max(values) for _, _, subsets in panels for values in subsets.values())
    with mpl.rc_context(STYLE):
        canvas, found = canvas_of(len(panels), width=WIDTH, height=1.25 + 0.3 * rows, columns=_COLUMNS)
        for axes, (title, learner, subsets) in zip(found, panels, strict=True):
            for row, values in enumerate(subsets.values()):
                shown = scale * np.asarray(values)
                axes.barh(row, shown.mean(), color=COLOURS[learner], alpha=0.75, height=0.62)
                axes.plot(shown, np.full(len(shown), row), "o", color=INK, markersize=3, alpha=0.6)
            axes.set_yticks(range(len(subsets)), list(subsets))
            axes.invert_yaxis()
            # The same length means the same everywhere.
            axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.05 * scale * most if most > 0 else None)
            axes.set(title=title, xlabel=label)
            axes.grid(axis="x", color=GRID)
            axes.set_axisbelow(True)
    return canvas


def _confusion(axes: Axes, counts_CC: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Draw the share of each actual label's clips that got each answer, in percent."""
    shares_CC = counts_CC / np.maximum(1, counts_CC.sum(axis=1, keepdims=True))
    axes.imshow(shares_CC, cmap="GnBu", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares_CC):
        colour = "white" if share > _DARK_SHARE else INK
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="actual")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
