"""Metrics against scikit-learn and against slow, obvious loops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from components import metrics
from components.metrics import Interval, Outcomes
from components.metrics_calibration import expected_calibration_error

NUM_CLASSES = 4


def drawn(num_clips: int, *, seed: int, skill: float = 0.5, num_speakers: int = 6) -> Outcomes:
    """Answers that are right with the chance `skill`, else drawn."""
    generator = np.random.default_rng(seed)
    actual_N = generator.integers(0, NUM_CLASSES, num_clips)
    guess_N = generator.integers(0, NUM_CLASSES, num_clips)
    predicted_N = np.where(generator.random(num_clips) < skill, actual_N, guess_N)
    speakers = [f"speaker-{number}" for number in generator.integers(0, num_speakers, num_clips)]
    return Outcomes(actual_N, predicted_N, speakers, NUM_CLASSES)


def loop_macro_f1(actual: list[int], predicted: list[int]) -> float:
    scores = []
    for label in sorted(set(actual)):
        pairs = list(zip(actual, predicted, strict=True))
        hits = sum(1 for pair in pairs if pair == (label, label))
        num_actual = sum(1 for a, _ in pairs if a == label)
        num_predicted = sum(1 for _, p in pairs if p == label)
        scores.append(2 * hits / (num_actual + num_predicted))
    return sum(scores) / len(scores)


classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(classes)
@settings(max_examples=80)
def test_figures_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    actual_N, predicted_N = (np.array(column) for column in zip(*pairs, strict=True))
    present = np.unique(actual_N)
    f1 = reference.f1_score(actual_N, predicted_N, labels=present, average="macro", zero_division=0)
    recall = reference.recall_score(actual_N, predicted_N, labels=present, average="macro", zero_division=0)
    per_class = reference.f1_score(actual_N, predicted_N, labels=range(4), average=None, zero_division=0)

    assert metrics.macro_f1(actual_N, predicted_N, 4) == pytest.approx(f1)
    assert metrics.macro_f1(actual_N, predicted_N, 4) == pytest.approx(
        loop_macro_f1(actual_N.tolist(), predicted_N.tolist())
    )
    assert metrics.unweighted_accuracy(actual_N, predicted_N, 4) == pytest.approx(recall)
    assert metrics.weighted_accuracy(actual_N, predicted_N, 4) == pytest.approx(np.mean(actual_N == predicted_N))
    assert metrics.per_class_f1(actual_N, predicted_N, 4) == pytest.approx(per_class)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(actual_N, predicted_N, 4),
        reference.confusion_matrix(actual_N, predicted_N, labels=range(4)),
    )


def test_a_class_nobody_has_is_left_out() -> None:
    actual_N, predicted_N = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    assert metrics.macro_f1(actual_N, predicted_N, 3) == pytest.approx((1.0 + 2 / 3) / 2)


def loop_calibration(actual_N: NDArray[np.int64], probabilities_NC: NDArray[np.float64], num_bins: int) -> float:
    error = 0.0
    for number in range(num_bins):
        low, high = number / num_bins, (number + 1) / num_bins
        inside = [i for i, row in enumerate(probabilities_NC) if low < row.max() <= high]
        if inside:
            confidence = sum(probabilities_NC[i].max() for i in inside) / len(inside)
            accuracy = sum(probabilities_NC[i].argmax() == actual_N[i] for i in inside) / len(inside)
            error += len(inside) / len(actual_N) * abs(accuracy - confidence)
    return error


def test_calibration_error_equals_a_loop() -> None:
    generator = np.random.default_rng(3)
    probabilities_NC = generator.dirichlet(np.full(NUM_CLASSES, 0.4), size=200)
    actual_N = generator.integers(0, NUM_CLASSES, 200)
    expected = loop_calibration(actual_N, probabilities_NC, 10)
    assert expected_calibration_error(actual_N, probabilities_NC, num_bins=10) == pytest.approx(expected)


def test_calibration_error_of_certain_and_right_answers_is_zero() -> None:
    assert expected_calibration_error(np.array([0, 1]), np.eye(2)) == 0.0


def test_bootstrap_equals_a_loop_over_speakers() -> None:
    outcomes = drawn(90, seed=1)
    interval = metrics.bootstrap_by_speaker(outcomes, num_resamples=200, seed=5)

    speakers = sorted(set(outcomes.speaker_ids))
    clips_of = {s: [i for i, name in enumerate(outcomes.speaker_ids) if name == s] for s in speakers}
    counts_RS = np.random.default_rng(5).multinomial(len(speakers), [1 / len(speakers)] * len(speakers), size=200)
    scores = []
    for counts_S in counts_RS:
        chosen = [i for s, count in zip(speakers, counts_S, strict=True) for _ in range(count) for i in clips_of[s]]
        scores.append(loop_macro_f1(outcomes.actual_N[chosen].tolist(), outcomes.predicted_N[chosen].tolist()))
    assert interval.low == pytest.approx(np.percentile(scores, 2.5))
    assert interval.high == pytest.approx(np.percentile(scores, 97.5))
    assert interval.value == pytest.approx(loop_macro_f1(outcomes.actual_N.tolist(), outcomes.predicted_N.tolist()))


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 8))
@settings(max_examples=50)
def test_intervals_are_ordered_and_in_range(seed: int, num_clips: int, num_speakers: int) -> None:
    outcomes = drawn(num_clips, seed=seed, num_speakers=num_speakers)
    for metric in (metrics.macro_f1_of, metrics.unweighted_accuracy_of, metrics.weighted_accuracy_of):
        interval = metrics.bootstrap_by_speaker(outcomes, metric=metric, num_resamples=100)
        assert 0 <= interval.low <= interval.high <= 1
        assert 0 <= interval.value <= 1


def test_the_same_seed_gives_the_same_interval_whatever_the_order_of_clips() -> None:
    outcomes = drawn(120, seed=2)
    order_N = np.random.default_rng(0).permutation(120)
    shuffled = Outcomes(
        outcomes.actual_N[order_N],
        outcomes.predicted_N[order_N],
        [outcomes.speaker_ids[i] for i in order_N],
        NUM_CLASSES,
    )
    assert metrics.bootstrap_by_speaker(outcomes) == metrics.bootstrap_by_speaker(shuffled)


def test_speakers_that_differ_widen_the_interval_beyond_that_of_clips() -> None:
    # Half of the speakers are always right, half always wrong: clips say "50 % of 400", speakers say "5 of 10".
    actual_N = np.zeros(400, dtype=np.int64)
    predicted_N = np.repeat([0, 1], 200)
    speakers = [f"s{i // 40}" for i in range(400)]
    by_speaker = metrics.bootstrap_by_speaker(
        Outcomes(actual_N, predicted_N, speakers, 2), metric=metrics.weighted_accuracy_of
    )
    by_clip = metrics.bootstrap_by_speaker(
        Outcomes(actual_N, predicted_N, [str(i) for i in range(400)], 2), metric=metrics.weighted_accuracy_of
    )
    assert by_speaker.high - by_speaker.low > 4 * (by_clip.high - by_clip.low)


def test_one_speaker_resamples_clips() -> None:
    interval = metrics.bootstrap_by_speaker(drawn(60, seed=4, num_speakers=1))
    assert interval.low < interval.value < interval.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 30 speakers whose accuracies vary around 0.6; coverage of a percentile interval of 30 draws is a little low.
    generator = np.random.default_rng(8)
    covered = 0
    for trial in range(200):
        skill_S = generator.beta(6, 4, size=30)
        right_N = (generator.random((30, 20)) < skill_S[:, None]).ravel()
        outcomes = Outcomes(
            np.zeros(600, dtype=np.int64), (~right_N).astype(np.int64), [f"s{i // 20}" for i in range(600)], 2
        )
        interval = metrics.bootstrap_by_speaker(
            outcomes, metric=metrics.weighted_accuracy_of, num_resamples=200, seed=trial
        )
        covered += interval.low <= 0.6 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_paired_difference_of_a_system_with_itself_is_zero() -> None:
    outcomes = drawn(80, seed=6)
    assert metrics.paired_bootstrap(outcomes, outcomes) == Interval(0.0, 0.0, 0.0)


def test_paired_difference_is_narrower_than_the_systems_own_intervals() -> None:
    champion = drawn(300, seed=7, skill=0.6, num_speakers=12)
    predicted_N = champion.predicted_N.copy()
    wrong = np.flatnonzero(predicted_N != champion.actual_N)[:20]
    predicted_N[wrong] = champion.actual_N[wrong]
    candidate = Outcomes(champion.actual_N, predicted_N, champion.speaker_ids, NUM_CLASSES)
    difference = metrics.paired_bootstrap(candidate, champion)
    own = metrics.bootstrap_by_speaker(candidate)
    assert difference.low > 0
    assert difference.high - difference.low < own.high - own.low
    reversed_difference = metrics.paired_bootstrap(champion, candidate)
    assert reversed_difference.value == pytest.approx(-difference.value)
    assert reversed_difference.low == pytest.approx(-difference.high)


def test_ten_thousand_resamples_take_milliseconds() -> None:
    outcomes = drawn(2000, seed=9, num_speakers=40)
    start_s = time.perf_counter()
    metrics.bootstrap_by_speaker(outcomes, num_resamples=10_000)
    assert time.perf_counter() - start_s < 1.0


@pytest.mark.parametrize(
    ("actual", "predicted", "speakers", "words"),
    [
        ([], [], [], "no clip"),
        ([0], [0, 1], ["a"], "2 predictions for 1 clips"),
        ([0, 4], [0, 1], ["a", "b"], "actual holds a class outside 0..3"),
        ([0, 1], [0, -1], ["a", "b"], "predicted holds a class outside 0..3"),
        ([0, 1], [0, 1], ["a"], "1 speaker_ids for 2 clips"),
    ],
)
def test_impossible_outcomes_are_refused(
    actual: list[int], predicted: list[int], speakers: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Outcomes(np.array(actual, dtype=np.int64), np.array(predicted, dtype=np.int64), speakers, NUM_CLASSES)


def test_systems_scored_on_different_clips_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="different clips"):
        metrics.paired_bootstrap(drawn(50, seed=1), drawn(50, seed=2))
