"""Figures of several labels against the formulas written out clip by clip, and scikit-learn where it has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from components import metrics, metrics_by_label
from components import metrics_multilabel as multilabel
from components.metrics_multilabel import LabelOutcomes

# Per clip and label: annotated (1, 0 or unknown) and answered.
pairs = st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.booleans())
tables = st.integers(1, 4).flatmap(
    lambda num_labels: st.lists(st.lists(pairs, min_size=num_labels, max_size=num_labels), min_size=1, max_size=30)
)


def outcomes_of(table: list[list[tuple[float, bool]]], *, num_speakers: int = 4) -> LabelOutcomes:
    actual_NL = np.array([[actual for actual, _ in row] for row in table])
    predicted_NL = np.array([[predicted for _, predicted in row] for row in table])
    return LabelOutcomes(actual_NL, predicted_NL, [f"s{n % num_speakers}" for n in range(len(table))])


def column(table: list[list[tuple[float, bool]]], label: int) -> list[tuple[int, int]]:
    return [(int(row[label][0]), int(row[label][1])) for row in table if not math.isnan(row[label][0])]


def loop_counts(known: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    hits = [sum(1 for pair in known if pair == cell) for cell in ((1, 1), (0, 0), (0, 1), (1, 0))]
    return hits[0], hits[1], hits[2], hits[3]


def loop_f1(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fn else math.nan


def loop_figures(known: list[tuple[int, int]]) -> dict[str, float]:
    tp, tn, fp, fn = loop_counts(known)
    positives, negatives = tp + fn, tn + fp
    f1s = [loop_f1(tp, fp, fn), loop_f1(tn, fn, fp)]
    there = [f1 for f1 in f1s if not math.isnan(f1)]
    weights = list(zip(f1s, (positives, negatives), strict=True))
    num = positives + negatives
    return {
        "weighted_accuracy": (tp * negatives / positives + tn) / (2 * negatives)
        if positives and negatives
        else math.nan,
        "weighted_f1": sum(f1 * n for f1, n in weights if n) / num if num else math.nan,
        "positive_f1": f1s[0],
        "macro_f1": sum(there) / len(there) if there else math.nan,
        "accuracy": (tp + tn) / num if num else math.nan,
    }


@given(tables)
@settings(max_examples=80)
def test_every_figure_of_every_label_equals_its_formula(table: list[list[tuple[float, bool]]]) -> None:
    outcomes = outcomes_of(table)
    for label in range(outcomes.actual.shape[1]):
        expected = loop_figures(column(table, label))
        assert set(expected) == set(multilabel.BY_LABEL)
        for name, metric in multilabel.BY_LABEL.items():
            found = metrics.figure(outcomes, metrics_by_label.of_label(metric, label))
            assert found == pytest.approx(expected[name], nan_ok=True), name


@given(tables)
@settings(max_examples=40)
def test_means_leave_out_labels_without_the_figure(table: list[list[tuple[float, bool]]]) -> None:
    outcomes = outcomes_of(table)
    each = [loop_figures(column(table, label))["weighted_accuracy"] for label in range(outcomes.actual.shape[1])]
    known = [value for value in each if not math.isnan(value)]
    found = multilabel.mean_weighted_accuracy(outcomes.actual, outcomes.predicted_NL)
    assert found == pytest.approx(sum(known) / len(known) if known else math.nan, nan_ok=True)


@given(tables)
@settings(max_examples=40)
def test_figures_over_all_labels_equal_their_loops(table: list[list[tuple[float, bool]]]) -> None:
    outcomes = outcomes_of(table)
    everything = [pair for label in range(outcomes.actual.shape[1]) for pair in column(table, label)]
    tp, _, fp, fn = loop_counts(everything)
    assert metrics.figure(outcomes, multilabel.micro_f1_of) == pytest.approx(loop_f1(tp, fp, fn), nan_ok=True)
    complete = [row for row in table if not any(math.isnan(actual) for actual, _ in row)]
    if not complete:
        assert outcomes.whole_sets is None
        return
    right = sum(all(bool(actual) == predicted for actual, predicted in row) for row in complete)
    assert outcomes.whole_sets is not None
    found = metrics.figure(outcomes.whole_sets, metrics.weighted_accuracy_of)
    assert found == pytest.approx(right / len(complete))


def drawn(num_clips: int, num_labels: int, *, seed: int, skill: float = 0.6, num_speakers: int = 8) -> LabelOutcomes:
    generator = np.random.default_rng(seed)
    actual_NL = (generator.random((num_clips, num_labels)) < 0.4).astype(float)
    guess_NL = generator.random((num_clips, num_labels)) < 0.5
    predicted_NL = np.where(generator.random((num_clips, num_labels)) < skill, actual_NL == 1, guess_NL)
    return LabelOutcomes(actual_NL, predicted_NL, [f"s{n}" for n in generator.integers(0, num_speakers, num_clips)])


def test_figures_equal_scikit_learn() -> None:
    outcomes = drawn(120, 3, seed=1)
    for label in range(3):
        actual_N, predicted_N = outcomes.actual[:, label].astype(int), outcomes.predicted_NL[:, label].astype(int)

        def found(name: str, number: int = label) -> float:
            return metrics.figure(outcomes, metrics_by_label.of_label(multilabel.BY_LABEL[name], number))

        assert found("weighted_accuracy") == pytest.approx(reference.balanced_accuracy_score(actual_N, predicted_N))
        for name, average in (("weighted_f1", "weighted"), ("macro_f1", "macro"), ("positive_f1", "binary")):
            assert found(name) == pytest.approx(reference.f1_score(actual_N, predicted_N, average=average)), name
    actual_NL, predicted_NL = outcomes.actual.astype(int), outcomes.predicted_NL.astype(int)
    micro = reference.f1_score(actual_NL, predicted_NL, average="micro")
    assert metrics.figure(outcomes, multilabel.micro_f1_of) == pytest.approx(micro)
    assert outcomes.whole_sets is not None
    subset = reference.accuracy_score(actual_NL, predicted_NL)
    assert metrics.figure(outcomes.whole_sets, metrics.weighted_accuracy_of) == pytest.approx(subset)


@pytest.mark.parametrize("always", [True, False])
def test_weighted_accuracy_of_a_constant_predictor_is_one_half(always: bool) -> None:
    actual_NL = drawn(50, 4, seed=2).actual
    constant = LabelOutcomes(actual_NL, np.full(actual_NL.shape, always), ["s"] * 50)
    for label in range(4):
        metric = metrics_by_label.of_label(multilabel.weighted_accuracy_of, label)
        assert metrics.figure(constant, metric) == 0.5
    assert multilabel.mean_weighted_accuracy(actual_NL, constant.predicted_NL) == 0.5


def test_the_bootstrap_equals_a_loop_over_speakers() -> None:
    outcomes = drawn(90, 2, seed=3, num_speakers=6)
    interval = metrics.bootstrap_by_speaker(
        outcomes, metric=multilabel.mean_weighted_accuracy_of, num_resamples=150, seed=5
    )
    speakers = sorted(set(outcomes.speaker_ids))
    clips_of = {s: [i for i, name in enumerate(outcomes.speaker_ids) if name == s] for s in speakers}
    counts_RS = np.random.default_rng(5).multinomial(len(speakers), [1 / len(speakers)] * len(speakers), size=150)
    scores = []
    for counts_S in counts_RS:
        chosen = [i for s, count in zip(speakers, counts_S, strict=True) for _ in range(count) for i in clips_of[s]]
        scores.append(multilabel.mean_weighted_accuracy(outcomes.actual[chosen], outcomes.predicted_NL[chosen]))
    assert interval.low == pytest.approx(np.percentile(scores, 2.5))
    assert interval.high == pytest.approx(np.percentile(scores, 97.5))


def test_resamples_without_the_figure_are_left_out() -> None:
    # Of ten speakers one alone has the label: in about a third of the resamples nobody has it.
    actual_NL = np.zeros((20, 1))
    actual_NL[0] = 1
    outcomes = LabelOutcomes(actual_NL, actual_NL == 1, [f"s{n // 2}" for n in range(20)])
    interval = metrics.bootstrap_by_speaker(outcomes, metric=multilabel.mean_weighted_accuracy_of, num_resamples=200)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_systems_are_compared_on_the_same_speakers() -> None:
    champion = drawn(200, 3, seed=4, num_speakers=12)
    predicted_NL = champion.predicted_NL.copy()
    predicted_NL[:60] = champion.actual[:60] == 1
    candidate = LabelOutcomes(champion.actual, predicted_NL, champion.speaker_ids)
    metric = multilabel.mean_weighted_accuracy_of
    gain = metrics.paired_bootstrap(candidate, champion, metric=metric)
    assert gain.value == pytest.approx(metrics.figure(candidate, metric) - metrics.figure(champion, metric))
    assert gain.low > 0
    own = metrics.bootstrap_by_speaker(champion, metric=metric)
    assert gain.high - gain.low < own.high - own.low
    unknown_NL = champion.actual.copy()
    unknown_NL[0, 0] = np.nan
    other = LabelOutcomes(unknown_NL, champion.predicted_NL, champion.speaker_ids)
    assert metrics.paired_bootstrap(other, other, metric=metric).value == 0
    with pytest.raises(ValueError, match="different clips"):
        metrics.paired_bootstrap(other, champion, metric=metric)


def loop_best_accuracy(actual: list[float], probabilities: list[float]) -> float:
    """The best weighted accuracy that any threshold reaches: one above, between and below all probabilities."""
    best = 0.0
    for threshold in [*sorted(set(probabilities)), 2.0]:
        known = [(int(a), int(p >= threshold)) for a, p in zip(actual, probabilities, strict=True)]
        best = max(best, loop_figures(known)["weighted_accuracy"])
    return best


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=40))
@settings(max_examples=80)
def test_a_threshold_is_the_best_there_is(clips: list[tuple[int, int]]) -> None:
    actual_N1 = np.array([[float(actual)] for actual, _ in clips])
    probabilities_N1 = np.array([[number / 20] for _, number in clips])
    [threshold] = multilabel.choose_thresholds(actual_N1, probabilities_N1)
    if len({actual for actual, _ in clips}) == 1:
        assert threshold == 0.5
        return
    found = multilabel.mean_weighted_accuracy(actual_N1, probabilities_N1 >= threshold)
    assert found == pytest.approx(loop_best_accuracy(actual_N1[:, 0].tolist(), probabilities_N1[:, 0].tolist()))
    half = multilabel.mean_weighted_accuracy(actual_N1, probabilities_N1 >= 0.5)
    if half == pytest.approx(found):
        assert threshold == 0.5


def test_unknown_labels_have_no_say_in_the_threshold() -> None:
    probabilities_NL = np.array([[0.1], [0.2], [0.3], [0.9]])
    [threshold] = multilabel.choose_thresholds(np.array([[0.0], [1.0], [1.0], [np.nan]]), probabilities_NL)
    assert threshold == pytest.approx(0.15)


def test_presence_is_over_the_threshold_and_unknown_stays_unknown() -> None:
    values_NL: NDArray[np.float64] = np.array([[0.0, 0.5, 3.0, np.nan]])
    np.testing.assert_array_equal(multilabel.presence(values_NL, 0.0), [[0, 1, 1, np.nan]])
    np.testing.assert_array_equal(multilabel.presence(values_NL, 0.5), [[0, 0, 1, np.nan]])


def test_impossible_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="no clip"):
        LabelOutcomes(np.zeros((0, 2)), np.zeros((0, 2), bool), [])
    with pytest.raises(ValueError, match="give one a clip and label"):
        LabelOutcomes(np.zeros((2, 2)), np.zeros((2, 3), bool), ["a", "b"])
    with pytest.raises(ValueError, match="give one a clip and label"):
        LabelOutcomes(np.zeros((2, 2)), np.zeros((2, 2), bool), ["a"])
