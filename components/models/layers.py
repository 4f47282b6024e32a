"""The parts that systems are made of: pre-norm transformer layers, positions, pooling.

Every part takes a mask of valid steps (True) and never lets an invalid one reach a valid output.

Shape suffixes: B batch, T steps of the sequence itself, S steps of the sequence it looks at, D width, H heads,
F features of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from components.models.attention import attend
from components.models.dropout import StepDropout


class Attention(nn.Module):
    """Multi-head attention, from a sequence to itself or to another one, with a learned null key.

    The null key and value stand in front of every looked-at sequence: a query that finds nothing, above all in
    an empty sequence, has somewhere to look.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.null_key_value = nn.Parameter(torch.empty(2, width))

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, memory_mask_BS: Tensor) -> Tensor:
        key_BSD, value_BSD = self.key_value(memory_BSD).chunk(2, dim=2)
        mixed_BTD = attend(
            self.query(x_BTD),
            key_BSD,
            value_BSD,
            memory_mask_BS,
            num_heads=self.num_heads,
            null_key_value=self.null_key_value,
        )
        attended: Tensor = self.output(mixed_BTD)
        return attended


class Layer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """A pre-norm transformer layer: attention, then a feed-forward part, each added to what comes in.

    With a memory of its own it is a cross-modal layer (Tsai et al. 2019): queries from one modality, keys and
    values from another.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, *, cross: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width) if cross else None
        self.attention = Attention(width, num_heads)
        self.forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.dropout = StepDropout(dropout)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor | None, memory_mask_BS: Tensor) -> Tensor:
        normed_BTD = self.attention_norm(x_BTD)
        if self.memory_norm is None:
            looked_at_BSD = normed_BTD
        else:
            assert memory_BSD is not None
            looked_at_BSD = self.memory_norm(memory_BSD)
        x_BTD = self.dropout.added(x_BTD, self.attention(normed_BTD, looked_at_BSD, memory_mask_BS))
        inner_BTD = F.gelu(self.expand(self.forward_norm(x_BTD)))
        left_BTD: Tensor = self.dropout.added(x_BTD, self.contract(inner_BTD))
        return left_BTD


class Stack(nn.Module):
    """Layers one after another, of one kind, with a norm at the end."""

    def __init__(self, num_layers: int, width: int, num_heads: int, dropout: float, *, cross: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, num_heads, dropout, cross=cross) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor | None, memory_mask_BS: Tensor) -> Tensor:
        for layer in self.layers:
            x_BTD = layer(x_BTD, memory_BSD, memory_mask_BS)
        normed: Tensor = self.norm(x_BTD)
        return normed


class FrameProjection(nn.Module):
    """Frames of features to the model's width, each with a look at its neighbours (a convolution of 3 steps)."""

    def __init__(self, num_features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(num_features, width)
        self.neighbours = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.dropout = StepDropout(dropout)

    def forward(self, x_BTF: Tensor, mask_BT: Tensor) -> Tensor:
        # The convolution looks one step over the clip's end: there it must see what it sees at the tensor's end.
        projected_BTD = self.project(x_BTF) * mask_BT[:, :, None]
        local_BTD = self.neighbours(projected_BTD.transpose(1, 2)).transpose(1, 2).contiguous()
        projected: Tensor = self.dropout(self.norm(projected_BTD + F.gelu(local_BTD)))
        return projected


def valid_steps(lengths_B: Tensor, num_steps: int) -> Tensor:
    """(B, T) bool: which steps lie within each clip's length."""
    return torch.arange(num_steps, device=lengths_B.device)[None, :] < lengths_B[:, None]


def positions(num_steps: int, width: int, step: float, device: torch.device) -> Tensor:
    """(T, D) sinusoidal positions (Vaswani et al. 2017) of steps that lie `step` apart on the shared time axis."""
    time_T = torch.arange(num_steps, device=device, dtype=torch.float32) * step
    rate_D = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(1e4) / width))
    angle_TD = time_T[:, None] * rate_D[None, :]
    return torch.stack([angle_TD.sin(), angle_TD.cos()], dim=2).reshape(num_steps, -1)[:, :width]


def statistics_pooling(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, 2 D): mean and standard deviation over the valid steps; a clip without any gets zeros."""
    weight_BT1 = mask_BT[:, :, None].to(x_BTD.dtype)
    count_B1 = weight_BT1.sum(dim=1).clamp(min=1)
    mean_BD = (x_BTD * weight_BT1).sum(dim=1) / count_B1
    variance_BD = ((x_BTD - mean_BD[:, None, :]).square() * weight_BT1).sum(dim=1) / count_B1
    # The root's slope is infinite at 0, where a clip of one step lies.
    deviation_BD = (variance_BD + 1e-6).sqrt()
    return torch.cat([mean_BD, deviation_BD], dim=1)


def dynamics(x_BTF: Tensor, mask_BT: Tensor, scales: Sequence[int]) -> Tensor:
    """(B, (1 + 2 len(scales)) F): how a clip's frames lie and how they move; a clip without any gets zeros.

    The mean, and at each scale, for averages over that many consecutive steps, their standard deviation and the mean
    absolute change from one to the next. The quick movements are what delta features hold (Furui 1986), the slow ones
    what the modulation spectrum does.
    """
    weight_BT1 = mask_BT[:, :, None].to(x_BTF.dtype)
    x_BTF = torch.where(mask_BT[:, :, None], x_BTF, 0.0)
    mean_BF = x_BTF.sum(dim=1) / weight_BT1.sum(dim=1).clamp(min=1)
    parts_BF = [mean_BF]
    for scale in scales:
        sums_BSF, counts_BS1 = (_chunks(each, scale).sum(dim=2) for each in (x_BTF, weight_BT1))
        averages_BSF, there_BS1 = sums_BSF / counts_BS1.clamp(min=1), counts_BS1 > 0
        spread_BSF = torch.where(there_BS1, averages_BSF - mean_BF[:, None], 0.0).square()
        variance_BF = spread_BSF.sum(dim=1) / there_BS1.sum(dim=1).clamp(min=1)
        both_BS1 = there_BS1[:, 1:] & there_BS1[:, :-1]
        change_BSF = torch.where(both_BS1, averages_BSF[:, 1:] - averages_BSF[:, :-1], 0.0).abs()
        # The root's slope is infinite at 0, where a clip of one step lies.
        parts_BF += [(variance_BF + 1e-6).sqrt(), change_BSF.sum(dim=1) / both_BS1.sum(dim=1).clamp(min=1)]
    return torch.where(mask_BT.any(dim=1, keepdim=True), torch.cat(parts_BF, dim=1), 0.0)


def _chunks(x_BTF: Tensor, size: int) -> Tensor:
    """(B, T / size, size, F): consecutive steps together, the last chunk filled up with zeros."""
    padded_BTF = F.pad(x_BTF, (0, 0, 0, -x_BTF.shape[1] % size))
    return padded_BTF.reshape(x_BTF.shape[0], -1, size, x_BTF.shape[2])
