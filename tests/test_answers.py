"""What scores mean by the kind of task, and the figures by which an epoch is chosen, against slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.answers import Judge, to_answers
from components.task import Task

CLASSES = Task("classes", ("a", "b", "c"))
ANY = Task("multilabel", ("a", "b", "c"), threshold=0.0)
VALUES = Task("values", ("arousal", "valence"), scale=(1.0, 5.0))


def test_scores_become_shares_chances_or_values_on_the_scale() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(to_answers(logits, None), logits.softmax(dim=1))
    torch.testing.assert_close(to_answers(logits, CLASSES), logits.softmax(dim=1))
    torch.testing.assert_close(to_answers(logits, ANY), 1 / (1 + (-logits).exp()))
    torch.testing.assert_close(to_answers(logits[:, :2], VALUES), torch.tensor([[1.0, 5.0]], dtype=torch.float64))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_weighted_accuracy_is_the_slow_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, (12, 3)).astype(np.float32)
    labels[random.random((12, 3)) < 0.2] = np.nan
    answers = random.random((12, 3))
    figures, loss, count = [], 0.0, 0
    for label in range(3):
        hit = missed = right = false = 0
        for clip in range(12):
            actual, answer = labels[clip, label], answers[clip, label]
            if math.isnan(actual):
                continue
            loss -= math.log(answer if actual > 0 else 1 - answer)
            count += 1
            if actual > 0:
                hit, missed = hit + (answer > 0.5), missed + (answer <= 0.5)
            else:
                right, false = right + (answer <= 0.5), false + (answer > 0.5)
        positives, negatives = hit + missed, right + false
        if positives and negatives:
            # As published for CMU-MOSEI: (TP * N / P + TN) / 2N.
            figures.append((hit * negatives / positives + right) / (2 * negatives))
    judge = Judge(ANY)
    assert judge.score(labels, answers) == pytest.approx(np.mean(figures) if figures else 0)
    total, divisor = judge.loss(labels, answers)
    assert total == pytest.approx(loss)
    assert divisor == count


def test_a_constant_answer_has_a_weighted_accuracy_of_one_half() -> None:
    labels = np.array([[0, 3], [1, 0], [0, 0], [2, 1]], np.float32)
    for answer in (0.1, 0.9):
        assert Judge(Task("multilabel", ("a", "b"))).score(labels, np.full((4, 2), answer)) == 0.5


def test_values_are_judged_by_their_mean_concordance() -> None:
    labels = np.array([[1, 5], [3, 1], [5, np.nan]], np.float32)
    answers = labels.astype(np.float64)
    answers[2, 1] = 4
    judge = Judge(VALUES)
    assert judge.score(labels, answers) == pytest.approx(1)
    assert judge.loss(labels, answers) == pytest.approx((0, 1))


def test_unlabelled_clips_do_not_count_among_classes() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [np.nan] * 3, [0, 0, 1]], np.float32)
    answers = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    judge = Judge(CLASSES)
    assert judge.score(labels, answers) == 1
    assert judge.loss(labels, answers) == pytest.approx((-3 * math.log(0.8), 3))
