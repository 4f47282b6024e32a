"""Figures of a classifier with the intervals that its speakers allow, as pure functions of arrays.

Every figure is a function of sums over clips (of a classifier's: of the confusion matrix), so a bootstrap needs no
clip after the first pass: one sum a speaker, and each resample is a weighted sum of them. What holds for classes
holds for `metrics_multilabel`, `metrics_regression` and `metrics_calibration`, which have other sums.

N clips, S speakers, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Metric = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_LOW_PERCENT, _HIGH_PERCENT = 2.5, 97.5


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Scored(Protocol):
    """What one system answered on a set of clips, summed up as its figures need it."""

    @property
    def speaker_ids(self) -> Sequence[str]: ...

    @property
    def actual(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """What was to be answered, one row a clip."""

    def sums(self, groups_N: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
        """(S, ...) sums over the clips of each group."""


@dataclass(frozen=True, eq=False)
class Resampled:
    """The sums over all clips and over each of R resamples of speakers, from which any figure gets its interval."""

    whole: NDArray[np.float64]
    drawn_R: NDArray[np.float64]

    def interval(self, metric: Metric) -> Interval:
        """A figure with its 95 % percentile interval; resamples that have no such figure (NaN) are left out."""
        return _interval(float(metric(self.whole)), metric(self.drawn_R))


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a classifier answered on a set of clips.

    Attributes:
        actual_N, predicted_N: class numbers from 0 to `num_classes` - 1.
        speaker_ids: N names.

    Raises:
        ValueError: there is no clip, the lengths differ, or a class number is out of range.
    """

    actual_N: NDArray[np.int64]
    predicted_N: NDArray[np.int64]
    speaker_ids: Sequence[str]
    num_classes: int

    def __post_init__(self) -> None:
        _check(self.actual_N, self.predicted_N, self.num_classes)
        if len(self.speaker_ids) != len(self.actual_N):
            raise ValueError(f"{len(self.speaker_ids)} speaker_ids for {len(self.actual_N)} clips: give one a clip")

    @property
    def num_speakers(self) -> int:
        return len(set(self.speaker_ids))

    @property
    def actual(self) -> NDArray[np.int64]:
        return self.actual_N

    def sums(self, groups_N: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
        """(S, C, C) confusion matrices."""
        cells_N = (groups_N * self.num_classes + self.actual_N) * self.num_classes + self.predicted_N
        counts = np.bincount(cells_N, minlength=num_groups * self.num_classes**2)
        return counts.reshape(num_groups, self.num_classes, self.num_classes).astype(np.float64)


def confusion_matrix(
    actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Clips by actual class (rows) and predicted class (columns).

    Raises:
        ValueError: there is no clip, the lengths differ, or a class number is out of range.
    """
    _check(actual_N, predicted_N, num_classes)
    cells_N = actual_N * num_classes + predicted_N
    return np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def macro_f1_of(confusion_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur among the actual labels; over the last two axes.

    A class without an actual clip (in the whole set, or in one resample) has no recall and is left out; what was
    wrongly predicted as it still counts against the classes that those clips have.
    """
    return _mean_over_present(_f1_of(confusion_CC), confusion_CC)


def unweighted_accuracy_of(confusion_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean recall over the classes that occur among the actual labels (UA); over the last two axes."""
    hits_C = np.diagonal(confusion_CC, axis1=-2, axis2=-1)
    return _mean_over_present(_divide(hits_C, confusion_CC.sum(axis=-1)), confusion_CC)


def weighted_accuracy_of(confusion_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of clips that were named rightly (WA, plain accuracy); over the last two axes."""
    hits = np.trace(confusion_CC, axis1=-2, axis2=-1)
    return np.asarray(hits / confusion_CC.sum(axis=(-2, -1)))


def macro_f1(actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int) -> float:
    """Mean F1 over the classes that occur in `actual_N`, from 0 to 1."""
    return _of_clips(macro_f1_of, actual_N, predicted_N, num_classes)


def unweighted_accuracy(actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int) -> float:
    """Mean recall over the classes that occur in `actual_N` (UA), from 0 to 1."""
    return _of_clips(unweighted_accuracy_of, actual_N, predicted_N, num_classes)


def weighted_accuracy(actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int) -> float:
    """Share of clips named rightly (WA), from 0 to 1."""
    return _of_clips(weighted_accuracy_of, actual_N, predicted_N, num_classes)


def per_class_f1(actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """F1 of each class, (C,); 0 for a class that is neither present nor predicted."""
    return _f1_of(confusion_matrix(actual_N, predicted_N, num_classes).astype(np.float64))


def figure(outcomes: Scored, metric: Metric) -> float:
    """A figure over all clips."""
    return float(metric(_whole(outcomes)))


def resample(outcomes: Scored, *, num_resamples: int = 1000, seed: int = 0) -> Resampled:
    """Draw speakers, and with each all of their clips.

    Clips of one speaker resemble each other, so an interval over clips would be too narrow. Where there is one
    speaker only, clips are resampled all the same: such an interval says nothing about other speakers.
    """
    groups_N = _groups(outcomes.speaker_ids)
    weights_RS = _draw(int(groups_N.max()) + 1, num_resamples, seed)
    return Resampled(_whole(outcomes), _weighted(outcomes, groups_N, weights_RS))


def bootstrap_by_speaker(
    outcomes: Scored, *, metric: Metric = macro_f1_of, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """A figure with its 95 % percentile interval, resampling speakers (see `resample`)."""
    return resample(outcomes, num_resamples=num_resamples, seed=seed).interval(metric)


def paired_bootstrap(
    candidate: Scored,
    champion: Scored,
    *,
    metric: Metric = macro_f1_of,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The difference candidate - champion with its 95 % interval, both on the same resampled speakers.

    Raises:
        ValueError: the two did not answer the same clips.
    """
    same_speakers = list(candidate.speaker_ids) == list(champion.speaker_ids)
    if not same_speakers or not np.array_equal(candidate.actual, champion.actual, equal_nan=True):
        raise ValueError("candidate and champion were scored on different clips: score both on the same split")
    groups_N = _groups(candidate.speaker_ids)
    weights_RS = _draw(int(groups_N.max()) + 1, num_resamples, seed)
    drawn_R = metric(_weighted(candidate, groups_N, weights_RS)) - metric(_weighted(champion, groups_N, weights_RS))
    return _interval(figure(candidate, metric) - figure(champion, metric), drawn_R)


def _check(actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int) -> None:
    if len(actual_N) == 0:
        raise ValueError("there is no clip to score: the split is empty")
    if len(actual_N) != len(predicted_N):
        raise ValueError(f"{len(predicted_N)} predictions for {len(actual_N)} clips: give one a clip")
    for name, classes_N in (("actual", actual_N), ("predicted", predicted_N)):
        if classes_N.min() < 0 or classes_N.max() >= num_classes:
            raise ValueError(f"{name} holds a class outside 0..{num_classes - 1}: check the order of the labels")


def _of_clips(metric: Metric, actual_N: NDArray[np.int64], predicted_N: NDArray[np.int64], num_classes: int) -> float:
    return float(metric(confusion_matrix(actual_N, predicted_N, num_classes).astype(np.float64)))


def _whole(outcomes: Scored) -> NDArray[np.float64]:
    whole: NDArray[np.float64] = outcomes.sums(np.zeros(len(outcomes.speaker_ids), dtype=np.int64), 1)[0]
    return whole


def _f1_of(confusion_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    hits_C = np.diagonal(confusion_CC, axis1=-2, axis2=-1)
    return _divide(2 * hits_C, confusion_CC.sum(axis=-1) + confusion_CC.sum(axis=-2))


def _divide(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)


def _mean_over_present(figures_C: NDArray[np.float64], confusion_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    present_C = confusion_CC.sum(axis=-1) > 0
    return np.asarray((figures_C * present_C).sum(axis=-1) / present_C.sum(axis=-1))


def _groups(speaker_ids: Sequence[str]) -> NDArray[np.int64]:
    """The number of each clip's resampled unit: its speaker, or the clip itself when there is one speaker."""
    names, groups_N = np.unique(np.asarray(speaker_ids, dtype=object).astype(str), return_inverse=True)
    return groups_N.astype(np.int64) if len(names) > 1 else np.arange(len(groups_N))


def _draw(num_groups: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each group is in each resample: as many draws with replacement as there are groups."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples).astype(np.float64)


def _weighted(outcomes: Scored, groups_N: NDArray[np.int64], weights_RS: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of all resamples, (R, ...)."""
    return np.tensordot(weights_RS, outcomes.sums(groups_N, weights_RS.shape[1]), axes=1)


def _interval(value: float, drawn_R: NDArray[np.float64]) -> Interval:
    known_R = drawn_R[~np.isnan(drawn_R)]
    if not len(known_R):
        return Interval(value, value, value)
    low, high = np.percentile(known_R, [_LOW_PERCENT, _HIGH_PERCENT])
    return Interval(value, float(low), float(high))
