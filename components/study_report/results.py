"""The figures of a study: what its runs left in their folders, pooled over folds and seeds.

A figure of a condition is computed on the answers of all its runs together, every fold once for each seed, with a
bootstrap over speakers: a speaker of several seeds stays one speaker. Nothing that failed is counted, and everything
that failed is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components import metrics, report, task
from components.drawing import Curve, read_curve
from components.metrics import Interval
from components.report import ClassReport, LabelReport
from components.study import Condition, StudyRun
from components.study_jobs import RIDGE, figures_of
from components.study_records import RunRecord
from components.study_report.kinds import Figure, Scores, pool, read_scores
from components.task import Task

NUM_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Result:
    """What became of one run: `error` is empty when it has figures.

    Attributes:
        evaluation: None for ridge.
        finetuning, pretraining: None where there is none.
    """

    run: StudyRun
    record: RunRecord | None
    error: str
    outcomes: Scores | None = None
    evaluation: ClassReport | LabelReport | None = None
    finetuning: Curve | None = None
    pretraining: Curve | None = None

    @property
    def state(self) -> str:
        if self.record is None:
            return "not run"
        return "failed" if self.error else "done"


@dataclass(frozen=True, eq=False)
class ConditionResult:
    """A condition over its folds and seeds.

    Attributes:
        figures: pooled, with their intervals; empty when no run has any.
        by_fold: each figure in each fold, the mean over seeds.
    """

    condition: Condition
    results: tuple[Result, ...]
    pooled: Scores | None
    figures: Mapping[str, Interval]
    by_fold: Mapping[str, tuple[float, ...]]

    @property
    def done(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.outcomes is not None)

    @property
    def num_failed(self) -> int:
        return len(self.results) - len(self.done)


@dataclass(frozen=True)
class Difference:
    """One learner minus another on the same clips, by figure; `num_pairs` runs of `num_planned` have both."""

    better: Condition
    worse: Condition
    figures: Mapping[str, Interval]
    num_pairs: int
    num_planned: int


def read_results(outcomes: Sequence[tuple[StudyRun, RunRecord | None]]) -> list[Result]:
    """What the runs left, in their order. A run whose files cannot be read has failed, and says why."""
    return [_read(run, record) for run, record in outcomes]


def read_task(results: Sequence[Result]) -> Task | None:
    """What was asked of the clips; None when no run has figures."""
    for result in results:
        if result.record is not None and result.outcomes is not None:
            return task.read(Path(result.record.folder) / "build" / "features")
    return None


def by_condition(results: Sequence[Result], figures: Sequence[Figure]) -> list[ConditionResult]:
    """The conditions in the order of their first run."""
    groups: dict[Condition, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.condition, []).append(result)
    return [_condition(condition, tuple(group), figures) for condition, group in groups.items()]


def difference(better: ConditionResult, worse: ConditionResult, figures: Sequence[Figure]) -> Difference:
    """The paired difference over the folds and seeds that both have, both on the same resampled speakers."""
    of_better, of_worse = (
        {(result.run.fold, result.run.seed): result.outcomes for result in each.done} for each in (better, worse)
    )
    pairs = [key for key in of_better if key in of_worse]
    found = {}
    if pairs:
        first, second = (pool([_known(each[key]) for key in pairs]) for each in (of_better, of_worse))
        drawn = {
            figure.key: metrics.paired_bootstrap(first, second, metric=figure.metric, num_resamples=NUM_RESAMPLES)
            for figure in figures
        }
        found = {key: interval for key, interval in drawn.items() if np.isfinite(interval.value)}
    num_planned = max(len(better.results), len(worse.results))
    return Difference(better.condition, worse.condition, found, len(pairs), num_planned)


def intervals(scores: Scores, figures: Sequence[Figure]) -> dict[str, Interval]:
    """Figures with their intervals over speakers; one that the clips do not allow is left out."""
    drawn = metrics.resample(scores, num_resamples=NUM_RESAMPLES)
    found = {figure.key: drawn.interval(figure.metric) for figure in figures}
    return {key: interval for key, interval in found.items() if np.isfinite(interval.value)}


def _known(outcomes: Scores | None) -> Scores:
    assert outcomes is not None
    return outcomes


def _condition(condition: Condition, results: tuple[Result, ...], figures: Sequence[Figure]) -> ConditionResult:
    done = [result for result in results if result.outcomes is not None]
    if not done:
        return ConditionResult(condition, results, None, {}, {})
    pooled = pool([_known(result.outcomes) for result in done])
    folds: dict[int | None, list[Scores]] = {}
    for result in done:
        folds.setdefault(result.run.fold, []).append(_known(result.outcomes))
    by_fold = {
        figure.key: tuple(
            float(np.mean([metrics.figure(part, figure.metric) for part in parts])) for parts in folds.values()
        )
        for figure in figures
    }
    return ConditionResult(condition, results, pooled, intervals(pooled, figures), by_fold)


def _read(run: StudyRun, record: RunRecord | None) -> Result:
    if record is None:
        return Result(run, None, "it has not ended")
    if record.state == "failed":
        return Result(run, record, record.error)
    build = Path(record.folder) / "build"
    try:
        scores = read_scores(figures_of(run, Path(record.folder)).parent, task.read(build / "features"))
        if run.condition.learner == RIDGE:
            return Result(run, record, "", scores)
        evaluation = report.read(build / "evaluation" / report.FILE)
        curves = (read_curve(build / stage / "losses.csv") for stage in ("finetune", "pretrain"))
        return Result(run, record, "", scores, evaluation, *curves)
    except (ValueError, OSError) as error:
        return Result(run, record, f"its files cannot be read: {error}")
