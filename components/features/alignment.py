"""Rows with time stamps brought to even steps, and steps that lack something dropped in all modalities together.

Shapes: R rows of a file, T steps, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

# Time stamps are rounded: what overlaps a step by less of it than this does not.
_LEAST_OVERLAP: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Rows:
    """Features as a file has them.

    Attributes:
        values_RF: what is missing is NaN.
        intervals_R2: begin and end of each row, in seconds, by begin; None for the one row of a whole clip.
    """

    values_RF: NDArray[np.float64]
    intervals_R2: NDArray[np.float64] | None


def rows_from_times(values_RF: NDArray[np.float64], times_R: NDArray[np.float64]) -> Rows:
    """Rows that are known by their beginnings alone: each lasts until the next, but over no gap."""
    order = np.argsort(times_R, kind="stable")
    times_R = times_R[order]
    lengths_R = np.diff(times_R)
    usual_s = float(np.median(lengths_R)) if len(lengths_R) else 0.0
    lengths_R = np.minimum(np.append(lengths_R, usual_s), 1.5 * usual_s)
    return Rows(values_RF[order], np.stack([times_R, times_R + lengths_R], axis=1))


def clean(values_RF: NDArray[np.floating]) -> NDArray[np.float64]:
    """What COVAREP and others write for the logarithm of nothing becomes 0, as all users of CMU-MOSEI have it; what is
    infinitely large is missing."""
    values = np.array(values_RF, np.float64)
    values[np.isneginf(values)] = 0.0
    values[np.isposinf(values)] = np.nan
    return values


def to_steps(
    rows: Rows, *, start_s: float, end_s: float, step_s: float, pooling: Literal["mean", "nearest"]
) -> NDArray[np.float64]:
    """The rows between two times as (T, F), one each `step_s`; what no row tells is NaN.

    `mean`: over the rows that overlap the step, by the length of the overlap, each feature over the rows that have it.
    `nearest`: the row that begins nearest to the step's beginning, at most half a step away, or lies around it.
    A row without an interval is the one step of the clip. There are as many steps as fit whole between the start and
    the end of the rows, and at least one if any row is there.
    """
    if rows.intervals_R2 is None:
        return rows.values_RF
    begins_R, ends_R = rows.intervals_R2[:, 0], np.maximum.accumulate(rows.intervals_R2[:, 1])
    is_near = (begins_R < end_s) & (ends_R > start_s)
    if not is_near.any():
        return np.zeros((0, rows.values_RF.shape[1]))
    last_s = min(end_s, float(ends_R[is_near].max()))
    num_steps = max(1, int((last_s - start_s) / step_s + 1e-6))
    steps_TF = np.full((num_steps, rows.values_RF.shape[1]), np.nan)
    for step in range(num_steps):
        begin_s = start_s + step * step_s
        if pooling == "nearest":
            row = _nearest(begins_R, ends_R, begin_s, step_s / 2)
            if row is not None:
                steps_TF[step] = rows.values_RF[row]
            continue
        first = int(np.searchsorted(ends_R, begin_s, side="right"))
        last = int(np.searchsorted(begins_R, begin_s + step_s, side="left"))
        if first < last:
            overlaps_R = np.minimum(rows.intervals_R2[first:last, 1], begin_s + step_s)
            overlaps_R -= np.maximum(begins_R[first:last], begin_s)
            overlaps_R[overlaps_R < _LEAST_OVERLAP * step_s] = 0
            steps_TF[step] = _weighted_mean(rows.values_RF[first:last], overlaps_R)
    return steps_TF


def drop_missing(*modalities_TF: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut modalities to the shortest, and drop the steps in which any of them lacks something, from all of them."""
    num_steps = min(len(steps_TF) for steps_TF in modalities_TF)
    kept_TF = [steps_TF[:num_steps] for steps_TF in modalities_TF]
    is_whole_T = np.all([np.isfinite(steps_TF).all(axis=1) for steps_TF in kept_TF], axis=0)
    return [steps_TF[is_whole_T] for steps_TF in kept_TF]


def _nearest(begins_R: NDArray[np.float64], ends_R: NDArray[np.float64], time_s: float, reach_s: float) -> int | None:
    after = int(np.searchsorted(begins_R, time_s, side="left"))
    near = [row for row in (after - 1, after) if 0 <= row < len(begins_R)]
    best = min(near, key=lambda row: abs(begins_R[row] - time_s))
    if abs(begins_R[best] - time_s) <= reach_s + 1e-9:
        return best
    return near[0] if begins_R[near[0]] <= time_s < ends_R[near[0]] else None


def _weighted_mean(values_RF: NDArray[np.float64], weights_R: NDArray[np.float64]) -> NDArray[np.float64]:
    is_there_RF = np.isfinite(values_RF)
    weights_RF = weights_R[:, None] * is_there_RF
    sums_F = (np.where(is_there_RF, values_RF, 0.0) * weights_RF).sum(axis=0)
    totals_F = weights_RF.sum(axis=0)
    means_F = np.full(len(sums_F), np.nan)
    np.divide(sums_F, totals_F, out=means_F, where=totals_F > 0)
    return means_F
