"""Figures of a system that says of each label whether it is there: weighted accuracy and three kinds of F1.

Papers call several of them "accuracy" or "F1". Here each has a name of its own; of one label, with TP, TN, FP, FN
clips, P = TP + FN that have it and N = TN + FP that do not:

    weighted_accuracy  (TP * N / P + TN) / (2 N), the mean of sensitivity and specificity
    positive_f1        F1 of "it is there"
    macro_f1           mean of the F1 of "it is there" and of "it is not"
    weighted_f1        the same two, weighted with P and N
    accuracy           (TP + TN) / (P + N)

and of all labels: micro_f1, the F1 of "it is there" over all pairs of clip and label, and subset_accuracy, the share
of clips of which every label is right.

N clips, S speakers, L labels; counts_L22 by actual (absent, present) and predicted (absent, present).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.metrics import Outcomes, figure
from components.metrics_by_label import LabelMetric, mean_of, ratio

DEFAULT_THRESHOLD: Final = 0.5

# Weighted accuracies that differ by less are equal up to rounding.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, eq=False)
class LabelOutcomes:
    """What one system answered on a set of clips.

    Attributes:
        actual: (N, L) 1 where a label is there, 0 where it is not, NaN where nobody knows.
        predicted_NL: whether the system says that it is there.
        speaker_ids: N names.

    Raises:
        ValueError: there is no clip, or the shapes differ.
    """

    actual: NDArray[np.float64]
    predicted_NL: NDArray[np.bool_]
    speaker_ids: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.actual):
            raise ValueError("there is no clip to score: the split is empty")
        if self.actual.shape != self.predicted_NL.shape or len(self.speaker_ids) != len(self.actual):
            raise ValueError(
                f"answers {self.predicted_NL.shape} of {len(self.speaker_ids)} clips for labels {self.actual.shape}: "
                "give one a clip and label"
            )

    @property
    def num_speakers(self) -> int:
        return len(set(self.speaker_ids))

    @property
    def whole_sets(self) -> Outcomes | None:
        """Of the clips whose labels are all known: right (class 1 of 2) or not, for the subset accuracy.

        None where there is no such clip.
        """
        known_N = np.asarray(np.isfinite(self.actual).all(axis=1))
        if not known_N.any():
            return None
        right_N = (self.actual == self.predicted_NL).all(axis=1)[known_N].astype(np.int64)
        names = [name for name, known in zip(self.speaker_ids, known_N, strict=True) if known]
        return Outcomes(np.ones_like(right_N), right_N, names, 2)

    def sums(self, groups_N: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
        """(S, L, 2, 2) clips by actual and predicted."""
        num_labels = self.actual.shape[1]
        known_NL = np.isfinite(self.actual)
        rows_NL = groups_N[:, None] * num_labels + np.arange(num_labels)
        cells = (rows_NL[known_NL] * 2 + self.actual[known_NL].astype(np.int64)) * 2 + self.predicted_NL[known_NL]
        counts = np.bincount(cells, minlength=num_groups * num_labels * 4)
        return counts.reshape(num_groups, num_labels, 2, 2).astype(np.float64)


def weighted_accuracy_of(counts_L22: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted accuracy of each label, (..., L); NaN for a label that all clips or none have."""
    positives_L, negatives_L = counts_L22[..., 1, :].sum(axis=-1), counts_L22[..., 0, :].sum(axis=-1)
    true_positives_L = ratio(counts_L22[..., 1, 1] * negatives_L, positives_L)
    return ratio(true_positives_L + counts_L22[..., 0, 0], 2 * negatives_L)


def positive_f1_of(counts_L22: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of a label's being there, (..., L); NaN for a label that no clip has."""
    return _f1_of(counts_L22, 1)


def macro_f1_of(counts_L22: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 of a label's being there and not, (..., L), of those two that occur; NaN where neither does."""
    both = np.stack([_f1_of(counts_L22, side) for side in (0, 1)])
    return ratio(np.nan_to_num(both).sum(axis=0), np.isfinite(both).sum(axis=0).astype(np.float64))


def weighted_f1_of(counts_L22: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of a label's being there and not, weighted with the clips of each, (..., L)."""
    support_L2 = counts_L22.sum(axis=-1)
    f1_L2 = np.stack([np.nan_to_num(_f1_of(counts_L22, side)) for side in (0, 1)], axis=-1)
    return ratio((f1_L2 * support_L2).sum(axis=-1), support_L2.sum(axis=-1))


def accuracy_of(counts_L22: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of clips of which a label is said rightly, (..., L)."""
    return ratio(counts_L22[..., 0, 0] + counts_L22[..., 1, 1], counts_L22.sum(axis=(-2, -1)))


def micro_f1_of(counts_L22: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of "it is there" over all pairs of clip and label; NaN where nothing is there."""
    return _f1_of(counts_L22.sum(axis=-3), 1)


mean_weighted_accuracy_of = mean_of(weighted_accuracy_of)

BY_LABEL: Final[dict[str, LabelMetric]] = {
    "weighted_accuracy": weighted_accuracy_of,
    "weighted_f1": weighted_f1_of,
    "positive_f1": positive_f1_of,
    "macro_f1": macro_f1_of,
    "accuracy": accuracy_of,
}


def mean_weighted_accuracy(actual_NL: NDArray[np.float64], predicted_NL: NDArray[np.bool_]) -> float:
    """Weighted accuracy, averaged over the labels that some clips have and some have not; NaN where none is."""
    names = [""] * len(actual_NL)
    return figure(LabelOutcomes(actual_NL, predicted_NL, names), mean_weighted_accuracy_of)


def presence(values_NL: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """Annotated intensities as 1 (over the threshold), 0 or NaN (unknown)."""
    present_NL = (values_NL > threshold).astype(np.float64)
    return np.where(np.isfinite(values_NL), present_NL, np.nan)


def choose_thresholds(actual_NL: NDArray[np.float64], probabilities_NL: NDArray[np.floating]) -> tuple[float, ...]:
    """For each label the probability from which on it is said to be there: the best weighted accuracy on these clips.

    Of equally good ones the nearest to a half; a half where the clips cannot tell. Choose on validation clips only.
    """
    return tuple(
        _choose(actual_NL[known_N, column], probabilities_NL[known_N, column].astype(np.float64))
        for column in range(actual_NL.shape[1])
        for known_N in [np.isfinite(actual_NL[:, column])]
    )


def _choose(actual_N: NDArray[np.float64], probabilities_N: NDArray[np.float64]) -> float:
    present = np.sort(probabilities_N[actual_N == 1])
    absent = np.sort(probabilities_N[actual_N == 0])
    if not len(present) or not len(absent):
        return DEFAULT_THRESHOLD
    steps = np.unique(np.append(probabilities_N, (0.0, 1.0)))
    # From 0 on it is always there, which is as good as never.
    candidates = np.append((steps[1:] + steps[:-1]) / 2, (0.0, DEFAULT_THRESHOLD))
    sensitivity = 1 - np.searchsorted(present, candidates, side="left") / len(present)
    specificity = np.searchsorted(absent, candidates, side="left") / len(absent)
    accuracy = (sensitivity + specificity) / 2
    best = candidates[accuracy >= accuracy.max() - _ROUNDING]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def _f1_of(counts_L22: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """F1 of one side (0 absent, 1 present), (..., L); NaN where no clip is on it."""
    hits_L = counts_L22[..., side, side]
    actual_L, predicted_L = counts_L22[..., side, :].sum(axis=-1), counts_L22[..., :, side].sum(axis=-1)
    return np.where(actual_L > 0, ratio(2 * hits_L, actual_L + predicted_L), np.nan)
