"""What pre-training rebuilds the inputs of the trimodal system with.

Shape suffixes: as in `components.models.trimodal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.layers import Stack, positions

if TYPE_CHECKING:
    from components.models.trimodal import TrimodalConfig, TrimodalOutput


@dataclass(frozen=True)
class Reconstruction:
    """What the model believes the inputs to be: normalised frames, and scores over the vocabulary."""

    audio_BTF: Tensor
    video_BTF: Tensor
    words_BTV: Tensor


class Decoder(nn.Module):
    """Reconstruction heads: audio where it lies, video and words by a look from their places at the fusion.

    A place knows its modality and its time, nothing of what stood there: all that is rebuilt has come through the
    fused sequence, which is what a classifier will read.
    """

    def __init__(self, config: TrimodalConfig) -> None:
        super().__init__()
        width = config.width
        self.video_stride = config.video_step_s / config.audio_step_s
        self.video_query = nn.Parameter(torch.empty(width))
        self.word_query = nn.Parameter(torch.empty(width))
        self.video_block = Stack(1, width, config.num_heads, config.dropout, cross=True)
        self.word_block = Stack(1, width, config.num_heads, config.dropout, cross=True)
        self.audio_head = nn.Linear(width, config.audio_features)
        self.video_head = nn.Linear(width, config.video_features)
        self.word_head = nn.Linear(width, config.vocabulary_size)

    def forward(self, output: TrimodalOutput, num_audio: int, num_video: int, num_words: int) -> Reconstruction:
        fused_BAD, mask_BA = output.fused_BAD, output.step_mask_BA
        batch, num_steps, width = fused_BAD.shape
        video_TD = self.video_query + positions(num_video, width, self.video_stride, fused_BAD.device)
        words_TD = self.word_query + positions(num_words, width, 1.0, fused_BAD.device)
        audio_BAD = F.pad(fused_BAD, (0, 0, 0, max(0, num_audio - num_steps)))[:, :num_audio]
        return Reconstruction(
            audio_BTF=self.audio_head(audio_BAD),
            video_BTF=self.video_head(self.video_block(video_TD.expand(batch, -1, -1), fused_BAD, mask_BA)),
            words_BTV=self.word_head(self.word_block(words_TD.expand(batch, -1, -1), fused_BAD, mask_BA)),
        )
