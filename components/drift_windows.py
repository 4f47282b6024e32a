"""What windows of requests by other speakers look like, told by the training part itself, and whether one is different.

Clips of one speaker are alike, so a day of four people never looks like a training part of forty. Therefore some of the
reference's speakers are taken out and held against the others as a window would be, again and again. A statistic of a
window is held against those: its p-value is the share of them that is as large, a permutation test by whole speakers.

F columns of a modality, N clips, R reference clips, B simulated windows, Q bins.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import distance

from components.drift import SpokenRows

NUM_WINDOWS: Final = 1999
_NUM_BINS: Final = 10
_SEED: Final = 0
# Windows that are simulated at once, for the sake of memory.
_WINDOWS_AT_ONCE: Final = 250
# What new speakers alone make of a statistic in 19 of 20 windows.
_USUAL: Final = 0.95
# Standard deviations from the mean beyond which a column says no more.
_FARTHEST: Final = 5.0
# Clips of a larger window that are compared as a whole, pair by pair.
_MAX_PAIRED: Final = 1000


@dataclass(frozen=True)
class Test:
    """One statistic of a window.

    Attributes:
        name: psi (population stability index, the mean over the columns), ks (Kolmogorov and Smirnov's distance, the
            largest of the columns), mmd (maximum mean discrepancy of whole clips, squared), or chi_square of answers.
        usual: what 95 of 100 windows of other speakers stay below.
        p_value: before any correction for many tests, `adjusted` after it.
    """

    name: str
    value: float
    usual: float
    p_value: float
    adjusted: float = 1.0


@dataclass(frozen=True, eq=False)
class Usual:
    """A reference's clips of one modality, with the statistics of windows of some of its speakers.

    Attributes:
        kept_F: columns in which the clips differ at all.
        edges_QF: between the bins of each kept column, deciles of the reference.
        width: of the kernel, the median squared distance of two clips.
        statistics_B3: psi, ks and mmd of each simulated window.
    """

    reference: SpokenRows
    kept_F: NDArray[np.bool_]
    edges_QF: NDArray[np.float32]
    width: float
    statistics_B3: NDArray[np.float64]

    def tests(self, rows_NF: NDArray[np.float32]) -> tuple[Test, ...]:
        """The statistics of a window, and how often windows of other speakers have as large ones."""
        window_FQ, reference_FQ = self._shares(rows_NF), self._shares(self.reference.rows_NF)
        values = (
            float(_psi(window_FQ, reference_FQ).mean()),
            float(_ks(window_FQ, reference_FQ).max()),
            self._mmd(rows_NF),
        )
        found = []
        for null_B, name, value in zip(self.statistics_B3.T, ("psi", "ks", "mmd"), values, strict=True):
            p_value = (1 + int(np.sum(null_B >= value))) / (1 + len(null_B))
            found.append(Test(name, value, float(np.quantile(null_B, _USUAL)), p_value))
        return tuple(found)

    def psi_by_column(self, rows_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        """How far each column has moved, (F,); 0 for one in which the reference's clips do not differ."""
        found_F = np.zeros(len(self.kept_F))
        found_F[self.kept_F] = _psi(self._shares(rows_NF), self._shares(self.reference.rows_NF))
        return found_F

    def _shares(self, rows_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        return _smoothed(_one_hot(rows_NF[:, self.kept_F], self.edges_QF).sum(axis=0))

    def _mmd(self, rows_NF: NDArray[np.float32]) -> float:
        some = np.random.default_rng(_SEED).permutation(len(rows_NF))[:_MAX_PAIRED]
        known = self.reference.rows_NF[:, self.kept_F]
        window, reference = _standard(rows_NF[some][:, self.kept_F], known), _standard(known, known)
        within = _kernel(window, window, self.width).mean() + _kernel(reference, reference, self.width).mean()
        return float(within - 2 * _kernel(window, reference, self.width).mean())


# A window of the same size is simulated once; a reference is told by being the very same object.
@functools.lru_cache(maxsize=8)
def usual(reference: SpokenRows, *, num_clips: int, num_speakers: int, num_windows: int = NUM_WINDOWS) -> Usual:
    """Simulate windows of so many clips and speakers, or of as many as half of the reference has."""
    kept_F = reference.rows_NF.std(axis=0) > 0
    rows = reference.rows_NF[:, kept_F]
    edges_QF = np.quantile(rows, np.linspace(0, 1, _NUM_BINS + 1)[1:-1], axis=0).astype(np.float32)
    standard = _standard(rows, rows)
    width = float(np.median(distance.pdist(standard, "sqeuclidean"))) or 1.0
    kernel_RR = _kernel(standard, standard, width)
    flat = _one_hot(rows, edges_QF).reshape(len(rows), -1)
    inside_BR, outside_BR = _windows(reference.speaker_N, num_clips, num_speakers, num_windows)
    statistics = np.empty((num_windows, 3))
    for start in range(0, num_windows, _WINDOWS_AT_ONCE):
        part = slice(start, start + _WINDOWS_AT_ONCE)
        sides = [side[part] for side in (inside_BR, outside_BR)]
        window, others = (_smoothed((side @ flat).reshape(len(side), -1, _NUM_BINS)) for side in sides)
        weights = sides[0] / sides[0].sum(axis=1, keepdims=True) - sides[1] / sides[1].sum(axis=1, keepdims=True)
        statistics[part, 0] = _psi(window, others).mean(axis=1)
        statistics[part, 1] = _ks(window, others).max(axis=1)
        statistics[part, 2] = ((weights @ kernel_RR) * weights).sum(axis=1)
    return Usual(reference, kept_F, edges_QF, width, statistics)


def _windows(
    speaker_R: NDArray[np.int32], num_clips: int, num_speakers: int, num_windows: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Which clips are in each simulated window, (B, R), and which are those of the speakers who are not in it."""
    generator = np.random.default_rng(_SEED)
    speakers = np.unique(speaker_R)
    inside = np.zeros((num_windows, len(speaker_R)), np.float32)
    outside = np.zeros_like(inside)
    for window in range(num_windows):
        chosen = generator.permutation(speakers)[: min(num_speakers, len(speakers) // 2)]
        is_theirs = np.isin(speaker_R, chosen)
        theirs = generator.permutation(np.flatnonzero(is_theirs))[:num_clips]
        inside[window, theirs] = 1
        outside[window] = ~is_theirs
    return inside, outside


def _one_hot(rows_NF: NDArray[np.float32], edges_QF: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bin of each value as (N, F, Q) of 0 and 1."""
    bins_NF = (rows_NF[:, None, :] >= edges_QF[None]).sum(axis=1)
    return np.asarray(np.eye(_NUM_BINS, dtype=np.float32)[bins_NF])


def _smoothed(counts: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shares of the bins along the last axis; half a clip more in each, so that none is empty."""
    more = counts.astype(np.float64) + 0.5
    return np.asarray(more / more.sum(axis=-1, keepdims=True))


def _psi(window: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((window - reference) * np.log(window / reference)).sum(axis=-1))


def _ks(window: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest distance of the two distribution functions at the deciles of the reference."""
    return np.asarray(np.abs(np.cumsum(window - reference, axis=-1)).max(axis=-1))


def _standard(rows: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.clip((rows - known.mean(axis=0)) / known.std(axis=0), -_FARTHEST, _FARTHEST))


def _kernel(left: NDArray[np.float32], right: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    return np.asarray(np.exp(-distance.cdist(left, right, "sqeuclidean") / width), np.float32)
