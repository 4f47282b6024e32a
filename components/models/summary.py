"""The linear part of a system: how a clip's frames lie and move, and which words there are.

What a ridge regression on clip statistics knows, inside a system that is trained by gradients: on a few hundred
clips little beats it, and on more it does no harm.

Shape suffixes: B batch, T steps, F features of a step, D width of a word, S entries of a summary, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.layers import dynamics

# A step of Adam moves a weight by the learning rate, whatever its input: on a few hundred clips the weights of the
# linear part would not come far enough at a rate that suits the transformer.
_GAIN: Final = 3.0


@dataclass(frozen=True)
class MaskedFrames:
    """Normalised frames of one modality, and which of their steps are there to be seen."""

    x_BTF: Tensor
    seen_BT: Tensor

    def windows(self, num_steps: int, num_windows: int) -> MaskedFrames:
        """The frames cut into (B * `num_windows`) clips of `num_steps`, in order; behind the end nothing is seen."""
        needed = num_steps * num_windows - self.x_BTF.shape[1]
        x_BTF = F.pad(self.x_BTF, (0, 0, 0, needed))
        seen_BT = F.pad(self.seen_BT, (0, needed))
        return MaskedFrames(x_BTF.reshape(-1, num_steps, x_BTF.shape[2]), seen_BT.reshape(-1, num_steps))


@dataclass(frozen=True)
class Summarised:
    """How the frames of one modality are summarised.

    Attributes:
        width: features of a step.
        frames_per_step: frames of which a step consists, one behind the other: what moves within a step counts too.
        scales: in frames; see `dynamics`.
    """

    width: int
    frames_per_step: int
    scales: tuple[int, ...]

    @property
    def num_entries(self) -> int:
        """Numbers that a clip is summarised in."""
        return (1 + 2 * len(self.scales)) * (self.width // self.frames_per_step)

    def summary(self, steps: MaskedFrames) -> Tensor:
        """(B, S) dynamics of the frames."""
        batch, num_steps, _ = steps.x_BTF.shape
        x_BTF = steps.x_BTF.reshape(batch, num_steps * self.frames_per_step, self.width // self.frames_per_step)
        return dynamics(x_BTF, steps.seen_BT.repeat_interleave(self.frames_per_step, dim=1), self.scales)


class SummaryHead(nn.Module):
    """Scores of the classes, linear in the standardised dynamics of audio and video and in the mean word."""

    mean_S: Tensor
    deviation_S: Tensor

    def __init__(self, modalities: Sequence[Summarised], word_width: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        num_entries = sum(each.num_entries for each in modalities)
        self.register_buffer("mean_S", torch.zeros(num_entries))
        self.register_buffer("deviation_S", torch.ones(num_entries))
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(num_entries + word_width, num_classes)

    def forward(self, frames: Sequence[MaskedFrames], words_BD: Tensor) -> Tensor:
        """(B, C) scores; `words_BD` is zero for a clip without words, and frames that nobody sees add nothing."""
        summary_BS, there_BS = self._summaries(frames)
        standard_BS = torch.where(there_BS, (summary_BS - self.mean_S) / self.deviation_S, 0.0)
        scores_BC: Tensor = self.scores(self.dropout(torch.cat([standard_BS, words_BD], dim=1)))
        return _GAIN * scores_BC

    def learn(self, batches: Iterable[Sequence[MaskedFrames]]) -> None:
        """Store the mean and deviation of each entry over the clips that have its modality."""
        count_S = torch.zeros_like(self.mean_S, dtype=torch.float64)
        sums_2S = torch.zeros(2, len(self.mean_S), dtype=torch.float64, device=self.mean_S.device)
        for frames in batches:
            summary_BS, there_BS = self._summaries(frames)
            values_BS = torch.where(there_BS, summary_BS, 0.0).double()
            count_S += there_BS.sum(dim=0)
            sums_2S += torch.stack([values_BS.sum(dim=0), values_BS.square().sum(dim=0)])
        mean_S, square_S = sums_2S / count_S.clamp(min=1)
        deviation_S = (square_S - mean_S.square()).clamp(min=0).sqrt()
        self.mean_S.copy_(mean_S)
        # An entry that never changes stays 0 whatever it is divided by.
        self.deviation_S.copy_(torch.where(deviation_S < 1e-4, 1.0, deviation_S))

    def _summaries(self, frames: Sequence[MaskedFrames]) -> tuple[Tensor, Tensor]:
        """(B, S) dynamics of all modalities, and which entries belong to a modality that the clip has."""
        parts = [how.summary(each) for how, each in zip(self.modalities, frames, strict=True)]
        there = [
            each.seen_BT.any(dim=1, keepdim=True).expand_as(part) for each, part in zip(frames, parts, strict=True)
        ]
        return torch.cat(parts, dim=1), torch.cat(there, dim=1)
