"""Dropout that costs little on a processor, where PyTorch draws its numbers one after the other."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BITS_OF_SEED = 62
# Numbers of 16 bits, four to each that is drawn: a chance is met to 1 / 65536.
_NUM_VALUES = 2**16


def drop(x: Tensor, chance: float) -> Tensor:
    """Each element with this chance 0, otherwise enlarged so that its mean stays: as `F.dropout` in training.

    The draw follows PyTorch's generator: equal seeds, equal elements.
    """
    if x.device.type != "cpu":
        return F.dropout(x, chance)
    num_dropped = round(chance * _NUM_VALUES)
    if num_dropped == 0:
        return x
    seed = int(torch.randint(2**_BITS_OF_SEED, ()))
    drawn = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
    least_kept = num_dropped - _NUM_VALUES // 2
    # Zeros and ones by way of the numbers themselves: from booleans it would take half as long again.
    kept = torch.from_numpy(drawn).view(x.shape).clamp_(least_kept - 1, least_kept).sub_(least_kept - 1).to(x.dtype)
    return x * kept.mul_(_NUM_VALUES / (_NUM_VALUES - num_dropped))


class Dropout(nn.Module):
    """`drop` as a module, in training only."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.chance) if self.training else x


class StepDropout(nn.Module):
    """Dropout that leaves out the same features at every step of a clip.

    One mask a clip instead of one a step: as strong a regulariser for sequences (Gal & Ghahramani 2016), and next to no
    numbers are drawn.
    """

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD * self._kept(x_BTD) if self._leaves_out else x_BTD

    def added(self, x_BTD: Tensor, more_BTD: Tensor) -> Tensor:
        """The sum of `x_BTD` and of what is left of `more_BTD`, in one pass over both."""
        return torch.addcmul(x_BTD, more_BTD, self._kept(more_BTD)) if self._leaves_out else x_BTD + more_BTD

    @property
    def _leaves_out(self) -> bool:
        return self.training and self.chance > 0

    def _kept(self, x_BTD: Tensor) -> Tensor:
        """(B, 1, D): 0 for what is left out, and for the rest what keeps the mean."""
        kept_B1D = torch.rand(x_BTD.shape[0], 1, x_BTD.shape[2], device=x_BTD.device) >= self.chance
        return kept_B1D / (1 - self.chance)
