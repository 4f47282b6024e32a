"""Figures of a system that tells values on a scale: agreement, error, and a sentiment's two and seven classes.

    ccc         2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2), unbiased variances and covariance
    corr        Pearson's correlation
    mae         mean absolute error, on the scale of the labels
    acc2_has0   both below zero or both not below zero, over all clips (`>= 0`)
    acc2_non0   both over zero or both not, over the clips that are not actually zero
    acc7_round  equal after rounding to -3..3, the nearest, of halves the even one
    acc7_away   equal after rounding to -3..3 away from zero, as 0.1 is 1 and -1.2 is -2

A constant has a ccc and a corr of 0.

N clips, S speakers, L labels, K sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.metrics import figure
from components.metrics_by_label import LabelMetric, mean_of, ratio

SENTIMENT_SCALE: Final = (-3.0, 3.0)

_SUMS: Final = ("n", "x", "y", "xx", "yy", "xy", "error", "has0", "non0", "num_non0", "round", "away")
_AT: Final = {name: number for number, name in enumerate(_SUMS)}

# A variance below this share of the mean square is what rounding leaves of a constant.
_NO_VARIANCE: Final = 1e-12
_NOTHING: Final = 1e-24


@dataclass(frozen=True, eq=False)
class ValueOutcomes:
    """What one system answered on a set of clips, on the scale of the labels.

    Attributes:
        actual: (N, L), NaN where nobody knows.
        predicted_NL: numbers throughout.
        speaker_ids: N names.

    Raises:
        ValueError: there is no clip, the shapes differ, or an answer is no number.
    """

    actual: NDArray[np.float64]
    predicted_NL: NDArray[np.float64]
    speaker_ids: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.actual):
            raise ValueError("there is no clip to score: the split is empty")
        if self.actual.shape != self.predicted_NL.shape or len(self.speaker_ids) != len(self.actual):
            raise ValueError(
                f"answers {self.predicted_NL.shape} of {len(self.speaker_ids)} clips for values {self.actual.shape}: "
                "give one a clip and label"
            )
        if not np.isfinite(self.predicted_NL).all():
            raise ValueError("an answer is no number: the weights are damaged, or the training has diverged")

    @property
    def num_speakers(self) -> int:
        return len(set(self.speaker_ids))

    def sums(self, groups_N: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
        """(S, L, K) sums in the order of `_SUMS`, of standardised values where the figures do not mind."""
        num_labels = self.actual.shape[1]
        known_NL = np.isfinite(self.actual)
        terms_NLK = np.stack([_terms(self.actual[:, n], self.predicted_NL[:, n]) for n in range(num_labels)], axis=1)
        rows_NL = groups_N[:, None] * num_labels + np.arange(num_labels)
        result = np.zeros((num_groups * num_labels, len(_SUMS)))
        np.add.at(result, rows_NL[known_NL], terms_NLK[known_NL])
        return result.reshape(num_groups, num_labels, len(_SUMS))


def ccc_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Concordance correlation of each label, (..., L); NaN with fewer than two clips."""
    n_L, x_L, y_L = (sums_LK[..., _AT[name]] for name in ("n", "x", "y"))
    variance_x_L, variance_y_L, covariance_L = _moments(sums_LK)
    distance_L = ratio(x_L - y_L, n_L)
    below_L = variance_x_L + variance_y_L + distance_L**2
    return _where_two(n_L, np.nan_to_num(ratio(2 * covariance_L, below_L)))


def corr_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of each label, (..., L); NaN with fewer than two clips."""
    variance_x_L, variance_y_L, covariance_L = _moments(sums_LK)
    found_L = np.nan_to_num(ratio(covariance_L, np.sqrt(variance_x_L) * np.sqrt(variance_y_L)))
    return _where_two(sums_LK[..., _AT["n"]], np.clip(found_L, -1, 1))


def mae_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean absolute error of each label on its scale, (..., L)."""
    return ratio(sums_LK[..., _AT["error"]], sums_LK[..., _AT["n"]])


def acc2_has0_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of clips on the right side of zero, zero counted as not negative, (..., L)."""
    return ratio(sums_LK[..., _AT["has0"]], sums_LK[..., _AT["n"]])


def acc2_non0_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the clips that are not actually zero that are on the right side of it, (..., L)."""
    return ratio(sums_LK[..., _AT["non0"]], sums_LK[..., _AT["num_non0"]])


def acc7_round_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of clips in the right one of seven classes, by rounding to the nearest, (..., L)."""
    return ratio(sums_LK[..., _AT["round"]], sums_LK[..., _AT["n"]])


def acc7_away_of(sums_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of clips in the right one of seven classes, by rounding away from zero, (..., L)."""
    return ratio(sums_LK[..., _AT["away"]], sums_LK[..., _AT["n"]])


mean_ccc_of = mean_of(ccc_of)

_BY_LABEL: Final[Mapping[str, LabelMetric]] = {"ccc": ccc_of, "corr": corr_of, "mae": mae_of}
_TWO_CLASSES: Final[Mapping[str, LabelMetric]] = {"acc2_has0": acc2_has0_of, "acc2_non0": acc2_non0_of}
_SEVEN_CLASSES: Final[Mapping[str, LabelMetric]] = {"acc7_round": acc7_round_of, "acc7_away": acc7_away_of}


def by_label(scale: tuple[float, float]) -> dict[str, LabelMetric]:
    """The figures that mean something on a scale: two classes where zero is within it, seven on -3..3."""
    two = _TWO_CLASSES if scale[0] < 0 < scale[1] else {}
    seven = _SEVEN_CLASSES if scale == SENTIMENT_SCALE else {}
    return {**_BY_LABEL, **two, **seven}


def mean_ccc(actual_NL: NDArray[np.float64], predicted_NL: NDArray[np.float64]) -> float:
    """Concordance correlation, averaged over labels. The same on every scale that both share."""
    return figure(ValueOutcomes(actual_NL, predicted_NL, [""] * len(actual_NL)), mean_ccc_of)


def round_to_seven(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """-3..3 by clipping and rounding to the nearest, of halves to the even one (MulT, MMSA)."""
    return np.rint(np.clip(values, *SENTIMENT_SCALE))


def round_away_to_seven(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """-3..3 by rounding away from zero (the rule of the CMU-MOSEI SDK)."""
    return np.sign(values) * np.minimum(np.ceil(np.abs(values)), SENTIMENT_SCALE[1])


def _terms(actual_N: NDArray[np.float64], predicted_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K) what each clip adds to the sums; NaN where its value is unknown."""
    known_N = actual_N[np.isfinite(actual_N)]
    # Sums of squares lose the variance of values far from zero; figures of agreement do not mind a common shift.
    centre = known_N.mean() if len(known_N) else 0.0
    unit = (known_N.std() if len(known_N) else 0.0) or 1.0
    x_N, y_N = (actual_N - centre) / unit, (predicted_N - centre) / unit
    is_non0_N = actual_N != 0
    return np.stack(
        [
            *(np.ones_like(x_N), x_N, y_N, x_N**2, y_N**2, x_N * y_N, np.abs(actual_N - predicted_N)),
            (actual_N >= 0) == (predicted_N >= 0),
            ((actual_N > 0) == (predicted_N > 0)) & is_non0_N,
            is_non0_N,
            round_to_seven(actual_N) == round_to_seven(predicted_N),
            round_away_to_seven(actual_N) == round_away_to_seven(predicted_N),
        ],
        axis=-1,
    )


def _moments(
    sums_LK: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Unbiased variances of both and their covariance, each (..., L); all of a constant are 0."""
    n_L, x_L, y_L, xx_L, yy_L, xy_L = (sums_LK[..., _AT[name]] for name in ("n", "x", "y", "xx", "yy", "xy"))
    fewer_L = np.maximum(n_L - 1, 1)
    n_L = np.maximum(n_L, 1)
    variances = []
    for sum_L, squares_L in ((x_L, xx_L), (y_L, yy_L)):
        variance_L = (squares_L - sum_L**2 / n_L) / fewer_L
        is_constant_L = variance_L <= _NO_VARIANCE * squares_L / n_L + _NOTHING
        variances.append(np.where(is_constant_L, 0.0, variance_L))
    covariance_L = (xy_L - x_L * y_L / n_L) / fewer_L
    return variances[0], variances[1], np.where((variances[0] > 0) & (variances[1] > 0), covariance_L, 0.0)


def _where_two(n_L: NDArray[np.float64], found_L: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(n_L > 1, found_L, np.nan)
