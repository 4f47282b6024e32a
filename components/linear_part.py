"""The linear part of a model: solved on the labelled clips, and weighed against the rest on other speakers.

A regression on targets between 0 and 1, whose answers become scores: those of classes and labels are drawn apart until
they are as sure as they are right about speakers that were left out.

Shapes: N clips, B batch, I inputs, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from components import banded_ridge
from components.answers import Judge, to_answers
from components.batches import Batch, ClipSource, Subset, in_order
from components.objectives_labels import scaled
from components.task import Kind, Task

# Enough to choose a handful of strengths on, in seconds; the time grows with the cube.
_MOST_CLIPS: Final = 1500
_LOG_SHARPNESS: Final = (-3.0, 4.0)
# Of the linear part, which is as sure as it is right, and of the transformer, which has seen too few voices to be.
# Values stay on their scale.
_USUAL: Final[dict[Kind, tuple[float, float]]] = {
    "classes": (1.0, 0.25),
    "multilabel": (1.0, 0.25),
    "values": (0.75, 0.25),
}
_MOST_WEIGHT: Final = 2.0
# Clips of one speaker say little about others: as if half a nat a clip of one of them stood against other weights.
_HOLD: Final = 0.5
# Where a regression on 0 and 1 finds a label as likely as not.
_EVEN: Final = 0.5


class TwoParts(Protocol):
    """The answer of a model with a linear part, before and after the two are added."""

    @property
    def linear_BC(self) -> Tensor: ...

    @property
    def sequence_BC(self) -> Tensor: ...


@runtime_checkable
class HasLinearPart(Protocol):
    """A model with a linear part; see `models.trimodal`."""

    @property
    def linear_bands(self) -> tuple[int, ...]:
        """Numbers of inputs of each kind, in their order; none without a linear part."""

    def learn_summaries(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Learn the means and deviations of what is read."""

    def linear_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, I) what the linear part reads of clips; `inputs` are arguments of `forward`."""

    def set_linear_part(self, weight_IC: Tensor, bias_C: Tensor) -> None:
        """Use these weights."""

    def weigh(self, *, linear: float, sequence: float) -> None:
        """Multiply what the linear part says, and what the rest of the model says."""

    def __call__(self, **inputs: Tensor) -> TwoParts:
        """What both say."""


@dataclass(frozen=True)
class Weights:
    """What the answers of the linear part and of the rest of the model are multiplied with."""

    linear: float
    sequence: float


def learn(model: HasLinearPart, clips: ClipSource, asked: Task) -> bool:
    """Solve the linear part; whether there was one, and anything to learn.

    Clips of which a label is not known are left out, and of a single clip nothing is learned.
    """
    sizes = model.linear_bands
    known_N = np.flatnonzero(np.isfinite(clips.labels_NC).all(axis=1))
    if not sizes or len(known_N) < 2:
        return False
    known = Subset(clips, known_N)
    model.learn_summaries(batch.inputs() for batch in in_order(known))
    order_N = np.random.Generator(np.random.Philox(0)).permutation(len(known))
    few = Subset(known, np.sort(order_N[:_MOST_CLIPS]))
    read = list(_read(model, few, asked))
    targets_NC = torch.cat([targets_BC for _, targets_BC in read])
    bands = banded_ridge.choose(torch.cat([inputs_BI for inputs_BI, _ in read]), targets_NC, few.speaker_ids, sizes)
    weight_IC, bias_C = banded_ridge.solve(_read(model, known, asked), bands.variance_K, sizes)
    if asked.kind != "values":
        sharpness = _sharpness(bands.unseen_NC, targets_NC, asked)
        weight_IC, bias_C = weight_IC * sharpness, (bias_C - _EVEN) * sharpness
    model.set_linear_part(weight_IC.float(), bias_C.float())
    return True


def weights(model: HasLinearPart, clips: ClipSource, asked: Task) -> Weights:
    """How much each part must count for the loss to be least on clips that neither has learned from.

    The fewer speakers there are, the nearer the weights stay to usual ones.
    """
    said = list(_said(model, clips))
    linear_NC, sequence_NC = (torch.cat(part) for part in zip(*said, strict=True))
    judge, labels_NC = Judge(asked), np.asarray(clips.labels_NC, dtype=np.float32)
    num_speakers, usual = len(set(clips.speaker_ids)), _USUAL[asked.kind]

    def loss(weights_2: NDArray[np.float64]) -> float:
        both_NC = to_answers(float(weights_2[0]) * linear_NC + float(weights_2[1]) * sequence_NC, asked)
        total, count = judge.loss(labels_NC, both_NC.double().numpy())
        return total / max(count, 1.0) + _HOLD / num_speakers * float(np.square(weights_2 - usual).sum())

    found = scipy.optimize.minimize(loss, usual, bounds=[(0.0, _MOST_WEIGHT)] * 2, method="Powell")
    return Weights(*(float(weight) for weight in found.x))


def _said(model: HasLinearPart, clips: ClipSource) -> Iterator[tuple[Tensor, Tensor]]:
    with torch.inference_mode():
        for batch in in_order(clips):
            output = model(**batch.inputs())
            yield output.linear_BC, output.sequence_BC


def _read(model: HasLinearPart, clips: ClipSource, asked: Task) -> Iterator[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        for batch in in_order(clips):
            yield model.linear_inputs(batch.inputs()), _targets(batch, asked)


def _targets(batch: Batch, asked: Task) -> Tensor:
    """(B, C) shares of the classes, whether each label is there, or values with the ends of their scale at 0 and 1."""
    labels_BC = batch.labels_BC.double()
    if asked.kind == "classes":
        return labels_BC / labels_BC.sum(dim=1, keepdim=True)
    if asked.kind == "multilabel":
        return (labels_BC > asked.threshold).double()
    assert asked.scale is not None
    return scaled(labels_BC, asked.scale)


def _sharpness(unseen_NC: Tensor, targets_NC: Tensor, asked: Task) -> float:
    """The factor that makes scores of answers, at which the cross-entropy about unseen speakers is least."""
    several = asked.kind == "multilabel"

    def loss(logarithm: float) -> float:
        scores_NC = (unseen_NC - _EVEN) * float(np.exp(logarithm))
        if several:
            return float(F.binary_cross_entropy_with_logits(scores_NC, targets_NC))
        return float(F.cross_entropy(scores_NC, targets_NC))

    found = scipy.optimize.minimize_scalar(loss, bounds=_LOG_SHARPNESS, method="bounded")
    return float(np.exp(found.x))
