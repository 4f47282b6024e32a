"""The baseline: ridge regression on statistics of a clip's features, which a few lines of any library give.

`python -m components.ridge` reads `build/features` and writes `build/ridge`, in the form of an evaluation. It learns
from the same share of the labels as the model beside it, of training and of validation speakers: it has no epoch to
choose, so it loses nothing by learning from the latter. Its strength, and the thresholds of several labels, are
chosen by leaving these speakers out in groups.

N clips, K statistics, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from components import evaluate, task
from components.batches import ClipSource, Subset, draw_by_class
from components.metrics_multilabel import choose_thresholds, presence
from components.params import load_params
from components.runs import output_folder
from components.shards import open_split
from components.stage import run_stage
from components.task import Task

BUILD: Final = Path("build")
FOLDER: Final = "ridge"
SUMMARY: Final = "summary.json"

_ALPHAS: Final = tuple(10.0**power for power in range(-1, 6))
_MAX_GROUPS: Final = 10


@dataclass(frozen=True)
class Fitted:
    """A fitted baseline.

    Attributes:
        columns_K: which statistics vary among what it learnt from.
        alpha: the strength that was chosen.
        thresholds: of several labels; else none.
        num_clips: how many it learnt from.
    """

    asked: Task
    pipeline: Pipeline
    columns_K: NDArray[np.bool_]
    vocabulary_size: int
    alpha: float
    thresholds: tuple[float, ...]
    num_clips: int

    def answer(self, source: ClipSource) -> NDArray[np.float32]:
        """One for the class that is named, how present each label is (0 to 1), or values on the scale, (N, C)."""
        statistics_NK = clip_statistics(source, self.vocabulary_size)[:, self.columns_K]
        return _answers(self.pipeline.predict(statistics_NK), self.asked)


def main() -> None:
    params = load_params()
    features = BUILD / "features"
    asked = task.read(features)
    share = params.finetune.label_share
    parts = [
        Subset(source, draw_by_class(source.labels_NC, share, seed=params.seed, task=asked))
        for source in (open_split(features, "train"), open_split(features, "validation"))
    ]
    fitted = fit(parts, asked)
    answers = evaluate.answer_test(fitted.answer, thresholds=fitted.thresholds, build=BUILD)
    with output_folder(BUILD / FOLDER) as folder:
        evaluate.write_answers(folder, answers, build=BUILD)
        summary = {"alpha": fitted.alpha, "num_training_clips": fitted.num_clips}
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def fit(parts: Sequence[ClipSource], asked: Task) -> Fitted:
    """Learn from labelled clips; those of which a label is not known are left out.

    Raises:
        ValueError: there is nothing to tell apart, or only one speaker.
    """
    vocabulary_size = 1 + max((int(ids.max()) for part in parts for ids in _words(part) if len(ids)), default=0)
    labels_NC = np.concatenate([np.asarray(part.labels_NC, dtype=np.float64) for part in parts])
    known_N = np.isfinite(labels_NC).all(axis=1)
    statistics_NK = np.concatenate([clip_statistics(part, vocabulary_size) for part in parts])[known_N]
    speakers = [
        name for name, known in zip((n for part in parts for n in part.speaker_ids), known_N, strict=True) if known
    ]
    targets = _targets(labels_NC[known_N], asked)
    if len(set(speakers)) < 2 or not len(targets) or (targets == targets[0]).all():
        raise ValueError("ridge needs clips of two speakers that differ in their labels: raise the share of the labels")
    columns_K = np.ptp(statistics_NK, axis=0) > 0
    groups = GroupKFold(min(_MAX_GROUPS, len(set(speakers))))
    learner = RidgeClassifier() if asked.kind == "classes" else Ridge()
    alphas = {f"{type(learner).__name__.lower()}__alpha": _ALPHAS}
    search = GridSearchCV(make_pipeline(StandardScaler(), learner), alphas, cv=groups)
    search.fit(statistics_NK[:, columns_K], targets, groups=speakers)
    best: Pipeline = search.best_estimator_
    thresholds: tuple[float, ...] = ()
    if asked.kind == "multilabel":
        unseen_NC = cross_val_predict(best, statistics_NK[:, columns_K], targets, groups=speakers, cv=groups)
        thresholds = choose_thresholds(targets, _answers(unseen_NC, asked))
    chosen: dict[str, Any] = search.best_params_
    alpha = float(next(iter(chosen.values())))
    return Fitted(asked, best, columns_K, vocabulary_size, alpha, thresholds, len(targets))


def clip_statistics(source: ClipSource, vocabulary_size: int) -> NDArray[np.float64]:
    """Mean and deviation of each audio and video feature over a clip, and how often each word is said, (N, K).

    What a clip does not have is zero. Words beyond the vocabulary are left out.
    """
    rows = []
    for index in range(len(source)):
        clip = source.features(index)
        parts: list[NDArray[np.float64]] = []
        for frames_TF in (clip.audio_TF, clip.video_TF):
            wide_TF = frames_TF.astype(np.float64) if len(frames_TF) else np.zeros((1, frames_TF.shape[1]))
            parts += [wide_TF.mean(axis=0), wide_TF.std(axis=0)]
        known = clip.word_ids_T[clip.word_ids_T < vocabulary_size]
        parts.append(np.bincount(known, minlength=vocabulary_size).astype(np.float64))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def _targets(labels_NC: NDArray[np.float64], asked: Task) -> NDArray[np.float64]:
    """What is to be predicted: class numbers (N,), presence (N, C), or values (N, C)."""
    if asked.kind == "classes":
        return np.asarray(labels_NC.argmax(axis=1), dtype=np.float64)
    return presence(labels_NC, asked.threshold) if asked.kind == "multilabel" else labels_NC


def _answers(predicted: NDArray[np.float64], asked: Task) -> NDArray[np.float32]:
    if asked.kind == "classes":
        return np.eye(len(asked.labels), dtype=np.float32)[predicted.astype(np.int64)]
    low, high = asked.scale or (0.0, 1.0)
    return np.clip(predicted.reshape(len(predicted), len(asked.labels)), low, high).astype(np.float32)


def _words(source: ClipSource) -> list[NDArray[np.int32]]:
    return [source.features(index).word_ids_T for index in range(len(source))]


if __name__ == "__main__":
    run_stage(main)
