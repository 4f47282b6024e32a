"""The stored answers of a run's evaluation, read without PyTorch: a report is made in a second.

N clips, C labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import clip_table, metrics_calibration, task
from components.gates.slices import groups_of
from components.metrics import Outcomes, Scored
from components.metrics_calibration import Calibration
from components.metrics_multilabel import LabelOutcomes, presence
from components.metrics_regression import ValueOutcomes
from components.task import Task

_PREDICTIONS = "predictions.parquet"
_THRESHOLDS = "thresholds.json"


@dataclass(frozen=True, eq=False)
class StoredAnswers:
    """What an evaluation stored.

    Attributes:
        actual: (N,) numbers of classes, or (N, C) what was annotated.
        answers_NC: probabilities, or values on the task's scale.
    """

    task: Task
    clip_ids: tuple[str, ...]
    speaker_ids: tuple[str, ...]
    actual: NDArray[np.int64] | NDArray[np.float64]
    answers_NC: NDArray[np.float64]
    thresholds: tuple[float, ...] = ()

    def outcomes(self, kept_N: NDArray[np.bool_] | None = None) -> Scored:
        """All answers, or some, as figures are computed on them."""
        kept_N = np.ones(len(self.clip_ids), dtype=bool) if kept_N is None else kept_N
        speakers = [speaker for speaker, is_kept in zip(self.speaker_ids, kept_N, strict=True) if is_kept]
        actual, answers_NC = self.actual[kept_N], self.answers_NC[kept_N]
        if self.task.kind == "classes":
            return Outcomes(actual.astype(np.int64), answers_NC.argmax(axis=1), speakers, len(self.task.labels))
        annotated_NC = actual.astype(np.float64)
        if self.task.kind == "multilabel":
            return LabelOutcomes(presence(annotated_NC, self.task.threshold), answers_NC >= self.thresholds, speakers)
        return ValueOutcomes(annotated_NC, answers_NC, speakers)

    def calibration(self) -> Calibration | None:
        """Probabilities and what came of them; None where the task has no probabilities."""
        if self.task.kind == "classes":
            return metrics_calibration.of_classes(self.actual.astype(np.int64), self.answers_NC, self.speaker_ids)
        if self.task.kind == "multilabel":
            present_NC = presence(self.actual.astype(np.float64), self.task.threshold)
            return Calibration(self.answers_NC, present_NC, self.speaker_ids)
        return None


def read(build: Path) -> StoredAnswers:
    """The answers below `build`.

    Raises:
        FileNotFoundError: the evaluation has not run.
        ValueError: a file of it is damaged.
    """
    asked, folder = task.read(build / "features"), build / "evaluation"
    table = pq.read_table(folder / _PREDICTIONS)
    thresholds: tuple[float, ...] = ()
    actual: NDArray[np.int64] | NDArray[np.float64]
    if asked.kind == "classes":
        actual = np.array([asked.labels.index(label) for label in table["actual"].to_pylist()], dtype=np.int64)
        answers = table["probabilities"]
    else:
        actual, answers = np.array(table["annotated"].to_pylist(), dtype=np.float64), table["answers"]
    if asked.kind == "multilabel":
        known = json.loads((folder / _THRESHOLDS).read_text(encoding="utf-8"))
        thresholds = tuple(float(known[label]) for label in asked.labels)
    return StoredAnswers(
        asked,
        tuple(table["clip_id"].to_pylist()),
        tuple(table["speaker_id"].to_pylist()),
        actual,
        np.array(answers.to_pylist(), dtype=np.float64),
        thresholds,
    )


def groups(answers: StoredAnswers, build: Path, *, min_clips: int) -> dict[str, NDArray[np.bool_]]:
    """Which of the answered clips are in which group of speakers or recordings, as the gates divide them."""
    rows = {row["clip_id"]: row for row in clip_table.read_clips(build / "clips", split="test").to_pylist()}
    return groups_of([rows[name] for name in answers.clip_ids], min_clips=min_clips)
