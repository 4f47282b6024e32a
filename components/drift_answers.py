"""Whether what is answered has changed: the shares of the labels by chi-square, corrected for speakers.

Clips of one speaker get like answers, so so many clips count as fewer: as many as would be worth the same if each were
of a speaker of its own (Rao and Scott's correction, by the design effect).

N clips, C labels, K kinds of answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from components.drift import SpokenRows
from components.task import Task

# Likeness of two answers to one speaker that is taken for granted: a few speakers cannot show that there is none.
_LEAST_LIKENESS: Final = 0.05
_NUM_BINS: Final = 5


@dataclass(frozen=True)
class Shift:
    """How the answers of a window differ from those on the validation part: all classes, or one label or value.

    Attributes:
        expected: of the statistic where nothing has changed.
    """

    name: str
    psi: float
    chi_square: float
    expected: float
    p_value: float


def shifts(
    known: SpokenRows, answers_NC: NDArray[np.float32], task: Task, *, thresholds: tuple[float, ...], num_speakers: int
) -> list[Shift]:
    """Compare the answers of a window, of at least so many speakers, with those on the validation part."""
    found = []
    pairs = zip(_kinds(known.rows_NF, known.rows_NF, task, thresholds),
                _kinds(answers_NC, known.rows_NF, task, thresholds), strict=True)  # fmt: skip
    for (name, known_NK), (_, window_NK) in pairs:
        likeness = _likeness(known_NK, known.speaker_N)
        worth_known = len(known_NK) / _design_effect(len(known_NK) / known.num_speakers, likeness)
        worth_window = len(window_NK) / _design_effect(len(window_NK) / num_speakers, likeness)
        reference_K, window_K = known_NK.mean(axis=0), window_NK.mean(axis=0)
        used = (reference_K + window_K) > 0
        if used.sum() < 2:
            continue
        table = np.stack([reference_K * worth_known, window_K * worth_window])[:, used]
        tested = stats.chi2_contingency(table, correction=False)
        psi = _psi(window_K * len(window_NK), reference_K * len(known_NK))
        found.append(Shift(name, psi, float(tested.statistic), float(tested.dof), float(tested.pvalue)))
    return found


def _kinds(
    answers_NC: NDArray[np.float32], known_NC: NDArray[np.float32], task: Task, thresholds: tuple[float, ...]
) -> list[tuple[str, NDArray[np.float64]]]:
    """What was answered as 0 and 1 by kind, (N, K): the class; or for each label whether it is there; or for each
    value its fifth among those on the validation part."""
    if task.kind == "classes":
        return [("answers", np.eye(len(task.labels))[answers_NC.argmax(axis=1)])]
    parts = []
    for number, label in enumerate(task.labels):
        if task.kind == "multilabel":
            edges, size = np.array([thresholds[number]]), 2
        else:
            edges, size = np.quantile(known_NC[:, number], np.linspace(0, 1, _NUM_BINS + 1)[1:-1]), _NUM_BINS
        parts.append((f"answers/{label}", np.eye(size)[np.searchsorted(edges, answers_NC[:, number], side="right")]))
    return parts


def _design_effect(clips_per_speaker: float, likeness: float) -> float:
    return 1 + max(0.0, clips_per_speaker - 1) * likeness


def _likeness(kinds_NK: NDArray[np.float64], speaker_N: NDArray[np.int32]) -> float:
    """The intraclass correlation of the answers to one speaker, by analysis of variance over all kinds."""
    names, inverse, size_S = np.unique(speaker_N, return_inverse=True, return_counts=True)
    if len(names) < 2 or len(kinds_NK) == len(names):
        return _LEAST_LIKENESS
    means_SK = np.stack([kinds_NK[inverse == number].mean(axis=0) for number in range(len(names))])
    between = (size_S[:, None] * (means_SK - kinds_NK.mean(axis=0)) ** 2).sum() / (len(names) - 1)
    within = ((kinds_NK - means_SK[inverse]) ** 2).sum() / (len(kinds_NK) - len(names))
    usual_size = (len(kinds_NK) - (size_S**2).sum() / len(kinds_NK)) / (len(names) - 1)
    total = between + (usual_size - 1) * within
    return float(max(_LEAST_LIKENESS, (between - within) / total if total else 0.0))


def _psi(window_K: NDArray[np.float64], reference_K: NDArray[np.float64]) -> float:
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (window_K, reference_K)]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())
