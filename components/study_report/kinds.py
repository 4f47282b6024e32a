"""What a kind of task is told in: its figures by their definitions, and the answers of several runs as one set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components import metrics, metrics_multilabel, metrics_regression
from components.evaluate import read_answers, read_outcomes
from components.metrics import Metric, Outcomes
from components.metrics_by_label import mean_of, of_label, ratio
from components.metrics_multilabel import LabelOutcomes
from components.metrics_regression import ValueOutcomes
from components.task import Kind, Task

Scores = Outcomes | LabelOutcomes | ValueOutcomes


@dataclass(frozen=True)
class Figure:
    """A figure that a report shows, by its definition.

    Attributes:
        key: as in `references.yaml`.
        scale: what it is multiplied with to be shown: 100 for points.
        digits: behind the point when it is shown.
    """

    key: str
    title: str
    words: str
    metric: Metric
    scale: float = 100.0
    digits: int = 1

    @property
    def unit(self) -> str:
        return "points" if self.scale == 100 else "its own units"

    def told(self, value: float, *, signed: bool = False) -> str:
        return f"{self.scale * value:{'+' if signed else ''}.{self.digits}f}"


_CLASSES = (
    Figure("ua", "UA", "unweighted accuracy: the mean recall over classes", metrics.unweighted_accuracy_of),
    Figure("wa", "WA", "weighted accuracy: the share of clips named rightly", metrics.weighted_accuracy_of),
    Figure("macro_f1", "macro-F1", "the mean F1 over classes", metrics.macro_f1_of),
)
_MULTILABEL = (
    Figure(
        "weighted_accuracy",
        "weighted accuracy",
        "the mean of sensitivity and specificity, averaged over labels",
        mean_of(metrics_multilabel.weighted_accuracy_of),
    ),
    Figure(
        "weighted_f1",
        "weighted F1",
        "the F1 of presence and of absence, weighted with their clips, averaged over labels",
        mean_of(metrics_multilabel.weighted_f1_of),
    ),
    Figure(
        "positive_f1",
        "positive F1",
        "the F1 of presence alone, averaged over labels",
        mean_of(metrics_multilabel.positive_f1_of),
    ),
    Figure(
        "accuracy",
        "accuracy",
        "the share of clips told rightly, averaged over labels",
        mean_of(metrics_multilabel.accuracy_of),
    ),
)
_WORDS_OF_VALUES = {
    "ccc": ("CCC", "the concordance correlation, averaged over values", 1.0, 3),
    "corr": ("Corr", "Pearson's correlation, averaged over values", 1.0, 3),
    "mae": ("MAE", "the mean absolute error on the scale of the labels (less is better), averaged over values", 1.0, 3),
    "acc2_has0": ("Acc2 has0", "two classes, zero counted as not negative", 100.0, 1),
    "acc2_non0": ("Acc2 non0", "two classes, over clips that are not zero", 100.0, 1),
    "acc7_round": ("Acc7 round", "seven classes, by rounding to the nearest", 100.0, 1),
    "acc7_away": ("Acc7 away", "seven classes, by rounding away from zero", 100.0, 1),
}
# The figure that a report is told in where the paper has none of its own, and the one that it shows label by label.
HEADLINES: dict[Kind, str] = {"classes": "macro_f1", "multilabel": "weighted_accuracy", "values": "ccc"}


def figures_of(asked: Task | None) -> tuple[Figure, ...]:
    """The figures of a task; those of classes where nobody knows what was asked."""
    if asked is None or asked.kind == "classes":
        return _CLASSES
    if asked.kind == "multilabel":
        return _MULTILABEL
    assert asked.scale is not None
    known = metrics_regression.by_label(asked.scale)
    return tuple(
        Figure(key, title, words, mean_of(known[key]), scale, digits)
        for key, (title, words, scale, digits) in _WORDS_OF_VALUES.items()
        if key in known
    )


def figures_by_label(asked: Task) -> dict[str, Figure]:
    """By label, the figure that the task is judged by; for classes, their recall."""
    number_of = {label: number for number, label in enumerate(asked.labels)}
    if asked.kind == "classes":
        return {
            label: Figure(f"recall_{label}", label, "recall", _recall(number)) for label, number in number_of.items()
        }
    if asked.kind == "multilabel":
        metric = metrics_multilabel.weighted_accuracy_of
        return {
            label: Figure(f"weighted_accuracy_{label}", label, "weighted accuracy", of_label(metric, number))
            for label, number in number_of.items()
        }
    return {
        label: Figure(f"ccc_{label}", label, "CCC", of_label(metrics_regression.ccc_of, number), 1.0, 3)
        for label, number in number_of.items()
    }


def read_scores(folder: Path, asked: Task) -> Scores:
    """The answers that an evaluation, or the baseline, stored in its folder.

    Raises:
        FileNotFoundError: it has not run.
        ValueError: a file of it is damaged.
    """
    return read_outcomes(folder, asked.labels) if asked.kind == "classes" else read_answers(folder).outcomes


def pool(parts: Sequence[Scores]) -> Scores:
    """The answers of several folds or seeds as those of one set of clips; a speaker of two seeds stays one speaker."""
    speakers = [speaker for part in parts for speaker in part.speaker_ids]
    actual = np.concatenate([part.actual for part in parts])
    first = parts[0]
    if isinstance(first, Outcomes):
        predicted_N = np.concatenate([part.predicted_N for part in parts if isinstance(part, Outcomes)])
        return Outcomes(actual.astype(np.int64), predicted_N, speakers, first.num_classes)
    if isinstance(first, LabelOutcomes):
        said_NL = np.concatenate([part.predicted_NL for part in parts if isinstance(part, LabelOutcomes)])
        return LabelOutcomes(actual.astype(np.float64), said_NL, speakers)
    told_NL = np.concatenate([part.predicted_NL for part in parts if isinstance(part, ValueOutcomes)])
    return ValueOutcomes(actual.astype(np.float64), told_NL, speakers)


def _recall(number: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    def recall(confusion_CC: NDArray[np.float64]) -> NDArray[np.float64]:
        row_C = confusion_CC[..., number, :]
        return ratio(row_C[..., number], row_C.sum(axis=-1))

    return recall
