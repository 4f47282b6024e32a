"""What a model's scores say, by what it is asked, and the one figure by which an epoch is chosen.

Shapes: N clips, B batch, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from components.metrics import macro_f1
from components.task import Kind, Task

_NAMES: Final[dict[Kind, str]] = {"classes": "macro_f1", "multilabel": "weighted_accuracy", "values": "ccc"}
_TOLD: Final[dict[Kind, str]] = {"classes": "macro-F1", "multilabel": "weighted accuracy", "values": "CCC"}
# A probability counts as at least this much, so that its logarithm is finite.
_LEAST: Final = 1e-9


def to_answers(logits_BC: Tensor, task: Task | None) -> Tensor:
    """(B, C) probabilities of the classes or of each label, or values on the task's scale; no task asks for classes."""
    if task is None or task.kind == "classes":
        return logits_BC.softmax(dim=1)
    if task.kind == "multilabel":
        return logits_BC.sigmoid()
    assert task.scale is not None
    low, high = task.scale
    return low + logits_BC * (high - low)


@dataclass(frozen=True)
class Judge:
    """Judges answers on validation clips: macro-F1 of classes, mean weighted accuracy of labels, mean CCC of values.

    A label is said to be there when its probability exceeds one half. Weighted accuracy is the mean of the shares
    found of the clips that have a label and of those that have not; a label that all clips have, or none, is left out.
    """

    task: Task

    @property
    def name(self) -> str:
        """The figure, as a key."""
        return _NAMES[self.task.kind]

    @property
    def told(self) -> str:
        """The figure, in words."""
        return _TOLD[self.task.kind]

    def score(self, labels_NC: NDArray[np.float32], answers_NC: NDArray[np.float64]) -> float:
        """The figure; what is not annotated (NaN) does not count."""
        if self.task.kind == "classes":
            known_N = np.isfinite(labels_NC).all(axis=1)
            actual_N, found_N = labels_NC[known_N].argmax(axis=1), answers_NC[known_N].argmax(axis=1)
            return float(macro_f1(actual_N, found_N, labels_NC.shape[1]))
        one = self._weighted_accuracy if self.task.kind == "multilabel" else concordance
        figures = []
        for labels_N, answers_N in zip(labels_NC.T.astype(np.float64), answers_NC.T, strict=True):
            known_N = np.isfinite(labels_N)
            figure = one(labels_N[known_N], answers_N[known_N])
            if figure is not None:
                figures.append(figure)
        return float(np.mean(figures)) if figures else 0.0

    def loss(self, labels_NC: NDArray[np.float32], answers_NC: NDArray[np.float64]) -> tuple[float, float]:
        """The loss, as a sum and what to divide it by: cross-entropy, or one minus the CCC a label."""
        if self.task.kind == "classes":
            known_N = np.isfinite(labels_NC).all(axis=1)
            labels_NC, answers_NC = labels_NC[known_N], answers_NC[known_N]
            losses_N = -(labels_NC * np.log(answers_NC.clip(_LEAST))).sum(axis=1) / labels_NC.sum(axis=1)
            return float(losses_N.sum()), float(len(losses_N))
        if self.task.kind == "values":
            return labels_NC.shape[1] * (1 - self.score(labels_NC, answers_NC)), 1.0
        known_NC, present_NC = np.isfinite(labels_NC), labels_NC > self.task.threshold
        right_NC = np.where(present_NC, answers_NC, 1 - answers_NC).clip(_LEAST)
        return float(-np.log(right_NC)[known_NC].sum()), float(known_NC.sum())

    def _weighted_accuracy(self, labels_N: NDArray[np.float64], answers_N: NDArray[np.float64]) -> float | None:
        present_N, found_N = labels_N > self.task.threshold, answers_N > 0.5
        if present_N.all() or not present_N.any():
            return None
        return float((found_N[present_N].mean() + (~found_N[~present_N]).mean()) / 2)


def concordance(actual_N: NDArray[np.float64], answers_N: NDArray[np.float64]) -> float | None:
    """Lin's concordance correlation coefficient; 0 where the answers are constant, None where the labels are."""
    if len(actual_N) < 2 or np.ptp(actual_N) == 0:
        return None
    covariance_22 = np.cov(actual_N, answers_N)
    shift = actual_N.mean() - answers_N.mean()
    return float(2 * covariance_22[0, 1] / (covariance_22[0, 0] + covariance_22[1, 1] + shift**2))
