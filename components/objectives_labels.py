"""Labels that are no classes: any of several labels (multi-label), and values on a scale (concordance).

An objective gives means over a global batch as sums and counts, and adds them up over workers. A loss that is no
weighted sum of means, such as the concordance, offers `loss`, a function of the means. `loss_and_slopes` turns that
into the weight of each worker's own sums, so that the gradients of all workers add up to that of the whole batch.

Shape suffixes: B batch, C outputs, L terms of a loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.batches import Batch
from components.masking import AugmentSettings, Moment
from components.objectives import Objective, Terms, augmented_logits

_MOMENTS: Final = ("predicted", "actual", "predicted squared", "actual squared", "product")
# Against a division by zero where neither prediction nor label varies: far below any variance on a scale of 0 to 1.
_SMALLEST_DENOMINATOR: Final = 1e-8


@runtime_checkable
class LossOfMeans(Protocol):
    """An objective whose loss is any function of its terms' means, instead of their weighted sum."""

    def loss(self, means_L: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class MultiLabel:
    """Binary cross-entropy of each label by itself.

    Attributes:
        threshold: a label is there when its annotated value exceeds this; NaN is unknown, and counts nothing.
        augment: what is hidden from the model.
    """

    threshold: float = 0.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    weights: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] = ("multilabel",)

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        logits_BC = augmented_logits(self.augment, model, batch, moment)
        loss, count = multilabel_loss(logits_BC, batch.labels_BC, self.threshold)
        return Terms(loss[None], count[None])


@dataclass(frozen=True)
class Concordance:
    """Sum over outputs of one minus the concordance with the labels, over the whole global batch (Lin 1989).

    The terms are moments: of each output the means of the prediction, the label, their squares and their
    product, in float64. `loss` makes the concordance of them, with the biased covariance.

    Attributes:
        labels: names of the outputs.
        scale: ends of the labels' scale, which become 0 and 1. A label of NaN is unknown, and counts nothing.
        augment: what is hidden from the model.
    """

    labels: tuple[str, ...]
    scale: tuple[float, float] = (0.0, 1.0)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{label}, {moment}" for label in self.labels for moment in _MOMENTS)

    @property
    def weights(self) -> tuple[float, ...]:
        """One of each output: they weigh concordances, which are no terms; see `loss`."""
        return (1.0,) * len(self.labels)

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        outputs_BC = augmented_logits(self.augment, model, batch, moment)
        return Terms(*concordance_moments(outputs_BC, scaled(batch.labels_BC, self.scale)))

    def loss(self, means_L: Tensor) -> Tensor:
        """Of the moments over any number of clips, a batch or an epoch."""
        return (1 - concordance_of_moments(means_L.reshape(len(self.labels), len(_MOMENTS)))).sum()


def loss_and_slopes(objective: Objective, totals: Terms) -> tuple[Tensor, Tensor]:
    """The loss of a global batch, and (L,) by how much it grows with each of its sums.

    `(terms.sums_L * slopes_L).sum()` has, over all workers, the gradient of that loss.
    """
    counts_L = totals.counts_L.clamp(min=1)
    with torch.enable_grad():
        means_L = (totals.sums_L.detach() / counts_L).requires_grad_()
        loss = objective.loss(means_L) if isinstance(objective, LossOfMeans) else _weighted(objective, means_L)
        (slopes_L,) = torch.autograd.grad(loss, means_L)
    return loss.detach(), slopes_L / counts_L


def multilabel_loss(logits_BC: Tensor, labels_BC: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Sum over the known labels of their binary cross-entropy, and the number of those labels."""
    known_BC = labels_BC.isfinite()
    present_BC = (labels_BC > threshold).to(logits_BC.dtype)
    loss_BC = F.binary_cross_entropy_with_logits(logits_BC, present_BC, reduction="none")
    return torch.where(known_BC, loss_BC, 0.0).sum(), known_BC.sum().to(logits_BC.dtype)


def concordance_moments(predicted_BC: Tensor, actual_BC: Tensor) -> tuple[Tensor, Tensor]:
    """(C * 5,) sums over the known labels of what `_MOMENTS` names, output by output, and their counts."""
    known_BC = actual_BC.isfinite()
    predicted_BC = torch.where(known_BC, predicted_BC.double(), 0.0)
    actual_BC = torch.where(known_BC, actual_BC.double(), 0.0)
    moments = (predicted_BC, actual_BC, predicted_BC.square(), actual_BC.square(), predicted_BC * actual_BC)
    sums_CM = torch.stack([each_BC.sum(dim=0) for each_BC in moments], dim=1)
    counts_CM = known_BC.sum(dim=0, dtype=sums_CM.dtype)[:, None].expand_as(sums_CM)
    return sums_CM.reshape(-1), counts_CM.reshape(-1)


def concordance_of_moments(means: Tensor) -> Tensor:
    """Concordance of each row of five means, as `_MOMENTS` names them; 0 where nothing varies."""
    predicted, actual, predicted_squared, actual_squared, product = means.unbind(dim=-1)
    covariance = product - predicted * actual
    variances = predicted_squared - predicted.square() + actual_squared - actual.square()
    return 2 * covariance / (variances + (predicted - actual).square() + _SMALLEST_DENOMINATOR)


def scaled(labels_BC: Tensor, scale: tuple[float, float]) -> Tensor:
    """Labels with the ends of their scale at 0 and 1.

    Raises:
        ValueError: the scale has no extent.
    """
    low, high = scale
    if not high > low:
        raise ValueError(f"the scale of the labels goes from {low:g} to {high:g}: name its lower end first")
    return (labels_BC - low) / (high - low)


def unscaled(outputs_BC: Tensor, scale: tuple[float, float]) -> Tensor:
    """What `scaled` was given: outputs of the model as values on the labels' own scale."""
    low, high = scale
    return outputs_BC * (high - low) + low


def _weighted(objective: Objective, means_L: Tensor) -> Tensor:
    return (torch.tensor(objective.weights, dtype=means_L.dtype, device=means_L.device) * means_L).sum()
