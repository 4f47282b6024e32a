"""All figures of a model on speakers that it has not met: one report a kind of task.

N clips, C classes, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from components import datasets, metrics, metrics_by_label, metrics_calibration, metrics_multilabel, metrics_regression
from components.metrics import Interval, Metric, Scored
from components.metrics_by_label import LabelMetric
from components.metrics_calibration import Calibration
from components.metrics_multilabel import LabelOutcomes
from components.metrics_regression import ValueOutcomes
from components.report import HEADLINES, ClassReport, LabelReport, SelectedOn
from components.scoring import Answers


@dataclass(frozen=True)
class Origin:
    """How the figures came about: the corpus, and the part whose figures chose the epoch."""

    dataset: str
    selected_on: SelectedOn = "validation"

    @property
    def is_synthetic(self) -> bool:
        return isinstance(datasets.load(self.dataset), datasets.GeneratedModule)


def measure(
    answers: Answers, subsets: Mapping[str, float], *, origin: Origin, num_resamples: int
) -> ClassReport | LabelReport:
    """The report of a model whose answers are known, and its headline figures by what was left to it.

    Raises:
        ValueError: the clips allow no headline figure, as when no label is ever there.
    """
    if answers.task.kind == "classes":
        return _of_classes(answers, subsets, origin, num_resamples)
    return _of_labels(answers, subsets, origin, num_resamples)


def _of_classes(answers: Answers, subsets: Mapping[str, float], origin: Origin, num_resamples: int) -> ClassReport:
    outcomes = answers.class_outcomes
    macro_f1, ua, wa = (
        metrics.bootstrap_by_speaker(outcomes, metric=metric, num_resamples=num_resamples)
        for metric in (metrics.macro_f1_of, metrics.unweighted_accuracy_of, metrics.weighted_accuracy_of)
    )
    actual_N, num_classes = outcomes.actual_N, outcomes.num_classes
    majority_N = np.full_like(actual_N, np.bincount(actual_N).argmax())
    per_class_f1_C = metrics.per_class_f1(actual_N, outcomes.predicted_N, num_classes)
    return ClassReport(
        dataset=origin.dataset,
        synthetic=origin.is_synthetic,
        selected_on=origin.selected_on,
        task=answers.task.name,
        label_source=answers.task.source,
        num_clips=len(actual_N),
        num_speakers=outcomes.num_speakers,
        macro_f1=macro_f1,
        ua=ua,
        wa=wa,
        per_class_f1=dict(zip(answers.labels, per_class_f1_C.tolist(), strict=True)),
        calibration_error=metrics_calibration.expected_calibration_error(actual_N, answers.answers_NC),
        majority_macro_f1=metrics.macro_f1(actual_N, majority_N, num_classes),
        majority_wa=metrics.weighted_accuracy(actual_N, majority_N, num_classes),
        subsets=subsets,
    )


def _of_labels(answers: Answers, subsets: Mapping[str, float], origin: Origin, num_resamples: int) -> LabelReport:
    task = answers.task
    if task.kind == "multilabel":
        figures, by_label, constant = _label_figures(answers, num_resamples)
    else:
        figures, by_label, constant = _value_figures(answers, num_resamples)
    headline = HEADLINES[task.kind]
    if headline.name not in figures:
        raise ValueError(
            f"the test part allows no {headline.words}: each of {', '.join(task.labels)} is annotated the same "
            "throughout; hold out more speakers (ingest.test_share)"
        )
    return LabelReport(
        kind="multilabel" if task.kind == "multilabel" else "values",
        dataset=origin.dataset,
        synthetic=origin.is_synthetic,
        selected_on=origin.selected_on,
        task=task.name,
        label_source=task.source,
        num_clips=len(answers.clip_ids),
        num_speakers=len(set(answers.speaker_ids)),
        headline=headline.name,
        figures={headline.name: figures[headline.name], **figures},
        by_label=by_label,
        constant=constant,
        thresholds=dict(zip(task.labels, answers.thresholds, strict=True)) if answers.thresholds else None,
        scale=task.scale,
        subsets=subsets,
    )


_Figures = tuple[dict[str, Interval], dict[str, dict[str, Interval]], dict[str, float]]


def _label_figures(answers: Answers, num_resamples: int) -> _Figures:
    outcomes = answers.outcomes
    assert isinstance(outcomes, LabelOutcomes)
    known = metrics_multilabel.BY_LABEL
    figures, by_label = _by_label(answers, outcomes, known, num_resamples)
    drawn = metrics.resample(outcomes, num_resamples=num_resamples)
    figures["micro_f1"] = drawn.interval(metrics_multilabel.micro_f1_of)
    if (whole := outcomes.whole_sets) is not None:
        figures["subset_accuracy"] = metrics.bootstrap_by_speaker(
            whole, metric=metrics.weighted_accuracy_of, num_resamples=num_resamples
        )
    calibration = Calibration(answers.answers_NC, answers.present_NC, answers.speaker_ids)
    errors = {"calibration_error": metrics_calibration.calibration_error_of}
    mean_error, error_by_label = _by_label(answers, calibration, errors, num_resamples)
    majority_L = metrics_by_label.mean_over_labels(outcomes.actual.T) > 0.5
    always = LabelOutcomes(outcomes.actual, np.tile(majority_L, (len(outcomes.actual), 1)), outcomes.speaker_ids)
    return (
        {**figures, **mean_error},
        {label: {**found, **error_by_label[label]} for label, found in by_label.items()},
        _constant(always, known),
    )


def _value_figures(answers: Answers, num_resamples: int) -> _Figures:
    outcomes = answers.outcomes
    assert isinstance(outcomes, ValueOutcomes)
    assert answers.task.scale is not None
    known = metrics_regression.by_label(answers.task.scale)
    figures, by_label = _by_label(answers, outcomes, known, num_resamples)
    means_L = np.nan_to_num(metrics_by_label.mean_over_labels(outcomes.actual.T))
    always = ValueOutcomes(outcomes.actual, np.tile(means_L, (len(outcomes.actual), 1)), outcomes.speaker_ids)
    return figures, by_label, _constant(always, known)


def _by_label(
    answers: Answers, outcomes: Scored, known: Mapping[str, LabelMetric], num_resamples: int
) -> tuple[dict[str, Interval], dict[str, dict[str, Interval]]]:
    return metrics_by_label.intervals(metrics.resample(outcomes, num_resamples=num_resamples), known, answers.labels)


def _constant(outcomes: Scored, known: Mapping[str, Metric]) -> dict[str, float]:
    """The means over labels of answers that are the same for every clip."""
    found = {
        f"mean_{name}": metrics.figure(outcomes, metrics_by_label.mean_of(metric)) for name, metric in known.items()
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}
