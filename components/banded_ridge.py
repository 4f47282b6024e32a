"""Ridge regression with a strength of its own for each band of inputs, chosen by leaving speakers out.

Banded ridge regression (Nunez-Elizalde, Huth and Gallant, NeuroImage 2019): inputs of one kind share a prior variance
of their weights, in units of the noise. One strength for all would let a kind of which there is much, and which says
little, drown one that says a lot. The variances are those with which a regression answers best about speakers that it
has not seen; all of these answers, and their gradient, follow from one inverse (Cook and Weisberg 1982, section 2.2).

Shapes: N clips, I inputs, C outputs, K bands; G clips of one group of speakers. All in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

_MOST_GROUPS: Final = 10
# Of the intercept: so much that it is not shrunk.
_INTERCEPT_VARIANCE: Final = 100.0
# Logarithms of how much of a clip's answer a band explains, against the noise. A handful of clips would drive them
# anywhere, so they are held near the mean as if by a third of a clip: chosen on synthetic speakers, at 29 clips.
_MEAN_STRENGTH: Final = -1.0
_HOLD: Final = 0.3
_STARTS: Final = (-4.0, -2.0, 0.0, 2.0)
_MOST_ITERATIONS: Final = 25


@dataclass(frozen=True)
class Bands:
    """What was chosen.

    Attributes:
        variance_K: prior variance of a weight of each band, in units of the noise; 0 for a band that never varies.
        unseen_NC: about each clip the answer of a regression that has not seen its speaker.
    """

    variance_K: Tensor
    unseen_NC: Tensor


def choose(inputs_NI: Tensor, targets_NC: Tensor, speakers: Sequence[str], sizes: Sequence[int]) -> Bands:
    """Choose the variances. Time grows with the cube of the number of clips; some hundred are enough.

    Args:
        inputs_NI: around 0, with what a clip does not have as 0.
        sizes: number of inputs of each band, in their order.

    Raises:
        ValueError: there are fewer than two clips.
    """
    num_clips = len(inputs_NI)
    if num_clips < 2:
        raise ValueError("to choose how much each kind of input counts, two labelled clips are needed: label more")
    groups = [torch.from_numpy(each) for each in _groups(speakers)]
    bands = [band_NI @ band_NI.T for band_NI in torch.split(inputs_NI.double(), list(sizes), dim=1)]
    extents = [float(band_NN.diagonal().mean()) for band_NN in bands]
    varying = [number for number, extent in enumerate(extents) if extent > 0]
    variance_K = torch.zeros(len(bands), dtype=torch.float64)
    kernel_NN = torch.zeros(num_clips, num_clips, dtype=torch.float64)
    if varying:
        kernels_KNN = torch.stack([bands[number] / extents[number] for number in varying])
        strength_K = _best_strengths(kernels_KNN, targets_NC.double(), groups).exp()
        kernel_NN = torch.einsum("k,knm->nm", strength_K, kernels_KNN)
        variance_K[varying] = strength_K / torch.tensor([extents[number] for number in varying])
    return Bands(variance_K, _unseen(_residuals(kernel_NN, targets_NC, groups), targets_NC))


def solve(batches: Iterable[tuple[Tensor, Tensor]], variance_K: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(I, C) weights and (C,) intercept of the regression on all clips.

    Args:
        batches: inputs and targets, a part of the clips at a time: they need not fit into memory.
    """
    num_inputs = sum(sizes)
    variance_I = torch.repeat_interleave(variance_K, torch.tensor(list(sizes)))
    # Scaled by their prior deviation all inputs have the same penalty, and a band that does not count is nought.
    scale_I = variance_I.sqrt()
    second_II = torch.zeros(num_inputs, num_inputs, dtype=torch.float64)
    cross_IC, input_sum_I, target_sum_C, num_clips = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0
    for inputs_BI, targets_BC in batches:
        scaled_BI, wide_BC = inputs_BI.double() * scale_I, targets_BC.double()
        second_II += scaled_BI.T @ scaled_BI
        cross_IC = cross_IC + scaled_BI.T @ wide_BC
        input_sum_I, target_sum_C = input_sum_I + scaled_BI.sum(dim=0), target_sum_C + wide_BC.sum(dim=0)
        num_clips += len(inputs_BI)
    mean_I, mean_C = input_sum_I / num_clips, target_sum_C / num_clips
    second_II -= num_clips * torch.outer(mean_I, mean_I)
    second_II.diagonal().add_(1.0)
    weight_IC = torch.cholesky_solve(
        cross_IC - num_clips * torch.outer(mean_I, mean_C), torch.linalg.cholesky(second_II)
    )
    return weight_IC * scale_I[:, None], mean_C - mean_I @ weight_IC


def _groups(speakers: Sequence[str]) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Clips that are left out together: of a speaker or several, in groups of like size; of one speaker any clips."""
    names, speaker_N = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < 2:
        speaker_N = np.arange(len(speakers))
    sizes = np.bincount(speaker_N)
    num_groups = min(_MOST_GROUPS, len(sizes))
    filled, group_of = np.zeros(num_groups), np.zeros(len(sizes), dtype=np.int64)
    for speaker in np.argsort(-sizes, kind="stable"):
        group_of[speaker] = filled.argmin()
        filled[group_of[speaker]] += sizes[speaker]
    return [np.flatnonzero(group_of[speaker_N] == group) for group in range(num_groups)]


def _best_strengths(kernels_KNN: Tensor, targets_NC: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """(K,) logarithms at which the squared error about unseen speakers is least."""

    def loss(strength_K: Tensor) -> Tensor:
        kernel_NN = torch.einsum("k,knm->nm", strength_K.exp(), kernels_KNN)
        errors = [error_GC.square().sum() for _, error_GC in _residuals(kernel_NN, targets_NC, groups)]
        return (torch.stack(errors).sum() + _HOLD * (strength_K - _MEAN_STRENGTH).square().sum()) / len(targets_NC)

    starts = [torch.full((len(kernels_KNN),), start, dtype=torch.float64) for start in _STARTS]
    strength_K = min(starts, key=lambda start_K: float(loss(start_K))).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [strength_K],
        max_iter=_MOST_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        found = loss(strength_K)
        found.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(found.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # as above
    return strength_K.detach()


def _residuals(kernel_NN: Tensor, targets_NC: Tensor, groups: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of each group its clips, and by how much the answers without them miss their targets."""
    num_clips = len(kernel_NN)
    covariance_NN = kernel_NN + _INTERCEPT_VARIANCE + torch.eye(num_clips, dtype=torch.float64)
    inverse_NN = torch.cholesky_inverse(torch.linalg.cholesky(covariance_NN))
    weighted_NC = inverse_NN @ targets_NC.double()
    return [(each, torch.linalg.solve(inverse_NN[each][:, each], weighted_NC[each])) for each in groups]


def _unseen(residuals: Sequence[tuple[Tensor, Tensor]], targets_NC: Tensor) -> Tensor:
    unseen_NC = targets_NC.double().clone()
    for clips_G, error_GC in residuals:
        unseen_NC[clips_G] -= error_GC
    return unseen_NC
