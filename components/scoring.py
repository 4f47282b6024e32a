"""Scoring a model on clips: its answers, and all figures that they give.

N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from components import datasets, metrics, training
from components.batches import ClipSource
from components.clip import MODALITIES, Modality
from components.metrics import Outcomes
from components.report import Report

_BATCH_SIZE = 32

# Below this a system says nothing about the labels that are asked for, and float32 can no longer divide by it.
_LEAST_TOTAL = 1e-30


@dataclass(frozen=True, eq=False)
class Answers:
    """What a system answered on the labelled clips of a source.

    Attributes:
        index_N: position of each clip in the source.
        actual_N: class with the largest share among the clip's labels.
        probabilities_NC: in the order of `labels`.
    """

    labels: tuple[str, ...]
    index_N: NDArray[np.int64]
    clip_ids: tuple[str, ...]
    speaker_ids: tuple[str, ...]
    actual_N: NDArray[np.int64]
    probabilities_NC: NDArray[np.float32]

    @property
    def outcomes(self) -> Outcomes:
        return Outcomes(self.actual_N, self.probabilities_NC.argmax(axis=1), self.speaker_ids, len(self.labels))

    def only(self, kept_N: NDArray[np.bool_]) -> Answers:
        """The answers on some of the clips."""
        return Answers(
            self.labels,
            self.index_N[kept_N],
            tuple(name for name, kept in zip(self.clip_ids, kept_N, strict=True) if kept),
            tuple(name for name, kept in zip(self.speaker_ids, kept_N, strict=True) if kept),
            self.actual_N[kept_N],
            self.probabilities_NC[kept_N],
        )


def score(model: nn.Module, source: ClipSource, *, labels: tuple[str, ...], drop: Sequence[Modality] = ()) -> Answers:
    """Let a model answer the labelled clips of a source, without the modalities in `drop`.

    Raises:
        ValueError: no clip has a label, or the labels' number is not the source's.
    """
    probabilities_NC = training.predict(model, source, batch_size=_BATCH_SIZE, drop=drop)
    return answers_of(source, probabilities_NC, labels)


def answers_of(source: ClipSource, probabilities_NC: NDArray[np.float32], labels: tuple[str, ...]) -> Answers:
    """A system's probabilities for all clips of a source, as answers on those that have labels.

    Raises:
        ValueError: no clip has a label, or their number is not that of `labels`.
    """
    shares_NC = np.asarray(source.labels_NC)
    if shares_NC.shape[1] not in (0, len(labels)):
        raise ValueError(f"the clips have {shares_NC.shape[1]} labels, the model {len(labels)}: run `dvc repro` again")
    labelled_N = np.asarray(np.isfinite(shares_NC).all(axis=1) & (shares_NC.shape[1] > 0))
    if not labelled_N.any():
        raise ValueError("the test part has no labelled clip: hold out speakers with labels (ingest.test_share)")
    everything = Answers(
        labels,
        np.arange(len(source)),
        tuple(source.clip_ids),
        tuple(source.speaker_ids),
        np.nan_to_num(shares_NC).argmax(axis=1).astype(np.int64),
        probabilities_NC,
    )
    return everything.only(labelled_N)


def measure(answers: Answers, model: nn.Module, source: ClipSource, *, dataset: str, num_resamples: int) -> Report:
    """All figures of a model, whose answers on `source` are known, on speakers that it has not met."""
    outcomes, labels = answers.outcomes, answers.labels
    macro_f1, ua, wa = (
        metrics.bootstrap_by_speaker(outcomes, metric=metric, num_resamples=num_resamples)
        for metric in (metrics.macro_f1_of, metrics.unweighted_accuracy_of, metrics.weighted_accuracy_of)
    )
    actual_N, num_classes = outcomes.actual_N, outcomes.num_classes
    majority_N = np.full_like(actual_N, np.bincount(actual_N).argmax())
    per_class_f1_C = metrics.per_class_f1(actual_N, outcomes.predicted_N, num_classes)
    return Report(
        dataset=dataset,
        synthetic=isinstance(datasets.load(dataset), datasets.GeneratedModule),
        num_clips=len(actual_N),
        num_speakers=outcomes.num_speakers,
        macro_f1=macro_f1,
        ua=ua,
        wa=wa,
        per_class_f1=dict(zip(labels, per_class_f1_C.tolist(), strict=True)),
        calibration_error=metrics.expected_calibration_error(actual_N, answers.probabilities_NC),
        majority_macro_f1=metrics.macro_f1(actual_N, majority_N, num_classes),
        majority_wa=metrics.weighted_accuracy(actual_N, majority_N, num_classes),
        subsets=_subsets(model, source, labels),
    )


def align(probabilities_NK: NDArray[np.float32], known: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float32]:
    """Probabilities of the labels `known` as probabilities of the labels `wanted`, (N, C)."""
    aligned_NC = np.zeros((len(probabilities_NK), len(wanted)), dtype=np.float32)
    shared = [label in known for label in wanted]
    aligned_NC[:, shared] = probabilities_NK[:, [known.index(label) for label in wanted if label in known]]
    total_N1 = aligned_NC.sum(axis=1, keepdims=True)
    even_C = np.asarray(shared, dtype=np.float32) / sum(shared)
    is_known_N1 = total_N1 > _LEAST_TOTAL
    return np.where(is_known_N1, aligned_NC / np.where(is_known_N1, total_N1, 1), even_C)


def _subsets(model: nn.Module, source: ClipSource, labels: tuple[str, ...]) -> dict[str, float]:
    """Macro-F1 of each subset of the modalities that occur, on the clips that have any of it."""
    has_N3 = np.asarray(source.num_steps_N3) > 0
    present = [modality for column, modality in enumerate(MODALITIES) if has_N3[:, column].any()]
    figures = {}
    for size in range(1, len(present) + 1):
        for subset in combinations(present, size):
            drop = [modality for modality in MODALITIES if modality not in subset]
            answers = score(model, source, labels=labels, drop=drop)
            columns = [MODALITIES.index(modality) for modality in subset]
            has_any_N = np.asarray(has_N3[answers.index_N][:, columns].any(axis=1))
            if has_any_N.any():
                kept = answers.only(has_any_N).outcomes
                figures["+".join(subset)] = metrics.macro_f1(kept.actual_N, kept.predicted_N, len(labels))
    return figures
