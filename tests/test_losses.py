"""Every loss against a slow, obvious loop in float64, on random shapes with padding and gaps; and over workers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from components.batches import Batch, collate
from components.masking import AugmentSettings, Moment
from components.objectives import (
    Classification,
    Objective,
    Terms,
    classification_loss,
    masked_frames_loss,
    masked_words_loss,
    matching_loss,
)
from components.objectives_labels import (
    Concordance,
    MultiLabel,
    concordance_moments,
    concordance_of_moments,
    loss_and_slopes,
    multilabel_loss,
    scaled,
    unscaled,
)
from tests.toy_clips import NUM_CLASSES, ToyClips, toy_model

FEW = settings(max_examples=40)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**31))


def _asked(random: np.random.Generator, batch: int, steps: int) -> NDArray[np.bool_]:
    """Some of the valid steps of clips of random length."""
    lengths_B = random.integers(0, steps + 1, batch)
    return (random.random((batch, steps)) < 0.5) & (np.arange(steps)[None] < lengths_B[:, None])


@FEW
@given(SIZES)
def test_the_loss_of_masked_frames(sizes: tuple[int, int, int, int]) -> None:
    batch, steps, width, seed = sizes
    random = np.random.default_rng(seed)
    rebuilt, actual = random.normal(size=(2, batch, steps, width))
    asked = _asked(random, batch, steps)
    expected = 0.0
    for clip in range(batch):
        for step in range(steps):
            if asked[clip, step]:
                expected += (
                    sum(abs(a - b) for a, b in zip(rebuilt[clip, step], actual[clip, step], strict=True)) / width
                )
    actual[~asked] = np.nan
    total, count = masked_frames_loss(torch.from_numpy(rebuilt), torch.from_numpy(actual), torch.from_numpy(asked))
    assert float(total) == pytest.approx(expected, abs=1e-10)
    assert int(count) == asked.sum()


@FEW
@given(SIZES)
def test_the_loss_of_masked_words(sizes: tuple[int, int, int, int]) -> None:
    batch, steps, vocabulary, seed = sizes
    random = np.random.default_rng(seed)
    scores, words = random.normal(size=(batch, steps, vocabulary)), random.integers(0, vocabulary, (batch, steps))
    asked = _asked(random, batch, steps)
    total, count = masked_words_loss(torch.from_numpy(scores), torch.from_numpy(words), torch.from_numpy(asked))
    expected = 0.0
    for clip, step in zip(*np.nonzero(asked), strict=True):
        chances = [math.exp(score) for score in scores[clip, step]]
        expected -= math.log(chances[words[clip, step]] / sum(chances))
    assert float(total) == pytest.approx(expected, abs=1e-10)
    assert int(count) == asked.sum()


@FEW
@given(SIZES, st.floats(0, 0.9))
def test_the_loss_of_classes(sizes: tuple[int, int, int, int], smoothing: float) -> None:
    batch, _, classes, seed = sizes
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(batch, classes)), random.random((batch, classes)) + 0.01
    unknown = random.random(batch) < 0.3
    labels[unknown] = np.nan
    total, count = classification_loss(torch.from_numpy(logits), torch.from_numpy(labels), smoothing)
    expected = 0.0
    for clip in np.flatnonzero(~unknown):
        norm = sum(math.exp(score) for score in logits[clip])
        for label in range(classes):
            share = labels[clip, label] / sum(labels[clip]) * (1 - smoothing) + smoothing / classes
            expected -= share * math.log(math.exp(logits[clip, label]) / norm)
    assert float(total) == pytest.approx(expected, abs=1e-9)
    assert int(count) == (~unknown).sum()


@FEW
@given(SIZES)
def test_the_loss_of_matching(sizes: tuple[int, int, int, int]) -> None:
    batch, _, width, seed = sizes
    random = np.random.default_rng(seed)
    one, other = random.normal(size=(2, batch, width))
    there = random.random(batch) < 0.7
    total, count = matching_loss(torch.from_numpy(one), torch.from_numpy(other), torch.from_numpy(there))
    rows, expected = np.flatnonzero(there), 0.0
    for row in rows:
        right = math.exp(one[row] @ other[row])
        expected -= 0.5 * math.log(right / sum(math.exp(one[row] @ other[column]) for column in rows))
        expected -= 0.5 * math.log(right / sum(math.exp(one[column] @ other[row]) for column in rows))
    assert float(total) == pytest.approx(expected, abs=1e-9)
    assert int(count) == len(rows)


@FEW
@given(SIZES, st.floats(-0.5, 1.5))
def test_the_loss_of_several_labels(sizes: tuple[int, int, int, int], threshold: float) -> None:
    batch, _, classes, seed = sizes
    random = np.random.default_rng(seed)
    logits, labels = (
        random.normal(size=(batch, classes)) * 3,
        random.choice([0, 1 / 3, 1, 2, 3, np.nan], (batch, classes)),
    )
    total, count = multilabel_loss(torch.from_numpy(logits), torch.from_numpy(labels), threshold)
    expected, known = 0.0, 0
    for logit, label in zip(logits.ravel(), labels.ravel(), strict=True):
        if math.isfinite(label):
            chance = 1 / (1 + math.exp(-logit))
            expected -= math.log(chance if label > threshold else 1 - chance)
            known += 1
    assert float(total) == pytest.approx(expected, abs=1e-9)
    assert int(count) == known


@FEW
@given(SIZES)
def test_the_loss_of_values(sizes: tuple[int, int, int, int]) -> None:
    clips, _, outputs, seed = sizes
    clips *= 3
    random = np.random.default_rng(seed)
    found, actual = random.normal(size=(2, clips, outputs))
    actual[random.random((clips, outputs)) < 0.3] = np.nan
    sums, counts = concordance_moments(torch.from_numpy(found), torch.from_numpy(actual))
    concordances = concordance_of_moments((sums / counts.clamp(min=1)).reshape(outputs, 5))
    for output in range(outputs):
        known = np.flatnonzero(np.isfinite(actual[:, output]))
        x, y = [found[clip, output] for clip in known], [actual[clip, output] for clip in known]
        n = max(1, len(known))
        mean_x, mean_y = sum(x) / n, sum(y) / n
        covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
        spread = sum((a - mean_x) ** 2 + (b - mean_y) ** 2 for a, b in zip(x, y, strict=True)) / n
        expected = 2 * covariance / (spread + (mean_x - mean_y) ** 2 + 1e-8)
        assert float(concordances[output]) == pytest.approx(expected, abs=1e-8)
        assert int(counts[5 * output]) == len(known)


@given(st.floats(-5, 5), st.floats(0.1, 9), st.integers(0, 99))
def test_scaling_labels_and_back(low: float, extent: float, seed: int) -> None:
    scale = (low, low + extent)
    labels_BC = torch.from_numpy(np.random.default_rng(seed).uniform(*scale, size=(4, 3)))
    inner_BC = scaled(labels_BC, scale)
    assert inner_BC.min() >= -1e-9
    assert inner_BC.max() <= 1 + 1e-9
    torch.testing.assert_close(unscaled(inner_BC, scale), labels_BC)


def test_a_scale_without_extent_is_refused() -> None:
    with pytest.raises(ValueError, match="name its lower end first"):
        scaled(torch.zeros(1, 1), (5.0, 1.0))


@dataclass(frozen=True)
class _Output:
    logits_BC: Tensor


class _Reader(nn.Module):
    """A model in float64: linear in the mean of a clip's audio."""

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.scores = nn.Linear(num_features, num_outputs).double()

    def forward(self, **inputs: Tensor | None) -> _Output:
        audio_BTF, lengths_B = inputs["audio_BTF"], inputs["audio_lengths_B"]
        assert audio_BTF is not None
        assert lengths_B is not None
        mean_BF = audio_BTF.double().sum(dim=1) / lengths_B[:, None]
        return _Output(self.scores(mean_BF))


def _labelled(num_clips: int, *, gaps: bool) -> Batch:
    random = np.random.default_rng(num_clips)
    labels_NC = random.uniform(1, 5, size=(num_clips, 3))
    if gaps:
        labels_NC[random.random((num_clips, 3)) < 0.3] = np.nan
    return replace(collate(ToyClips(num_clips), range(num_clips)), labels_BC=torch.from_numpy(labels_NC))


def _part(batch: Batch, rows: slice) -> Batch:
    return Batch(*(value[rows] for value in vars(batch).values()))


OBJECTIVES: list[Objective] = [
    Concordance(("arousal", "valence", "dominance"), (1.0, 5.0)),
    MultiLabel(threshold=3.0),
    Classification(AugmentSettings(), 0.1),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("gaps", [False, True])
def test_workers_together_have_the_loss_and_the_gradient_of_one(
    objective: Objective, num_workers: int, gaps: bool
) -> None:
    batch = _labelled(20, gaps=gaps)
    torch.manual_seed(0)
    model = _Reader(batch.audio_BTF.shape[2], 3)
    parts = [_part(batch, slice(rank, None, num_workers)) for rank in range(num_workers)]
    terms = [objective(model, part, Moment(0, 0)) for part in parts]
    totals = Terms(sum_of([each.sums_L for each in terms]), sum_of([each.counts_L for each in terms]))
    loss, slopes_L = loss_and_slopes(objective, totals)
    assert len(slopes_L) == len(objective.names)
    for each in terms:
        (each.sums_L * slopes_L).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    direct = _direct(objective, model, batch)
    direct.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert float(loss) == pytest.approx(float(direct.detach()), rel=1e-9)
    expected = [parameter.grad for parameter in model.parameters()]
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        assert other is not None
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def sum_of(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors]).sum(dim=0)


def _direct(objective: Objective, model: nn.Module, batch: Batch) -> Tensor:
    """The loss of the whole batch as one would write it on one machine."""
    logits_BC, labels_BC = model(**batch.inputs()).logits_BC, batch.labels_BC.double()
    if isinstance(objective, Classification):
        total, count = classification_loss(logits_BC, labels_BC, objective.label_smoothing)
        return total / count
    if isinstance(objective, MultiLabel):
        known_BC = labels_BC.isfinite()
        present = (labels_BC[known_BC] > 3).double()
        return nn.functional.binary_cross_entropy(logits_BC[known_BC].sigmoid(), present)
    return sum_of_concordance(logits_BC, (labels_BC - 1) / 4)


def sum_of_concordance(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    parts = []
    for found_B, actual_B in zip(logits_BC.T, labels_BC.T, strict=True):
        x, y = found_B[actual_B.isfinite()], actual_B[actual_B.isfinite()]
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        spread = x.var(correction=0) + y.var(correction=0) + (x.mean() - y.mean()) ** 2
        parts.append(1 - 2 * covariance / (spread + 1e-8))
    return torch.stack(parts).sum()


def test_an_epochs_moments_give_the_concordance_of_all_its_clips() -> None:
    batch = _labelled(20, gaps=True)
    model = _Reader(batch.audio_BTF.shape[2], 3)
    objective = Concordance(("arousal", "valence", "dominance"), (1.0, 5.0))
    steps = [objective(model, _part(batch, slice(start, start + 5)), Moment(0, 0)) for start in range(0, 20, 5)]
    totals = Terms(sum_of([each.sums_L for each in steps]), sum_of([each.counts_L for each in steps]))
    whole = objective(model, batch, Moment(0, 0))
    torch.testing.assert_close(loss_and_slopes(objective, totals)[0], loss_and_slopes(objective, whole)[0])


def test_the_trimodal_system_learns_labels_of_both_kinds() -> None:
    batch = collate(ToyClips(16), range(16))
    for objective in (
        MultiLabel(threshold=0.5),
        Concordance(("a", "b", "c")),
    ):
        torch.manual_seed(0)
        model = toy_model(dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(12):
            terms = objective(model, batch, Moment(0, 0))
            loss, slopes_L = loss_and_slopes(objective, terms)
            optimizer.zero_grad()
            (terms.sums_L * slopes_L.to(terms.sums_L)).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            losses.append(float(loss))
        assert losses[-1] < 0.8 * losses[0], objective
        assert model(**batch.inputs()).logits_BC.shape == (16, NUM_CLASSES)
