"""How far a system's probabilities are from how often it is right: expected calibration error (Guo et al. 2017, eq. 3).

Clips are put into equal ranges of probability; each range weighs as many clips as it has.

N clips, S speakers, C classes, L labels, Q ranges of probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics_by_label import ratio


@dataclass(frozen=True, eq=False)
class Calibration:
    """Probabilities and what came of them, one column a label, as sums that a bootstrap can draw.

    Attributes:
        probabilities_NL: of what the label says.
        actual: 1 where it was so, 0 where not, NaN where nobody knows.
        speaker_ids: N names.
    """

    probabilities_NL: NDArray[np.floating]
    actual: NDArray[np.float64]
    speaker_ids: Sequence[str]
    num_bins: int = 15

    def sums(self, groups_N: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
        """(S, L, Q + 1): the surplus of probability over truth in each range, and the number of clips."""
        num_labels = self.actual.shape[1]
        probabilities_NL = self.probabilities_NL.astype(np.float64)
        bins_NL = np.clip(np.ceil(probabilities_NL * self.num_bins).astype(np.int64) - 1, 0, self.num_bins - 1)
        rows_NL = groups_N[:, None] * num_labels + np.arange(num_labels)
        known_NL = np.isfinite(self.actual)
        result = np.zeros((num_groups * num_labels, self.num_bins + 1))
        surplus = (probabilities_NL - self.actual)[known_NL]
        np.add.at(result, (rows_NL[known_NL], bins_NL[known_NL]), surplus)
        np.add.at(result[:, -1], rows_NL[known_NL], 1.0)
        return result.reshape(num_groups, num_labels, -1)


def calibration_error_of(sums_LQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected calibration error by label, (..., L), from `Calibration.sums`; NaN for a label without clips."""
    return ratio(np.abs(sums_LQ[..., :-1]).sum(axis=-1), sums_LQ[..., -1])


def of_classes(
    actual_N: NDArray[np.int64], probabilities_NC: NDArray[np.floating], speaker_ids: Sequence[str]
) -> Calibration:
    """A classifier's: the probability of the class that it names, and whether it is right."""
    right_N = (probabilities_NC.argmax(axis=1) == actual_N).astype(np.float64)
    return Calibration(probabilities_NC.max(axis=1)[:, None], right_N[:, None], speaker_ids)


def reliability(calibration: Calibration) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """What a reliability diagram shows, over all labels: by range of probability that has clips, (Q,) each, their mean
    probability, the share of them where it was so, and how many there are."""
    known_NL = np.isfinite(calibration.actual)
    probabilities, actual = calibration.probabilities_NL[known_NL].astype(np.float64), calibration.actual[known_NL]
    bins = np.clip(np.ceil(probabilities * calibration.num_bins).astype(np.int64) - 1, 0, calibration.num_bins - 1)
    num_Q = np.bincount(bins, minlength=calibration.num_bins)
    sums_Q = [np.bincount(bins, weights=values, minlength=calibration.num_bins) for values in (probabilities, actual)]
    has_clips_Q = num_Q > 0
    mean_Q, share_Q = (sums[has_clips_Q] / num_Q[has_clips_Q] for sums in sums_Q)
    return mean_Q, share_Q, num_Q[has_clips_Q]


def expected_calibration_error(
    actual_N: NDArray[np.int64], probabilities_NC: NDArray[np.floating], *, num_bins: int = 15
) -> float:
    """Mean distance between the probability of the named class and how often it is right."""
    confidence_N = probabilities_NC.max(axis=1).astype(np.float64)
    right_N = (probabilities_NC.argmax(axis=1) == actual_N).astype(np.float64)
    bins_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    surplus = np.bincount(bins_N, weights=confidence_N - right_N, minlength=num_bins)
    return float(np.abs(surplus).sum() / len(actual_N))
