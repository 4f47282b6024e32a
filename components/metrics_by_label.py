"""Figures that are told label by label, and their means over labels, with intervals over speakers.

A label's figure is NaN where the clips do not allow it, such as the recall of a label that none of them has. A mean
is over the labels that have a figure.

L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from components.metrics import Interval, Metric, Resampled

LabelMetric = Metric
"""From sums (..., L, ...) to one figure a label, (..., L)."""


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quotient, NaN where nothing is below."""
    above, below = np.broadcast_arrays(above, below)
    quotient: NDArray[np.float64] = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return quotient


def mean_over_labels(figures_L: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis, of those that are numbers; NaN where none is."""
    known_L = np.isfinite(figures_L)
    return ratio(np.where(known_L, figures_L, 0.0).sum(axis=-1), known_L.sum(axis=-1).astype(np.float64))


def mean_of(metric: LabelMetric) -> Metric:
    """A label's figure as one figure: its mean over the labels."""
    return lambda sums_L: mean_over_labels(metric(sums_L))


def of_label(metric: LabelMetric, number: int) -> Metric:
    """A label's figure for one of the labels."""
    return lambda sums_L: metric(sums_L)[..., number]


def intervals(
    drawn: Resampled, figures: Mapping[str, LabelMetric], labels: Sequence[str]
) -> tuple[dict[str, Interval], dict[str, dict[str, Interval]]]:
    """Figures as means over labels, under `mean_` and their names, and by label. Those that are NaN are left out."""
    means = {f"mean_{name}": drawn.interval(mean_of(metric)) for name, metric in figures.items()}
    by_label = {
        label: {name: drawn.interval(of_label(metric, number)) for name, metric in figures.items()}
        for number, label in enumerate(labels)
    }
    return _known(means), {label: _known(found) for label, found in by_label.items()}


def _known(found: Mapping[str, Interval]) -> dict[str, Interval]:
    return {name: interval for name, interval in found.items() if np.isfinite(interval.value)}
