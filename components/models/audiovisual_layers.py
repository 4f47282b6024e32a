"""Stacks of the audiovisual system: embedding with positions, pre-norm layers, reconstruction heads.

Shape suffixes: B batch, T steps, S steps of the sequence looked at, D width, F features of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from components.models.attention import CrossAttention
from components.models.dropout import Dropout


@dataclass(frozen=True)
class StackSettings:
    """What the layers of a stack have in common.

    Attributes:
        causal: a step sees no later one.
        position_on_zero_frames: also a step whose input is zero (masked or padded) is told where it stands.
        embedding_dropout, attention_dropout, relu_dropout, residual_dropout: chances, where the names say.
    """

    num_layers: int
    width: int
    num_heads: int
    causal: bool
    position_on_zero_frames: bool
    embedding_dropout: float
    attention_dropout: float
    relu_dropout: float
    residual_dropout: float


class AudiovisualLayer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """A pre-norm layer; one norm serves queries and keys alike, also where they come from two sequences."""

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        width = settings.width
        self.causal = settings.causal
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CrossAttention(width, settings.num_heads, settings.attention_dropout)
        self.forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.relu_dropout = Dropout(settings.relu_dropout)
        self.residual_dropout = Dropout(settings.residual_dropout)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor | None, memory_mask_BS: Tensor) -> Tensor:
        """`memory_BSD` None is attention to itself."""
        normed_BTD = self.attention_norm(x_BTD)
        looked_at_BSD = normed_BTD if memory_BSD is None else self.attention_norm(memory_BSD)
        attended_BTD = self.attention(normed_BTD, looked_at_BSD, memory_mask_BS, causal=self.causal)
        x_BTD = x_BTD + self.residual_dropout(attended_BTD)
        inner_BTD = self.relu_dropout(F.relu(self.expand(self.forward_norm(x_BTD))))
        left_BTD: Tensor = x_BTD + self.residual_dropout(self.contract(inner_BTD))
        return left_BTD


class AudiovisualStack(nn.Module):
    """Embedding, layers and a norm at the end; every layer looks at the embedded memory, not at a deeper one."""

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = Dropout(settings.embedding_dropout)
        self.layers = nn.ModuleList(AudiovisualLayer(settings) for _ in range(settings.num_layers))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor | None, memory_mask_BS: Tensor) -> Tensor:
        """`memory_BSD` None is attention to itself; `memory_mask_BS` tells the valid steps of what is looked at."""
        x_BTD = self._embedded(x_BTD)
        memory_BSD = None if memory_BSD is None else self._embedded(memory_BSD)
        for layer in self.layers:
            x_BTD = layer(x_BTD, memory_BSD, memory_mask_BS)
        normed: Tensor = self.norm(x_BTD)
        return normed

    def _embedded(self, x_BTD: Tensor) -> Tensor:
        places_BTD = sinusoidal_positions(x_BTD.shape[1], x_BTD.shape[2], x_BTD)[None]
        if not self.settings.position_on_zero_frames:
            # The authors tell a step to leave out, padded or masked, by its first channel alone.
            places_BTD = torch.where(x_BTD[:, :, :1] != 0, places_BTD, 0.0)
        embedded: Tensor = self.dropout(x_BTD * math.sqrt(x_BTD.shape[2]) + places_BTD)
        return embedded


class ReconstructionHead(nn.Module):
    """Frames of one modality from the joint sequence: two linear maps beside a shortcut, and one to the features."""

    def __init__(self, width: int, num_features: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.frames = nn.Linear(width, num_features)

    def forward(self, x_BTD: Tensor) -> Tensor:
        rebuilt_BTF: Tensor = self.frames(x_BTD + self.second(F.relu(self.first(x_BTD))))
        return rebuilt_BTF


def sinusoidal_positions(num_steps: int, width: int, like: Tensor) -> Tensor:
    """(T, D) sines, then cosines, of the places 1, 2, ... with rates from 1 down to 1e-4, as fairseq lays them out.

    An odd last column is zero. Device and type are those of `like`.
    """
    half = width // 2
    step = math.log(1e4) / max(1, half - 1)
    rate_D = torch.exp(torch.arange(half, device=like.device, dtype=like.dtype) * -step)
    place_T = torch.arange(1, num_steps + 1, device=like.device, dtype=like.dtype)
    angle_TD = place_T[:, None] * rate_D[None, :]
    return F.pad(torch.cat([angle_TD.sin(), angle_TD.cos()], dim=1), (0, width - 2 * half))
