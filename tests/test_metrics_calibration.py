"""Calibration error against a slow, obvious loop, with its interval over speakers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import metrics, metrics_by_label, metrics_calibration
from components.metrics_calibration import Calibration

clips = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0, math.nan])), min_size=1, max_size=40)


def loop_error(pairs: list[tuple[float, float]], num_bins: int) -> float:
    known = [pair for pair in pairs if not math.isnan(pair[1])]
    if not known:
        return math.nan
    error = 0.0
    for number in range(num_bins):
        low, high = number / num_bins, (number + 1) / num_bins
        inside = [(p, a) for p, a in known if low < p <= high or (p == 0 and number == 0)]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            share = sum(a for _, a in inside) / len(inside)
            error += len(inside) / len(known) * abs(confidence - share)
    return error


@given(clips)
@settings(max_examples=80)
def test_the_error_of_a_label_equals_a_loop(pairs: list[tuple[float, float]]) -> None:
    probabilities_N1 = np.array([[probability] for probability, _ in pairs])
    actual_N1 = np.array([[actual] for _, actual in pairs])
    calibration = Calibration(probabilities_N1, actual_N1, [f"s{n % 3}" for n in range(len(pairs))], num_bins=8)
    metric = metrics_by_label.of_label(metrics_calibration.calibration_error_of, 0)
    assert metrics.figure(calibration, metric) == pytest.approx(loop_error(pairs, 8), nan_ok=True, abs=1e-12)


def test_a_classifiers_error_is_that_of_the_class_it_names() -> None:
    generator = np.random.default_rng(1)
    probabilities_NC = generator.dirichlet(np.full(4, 0.5), size=150)
    actual_N = generator.integers(0, 4, 150)
    speakers = [f"s{n % 7}" for n in range(150)]
    calibration = metrics_calibration.of_classes(actual_N, probabilities_NC, speakers)
    metric = metrics_by_label.mean_of(metrics_calibration.calibration_error_of)
    interval = metrics.bootstrap_by_speaker(calibration, metric=metric, num_resamples=200)
    assert interval.value == pytest.approx(metrics_calibration.expected_calibration_error(actual_N, probabilities_NC))
    assert 0 <= interval.low < interval.high <= 1


def test_certain_and_right_is_zero_and_certain_and_wrong_is_one() -> None:
    metric = metrics_by_label.mean_of(metrics_calibration.calibration_error_of)
    certain_NL = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.figure(Calibration(certain_NL, certain_NL, ["a", "b"]), metric) == 0
    assert metrics.figure(Calibration(certain_NL, 1 - certain_NL, ["a", "b"]), metric) == 1
