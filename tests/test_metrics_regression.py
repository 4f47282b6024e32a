"""Figures of values against the formulas written out, and what they must be by definition."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from components import metrics, metrics_by_label
from components import metrics_regression as regression
from components.metrics_regression import SENTIMENT_SCALE, ValueOutcomes

numbers = st.floats(-3, 3).map(lambda value: round(value, 2))
clips = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40)


def outcomes_of(actual: list[float], predicted: list[float]) -> ValueOutcomes:
    columns = [np.array([[value] for value in values]) for values in (actual, predicted)]
    return ValueOutcomes(columns[0], columns[1], [f"s{n % 5}" for n in range(len(actual))])


def figure(name: str, outcomes: ValueOutcomes, label: int = 0) -> float:
    metric = regression.by_label(SENTIMENT_SCALE)[name]
    return metrics.figure(outcomes, metrics_by_label.of_label(metric, label))


def loop_ccc(actual: list[float], predicted: list[float]) -> float:
    mean_x, mean_y = statistics.fmean(actual), statistics.fmean(predicted)
    fewer = len(actual) - 1
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(actual, predicted, strict=True)) / fewer
    variance_x = sum((x - mean_x) ** 2 for x in actual) / fewer
    variance_y = sum((y - mean_y) ** 2 for y in predicted) / fewer
    below = variance_x + variance_y + (mean_x - mean_y) ** 2
    return 2 * covariance / below if below > 1e-20 else 0.0


def loop_seven(value: float) -> int:
    """Nearest of -3..3, of halves the even one, counted out by hand."""
    clipped = min(max(value, -3.0), 3.0)
    distances = [(abs(clipped - number), number % 2, number) for number in range(-3, 4)]
    return min(distances)[2]


def loop_away(value: float) -> int:
    if value < -2:
        return -3
    if value < -1:
        return -2
    if value < 0:
        return -1
    if value == 0:
        return 0
    return 1 if value <= 1 else 2 if value <= 2 else 3


@given(clips)
@settings(max_examples=120)
def test_every_figure_equals_its_formula(pairs: list[tuple[float, float]]) -> None:
    actual, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    outcomes = outcomes_of(actual, predicted)
    assert figure("ccc", outcomes) == pytest.approx(loop_ccc(actual, predicted), abs=1e-9)
    assert figure("mae", outcomes) == pytest.approx(statistics.fmean(abs(x - y) for x, y in pairs))
    if len(set(actual)) > 1 and len(set(predicted)) > 1:
        assert figure("corr", outcomes) == pytest.approx(stats.pearsonr(actual, predicted).statistic, abs=1e-9)
    else:
        assert figure("corr", outcomes) == 0
    share = statistics.fmean
    assert figure("acc2_has0", outcomes) == pytest.approx(share((x >= 0) == (y >= 0) for x, y in pairs))
    without_zero = [(x > 0) == (y > 0) for x, y in pairs if x != 0]
    expected = share(without_zero) if without_zero else math.nan
    assert figure("acc2_non0", outcomes) == pytest.approx(expected, nan_ok=True)
    assert figure("acc7_round", outcomes) == pytest.approx(share(loop_seven(x) == loop_seven(y) for x, y in pairs))
    assert figure("acc7_away", outcomes) == pytest.approx(share(loop_away(x) == loop_away(y) for x, y in pairs))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(0.1, 10), st.floats(0.01, 100))
@settings(max_examples=80)
def test_ccc_of_the_same_is_one_and_a_shift_lowers_it(values: list[float], shift: float, unit: float) -> None:
    scaled = [value * unit for value in values]
    if np.std(scaled) < 1e-3 * max(1.0, unit):
        return
    assert figure("ccc", outcomes_of(scaled, scaled)) == pytest.approx(1.0)
    shifted = [value + shift * float(np.std(scaled)) for value in scaled]
    assert figure("ccc", outcomes_of(scaled, shifted)) < 0.999
    assert figure("corr", outcomes_of(scaled, shifted)) == pytest.approx(1.0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3.0, 1e6 / 3])
def test_a_constant_answer_has_no_agreement_and_is_a_number(constant: float) -> None:
    actual = [0.1, 0.7, 1.3, 2.9, 0.1]
    for pair in ((actual, [constant] * 5), ([constant] * 5, actual), ([constant] * 5, [constant] * 5)):
        assert figure("ccc", outcomes_of(*pair)) == 0
        assert figure("corr", outcomes_of(*pair)) == 0
    assert regression.mean_ccc(np.array([[0.1], [0.1], [0.1]]), np.array([[0.3], [0.3], [0.3]])) == 0


def test_figures_are_on_the_original_scale_and_ccc_minds_no_common_one() -> None:
    generator = np.random.default_rng(0)
    actual_NL = generator.uniform(1, 5, (40, 3))
    predicted_NL = actual_NL + generator.normal(0, 0.5, (40, 3))
    speakers = [f"s{n % 5}" for n in range(40)]
    five = ValueOutcomes(actual_NL, predicted_NL, speakers)
    unit = ValueOutcomes((actual_NL - 1) / 4, (predicted_NL - 1) / 4, speakers)
    assert metrics.figure(five, regression.mean_ccc_of) == pytest.approx(metrics.figure(unit, regression.mean_ccc_of))
    assert figure("mae", five) == pytest.approx(4 * figure("mae", unit))


def test_rounding_has_two_rules() -> None:
    values: NDArray[np.float64] = np.array([-9.0, -2.2, -2.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.5, 2.5, 9.0])
    assert regression.round_to_seven(values).tolist() == [-3, -2, -2, 0, 0, 0, 0, 0, 2, 2, 3]
    assert regression.round_away_to_seven(values).tolist() == [-3, -3, -2, -1, -1, 0, 1, 1, 2, 3, 3]


def test_classes_of_sentiment_are_told_on_its_scale_only() -> None:
    assert list(regression.by_label((1.0, 5.0))) == ["ccc", "corr", "mae"]
    assert list(regression.by_label((-1.0, 1.0))) == ["ccc", "corr", "mae", "acc2_has0", "acc2_non0"]
    assert len(regression.by_label((-3.0, 3.0))) == 7


def test_unknown_values_count_nothing() -> None:
    actual = [1.0, 2.0, 4.0, math.nan]
    predicted = [1.5, 2.0, 3.0, 100.0]
    found, expected = outcomes_of(actual, predicted), outcomes_of(actual[:3], predicted[:3])
    for name in ("ccc", "corr", "mae", "acc2_has0", "acc7_round"):
        assert figure(name, found) == pytest.approx(figure(name, expected)), name


def test_the_bootstrap_equals_a_loop_over_speakers() -> None:
    generator = np.random.default_rng(2)
    actual_N1 = generator.uniform(-3, 3, (60, 1))
    predicted_N1 = actual_N1 + generator.normal(0, 1, (60, 1))
    outcomes = ValueOutcomes(actual_N1, predicted_N1, [f"s{n}" for n in generator.integers(0, 6, 60)])
    drawn = metrics.resample(outcomes, num_resamples=150, seed=5)
    speakers = sorted(set(outcomes.speaker_ids))
    clips_of = {s: [i for i, name in enumerate(outcomes.speaker_ids) if name == s] for s in speakers}
    counts_RS = np.random.default_rng(5).multinomial(len(speakers), [1 / len(speakers)] * len(speakers), size=150)
    resamples = [
        [i for s, count in zip(speakers, counts_S, strict=True) for _ in range(count) for i in clips_of[s]]
        for counts_S in counts_RS
    ]
    for name, metric in regression.by_label(SENTIMENT_SCALE).items():
        interval = drawn.interval(metrics_by_label.of_label(metric, 0))
        each = [figure(name, ValueOutcomes(actual_N1[c], predicted_N1[c], ["s"] * len(c))) for c in resamples]
        assert interval.low == pytest.approx(np.percentile(each, 2.5)), name
        assert interval.high == pytest.approx(np.percentile(each, 97.5)), name


def test_speakers_that_differ_widen_the_interval_beyond_that_of_clips() -> None:
    generator = np.random.default_rng(3)
    bias_N = np.repeat(generator.normal(0, 2, 10), 40)[:, None]
    actual_N1 = generator.uniform(1, 5, (400, 1))
    predicted_N1 = actual_N1 + bias_N
    names = [f"s{n // 40}" for n in range(400)], [f"c{n}" for n in range(400)]
    widths = [
        interval.high - interval.low
        for speakers in names
        for interval in [
            metrics.bootstrap_by_speaker(
                ValueOutcomes(actual_N1, predicted_N1, speakers), metric=regression.mean_ccc_of
            )
        ]
    ]
    assert widths[0] > 3 * widths[1]


def test_systems_are_compared_on_the_same_speakers() -> None:
    generator = np.random.default_rng(4)
    actual_N1 = generator.uniform(1, 5, (200, 1))
    speakers = [f"s{n % 10}" for n in range(200)]
    good, bad = (
        ValueOutcomes(actual_N1, actual_N1 + generator.normal(0, noise, (200, 1)), speakers) for noise in (0.3, 1.5)
    )
    gain = metrics.paired_bootstrap(good, bad, metric=regression.mean_ccc_of)
    assert 0 < gain.low <= gain.value <= gain.high
    assert metrics.paired_bootstrap(good, good, metric=regression.mean_ccc_of) == metrics.Interval(0, 0, 0)


def test_impossible_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="no clip"):
        ValueOutcomes(np.zeros((0, 1)), np.zeros((0, 1)), [])
    with pytest.raises(ValueError, match="give one a clip and label"):
        ValueOutcomes(np.zeros((2, 1)), np.zeros((2, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="an answer is no number"):
        outcomes_of([1.0, 2.0], [1.0, math.nan])
