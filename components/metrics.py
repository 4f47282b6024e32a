"""Figures of a classifier with the intervals that its speakers allow, as pure functions of arrays.

Every figure is a function of the confusion matrix, so a bootstrap needs no clip after the first pass: one matrix
a speaker, and each resample is a weighted sum of them.

N clips, S speakers, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one system answered on a set of clips.

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


def expected_calibration_error(
    actual_N: NDArray[np.int64], probabilities_NC: NDArray[np.floating], *, num_bins: int = 15
) -> float:
    """Mean distance between the probability of the named class and how often it is right (Guo et al. 2017, eq. 3).

    Clips are put into `num_bins` equal ranges of probability; each range weighs as many clips as it has.
    """
    confidence_N = probabilities_NC.max(axis=1).astype(np.float64)
    right_N = (probabilities_NC.argmax(axis=1) == actual_N).astype(np.float64)
    bins_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    surplus = np.bincount(bins_N, weights=confidence_N - right_N, minlength=num_bins)
    return float(np.abs(surplus).sum() / len(actual_N))


def bootstrap_by_speaker(
    outcomes: Outcomes, *, metric: Metric = macro_f1_of, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """A figure with its 95 % percentile interval, resampling speakers and with each all of their clips.

    Clips of one speaker resemble each other, so an interval over clips would be too narrow. Where there is one
    speaker only, clips are resampled all the same: such an interval says nothing about other speakers.
    """
    groups_N = _groups(outcomes.speaker_ids)
    weights_RS = _draw(int(groups_N.max()) + 1, num_resamples, seed)
    drawn_R = metric(_resample(outcomes, groups_N, weights_RS))
    return _interval(float(metric(_whole(outcomes))), drawn_R)


def paired_bootstrap(
    candidate: Outcomes,
    champion: Outcomes,
    *,
    metric: Metric = macro_f1_of,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The difference candidate - champion with its 95 % interval, both on the same resampled speakers.

    Raises:
        ValueError: the two did not answer the same clips.
    """
    if list(candidate.speaker_ids) != list(champion.speaker_ids) or not np.array_equal(
        candidate.actual_N, champion.actual_N
    ):
        raise ValueError("candidate and champion were scored on different clips: score both on the same split")
    groups_N = _groups(candidate.speaker_ids)
    weights_RS = _draw(int(groups_N.max()) + 1, num_resamples, seed)
    drawn_R = metric(_resample(candidate, groups_N, weights_RS)) - metric(_resample(champion, groups_N, weights_RS))
    return _interval(float(metric(_whole(candidate)) - metric(_whole(champion))), drawn_R)


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


def _whole(outcomes: Outcomes) -> NDArray[np.float64]:
    return confusion_matrix(outcomes.actual_N, outcomes.predicted_N, outcomes.num_classes).astype(np.float64)


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


def _resample(outcomes: Outcomes, groups_N: NDArray[np.int64], weights_RS: NDArray[np.float64]) -> NDArray[np.float64]:
    """Confusion matrices of all resamples, (R, C, C)."""
    num_classes = outcomes.num_classes
    cells_N = (groups_N * num_classes + outcomes.actual_N) * num_classes + outcomes.predicted_N
    num_groups = weights_RS.shape[1]
    counts_SK = np.bincount(cells_N, minlength=num_groups * num_classes**2).reshape(num_groups, num_classes**2)
    return (weights_RS @ counts_SK.astype(np.float64)).reshape(-1, num_classes, num_classes)


def _interval(value: float, drawn_R: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(drawn_R, [_LOW_PERCENT, _HIGH_PERCENT])
    return Interval(value, float(low), float(high))
