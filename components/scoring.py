"""Scoring a model on clips: its answers, and all figures that they give, by the kind of its task.

N clips, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from components import metrics, training
from components.batches import ClipSource
from components.clip import MODALITIES, Modality
from components.metrics import Outcomes
from components.metrics_multilabel import LabelOutcomes, choose_thresholds, presence
from components.metrics_regression import ValueOutcomes
from components.report import HEADLINES
from components.task import Task

_BATCH_SIZE = 32

# Below this a system says nothing about the labels that are asked for, and float32 can no longer divide by it.
_LEAST_TOTAL = 1e-30


@dataclass(frozen=True, eq=False)
class Answers:
    """What a system answered on the labelled clips of a source.

    Attributes:
        index_N: position of each clip in the source.
        annotated_NC: share, intensity or value of each label, as the shards have it; NaN where it is not known.
        answers_NC: probabilities, or values on the task's scale, in the order of the task's labels.
        thresholds: multilabel: the probability from which on each label counts as there.
    """

    task: Task
    index_N: NDArray[np.int64]
    clip_ids: tuple[str, ...]
    speaker_ids: tuple[str, ...]
    annotated_NC: NDArray[np.float64]
    answers_NC: NDArray[np.float32]
    thresholds: tuple[float, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.task.labels

    @property
    def actual_N(self) -> NDArray[np.int64]:
        """Classes: the one with the largest share among the clip's labels."""
        return np.asarray(self.annotated_NC.argmax(axis=1), dtype=np.int64)

    @property
    def present_NC(self) -> NDArray[np.float64]:
        """Multilabel: 1 where the annotated intensity is over the task's threshold, 0 where not, NaN if unknown."""
        return presence(self.annotated_NC, self.task.threshold)

    def actual_words(self) -> list[str]:
        """What was to be answered about each clip, for people; of several labels or of values."""
        if self.task.kind == "multilabel":
            return _names(self.present_NC == 1, self.labels)
        return _numbers(self.annotated_NC, self.labels)

    def predicted_words(self) -> list[str]:
        """What was answered about each clip, for people; of several labels or of values."""
        if self.task.kind == "multilabel":
            return _names(self.answers_NC >= np.asarray(self.thresholds), self.labels)
        return _numbers(self.answers_NC, self.labels)

    @property
    def outcomes(self) -> Outcomes | LabelOutcomes | ValueOutcomes:
        if self.task.kind == "classes":
            return self.class_outcomes
        if self.task.kind == "multilabel":
            assert len(self.thresholds) == len(self.labels)
            predicted_NC = self.answers_NC >= np.asarray(self.thresholds)
            return LabelOutcomes(self.present_NC, predicted_NC, self.speaker_ids)
        return ValueOutcomes(self.annotated_NC, self.answers_NC.astype(np.float64), self.speaker_ids)

    @property
    def class_outcomes(self) -> Outcomes:
        return Outcomes(self.actual_N, self.answers_NC.argmax(axis=1), self.speaker_ids, len(self.labels))

    def only(self, kept_N: NDArray[np.bool_]) -> Answers:
        """The answers on some of the clips."""
        return Answers(
            self.task,
            self.index_N[kept_N],
            tuple(name for name, kept in zip(self.clip_ids, kept_N, strict=True) if kept),
            tuple(name for name, kept in zip(self.speaker_ids, kept_N, strict=True) if kept),
            self.annotated_NC[kept_N],
            self.answers_NC[kept_N],
            self.thresholds,
        )


def score(
    model: nn.Module,
    source: ClipSource,
    *,
    task: Task,
    thresholds: tuple[float, ...] = (),
    drop: Sequence[Modality] = (),
) -> Answers:
    """Let a model answer the labelled clips of a source, without the modalities in `drop`.

    Raises:
        ValueError: no clip has a label, or the labels' number is not the source's.
    """
    answers_NC = training.predict(model, source, batch_size=_BATCH_SIZE, drop=drop, task=task)
    return answers_of(source, answers_NC, task, thresholds=thresholds)


def answers_of(
    source: ClipSource, answers_NC: NDArray[np.float32], task: Task, *, thresholds: tuple[float, ...] = ()
) -> Answers:
    """A system's answers for all clips of a source, as answers on those that have labels.

    Raises:
        ValueError: no clip has a label, or their number is not that of the task.
    """
    annotated_NC = np.asarray(source.labels_NC)
    num_labels = len(task.labels)
    if annotated_NC.shape[1] not in (0, num_labels):
        raise ValueError(
            f"the clips have {annotated_NC.shape[1]} labels, the model {num_labels}: run `dvc repro` again"
        )
    finite_NC = np.isfinite(annotated_NC)
    known_N = finite_NC.all(axis=1) if task.kind == "classes" else finite_NC.any(axis=1)
    labelled_N = np.asarray(known_N & (annotated_NC.shape[1] > 0))
    if not labelled_N.any():
        raise ValueError("the test part has no labelled clip: hold out speakers with labels (ingest.test_share)")
    everything = Answers(
        task,
        np.arange(len(source)),
        tuple(source.clip_ids),
        tuple(source.speaker_ids),
        annotated_NC.astype(np.float64),
        answers_NC,
        thresholds,
    )
    return everything.only(labelled_N)


def thresholds_on(model: nn.Module, validation: ClipSource, *, task: Task) -> tuple[float, ...]:
    """Multilabel: the probability from which on each label counts as there, chosen on validation clips.

    Raises:
        ValueError: no validation clip has a label.
    """
    if not np.isfinite(validation.labels_NC).any():
        raise ValueError("no labelled validation clips to choose thresholds on: raise ingest.validation_share")
    answers = score(model, validation, task=task)
    return choose_thresholds(answers.present_NC, answers.answers_NC)


def align(answers_NK: NDArray[np.float32], known: Task, wanted: Task) -> NDArray[np.float32]:
    """Answers to the task `known` as answers to the task `wanted` of the same kind, (N, C); labels go by their names.

    A label that `known` does not have is never answered: it has a probability of 0, or the middle of the scale.
    """
    if wanted.kind == "classes":
        return _align_shares(answers_NK, known.labels, wanted.labels)
    nothing = 0.0 if wanted.scale is None else sum(wanted.scale) / 2
    aligned_NC = np.full((len(answers_NK), len(wanted.labels)), nothing, dtype=np.float32)
    for column, label in enumerate(wanted.labels):
        if label in known.labels:
            aligned_NC[:, column] = _rescale(answers_NK[:, known.labels.index(label)], known.scale, wanted.scale)
    return aligned_NC


def by_subset(
    model: nn.Module, source: ClipSource, *, task: Task, thresholds: tuple[float, ...] = ()
) -> dict[str, float]:
    """The headline figure of each subset of the modalities that occur, on the clips that have any of it."""
    metric = HEADLINES[task.kind].metric
    figures = {}
    for name, answers in answers_by_subset(model, source, task=task, thresholds=thresholds).items():
        value = metrics.figure(answers.outcomes, metric)
        # Too few clips for a figure are no figure.
        if np.isfinite(value):
            figures[name] = value
    return figures


def answers_by_subset(
    model: nn.Module, source: ClipSource, *, task: Task, thresholds: tuple[float, ...] = ()
) -> dict[str, Answers]:
    """What a model answers when each subset of the modalities that occur is left to it, as "audio+text"."""
    has_N3 = np.asarray(source.num_steps_N3) > 0
    found = {}
    for subset in _subsets([modality for column, modality in enumerate(MODALITIES) if has_N3[:, column].any()]):
        drop = [modality for modality in MODALITIES if modality not in subset]
        answers = score(model, source, task=task, thresholds=thresholds, drop=drop)
        columns = [MODALITIES.index(modality) for modality in subset]
        has_any_N = np.asarray(has_N3[answers.index_N][:, columns].any(axis=1))
        if has_any_N.any():
            found["+".join(subset)] = answers.only(has_any_N)
    return found


def _names(there_NC: NDArray[np.bool_], labels: Sequence[str]) -> list[str]:
    rows = ([label for label, there in zip(labels, row_C, strict=True) if there] for row_C in there_NC)
    return [", ".join(row) or "none" for row in rows]


def _numbers(values_NC: NDArray[np.floating], labels: Sequence[str]) -> list[str]:
    rows = (zip(labels, row_C, strict=True) for row_C in values_NC)
    return [", ".join(f"{label} {value:.2f}" for label, value in row if np.isfinite(value)) for row in rows]


def _subsets(present: Sequence[Modality]) -> Iterator[tuple[Modality, ...]]:
    for size in range(1, len(present) + 1):
        yield from combinations(present, size)


def _align_shares(
    probabilities_NK: NDArray[np.float32], known: Sequence[str], wanted: Sequence[str]
) -> NDArray[np.float32]:
    """Probabilities of classes: that of a class which is not wanted is shared out among the others."""
    aligned_NC = np.zeros((len(probabilities_NK), len(wanted)), dtype=np.float32)
    shared = [label in known for label in wanted]
    aligned_NC[:, shared] = probabilities_NK[:, [known.index(label) for label in wanted if label in known]]
    total_N1 = aligned_NC.sum(axis=1, keepdims=True)
    even_C = np.asarray(shared, dtype=np.float32) / sum(shared)
    is_known_N1 = total_N1 > _LEAST_TOTAL
    return np.where(is_known_N1, aligned_NC / np.where(is_known_N1, total_N1, 1), even_C)


def _rescale(
    values_N: NDArray[np.float32], known: tuple[float, float] | None, wanted: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Values on one scale as values on another; what has no scale is as it was."""
    if known == wanted or known is None or wanted is None:
        return values_N
    return wanted[0] + (values_N - known[0]) * ((wanted[1] - wanted[0]) / (known[1] - known[0]))
