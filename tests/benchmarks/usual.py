"""A model of this project as most public code of the field writes it, with the very same weights and mathematics.

Its attention is `nn.MultiheadAttention`, called as everybody does; dropout draws a number for each element, and for
each attention weight; batches are drawn at random and padded to their longest clip; AdamW is neither fused nor told
apart by kinds of weights; the loss is fetched at every step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from components.batches import Batch, ClipSource, collate
from components.models.attention import CrossAttention
from components.models.dropout import Dropout, StepDropout
from components.models.layers import Attention


class UsualAttention(nn.Module):
    """`Attention` by `nn.MultiheadAttention`, whose `bias_k` and `bias_v` are the null key and value."""

    def __init__(self, attention: Attention, dropout: float) -> None:
        super().__init__()
        width = attention.query.in_features
        self.attention = nn.MultiheadAttention(
            width, attention.num_heads, dropout=dropout, add_bias_kv=True, batch_first=True
        )
        own = self.attention
        assert own.bias_k is not None
        assert own.bias_v is not None
        with torch.no_grad():
            own.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
            own.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
            own.bias_k.copy_(attention.null_key_value[0])
            own.bias_v.copy_(attention.null_key_value[1])
            own.out_proj.weight.copy_(attention.output.weight)
            own.out_proj.bias.copy_(attention.output.bias)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, memory_mask_BS: Tensor) -> Tensor:
        attended_BTD: Tensor = self.attention(x_BTD, memory_BSD, memory_BSD, key_padding_mask=~memory_mask_BS)[0]
        return attended_BTD


class UsualCrossAttention(nn.Module):
    """`CrossAttention` by `nn.MultiheadAttention`; every query must have something to look at."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        width = attention.output.in_features
        self.attention = nn.MultiheadAttention(width, attention.num_heads, attention.dropout, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(attention.query_key_value.weight)
            self.attention.in_proj_bias.copy_(attention.query_key_value.bias)
            self.attention.out_proj.weight.copy_(attention.output.weight)
            self.attention.out_proj.bias.copy_(attention.output.bias)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, memory_mask_BS: Tensor, *, causal: bool = False) -> Tensor:
        future_TS = None
        if causal:
            future_TS = torch.ones(x_BTD.shape[1], memory_BSD.shape[1], dtype=torch.bool, device=x_BTD.device).triu(1)
        attended_BTD: Tensor = self.attention(
            x_BTD, memory_BSD, memory_BSD, key_padding_mask=~memory_mask_BS, attn_mask=future_TS
        )[0]
        return attended_BTD


class UsualDropout(nn.Dropout):
    """`nn.Dropout`, and what a layer adds to what came in, one after the other."""

    def added(self, x_BTD: Tensor, more_BTD: Tensor) -> Tensor:
        """The sum of what came in and of what is left of `more_BTD`."""
        left_BTD: Tensor = self(more_BTD)
        return x_BTD + left_BTD


def usual(model: nn.Module, *, dropout: float) -> nn.Module:
    """A copy of a model, written the usual way."""
    return _rewritten(copy.deepcopy(model), dropout)


def _rewritten(module: nn.Module, dropout: float) -> nn.Module:
    if isinstance(module, Attention):
        return UsualAttention(module, dropout)
    if isinstance(module, CrossAttention):
        return UsualCrossAttention(module)
    if isinstance(module, Dropout | StepDropout):
        return UsualDropout(module.chance)
    for name, child in module.named_children():
        setattr(module, name, _rewritten(child, dropout))
    return module


class Positions(torch.utils.data.Dataset[int]):
    """The positions of clips, which a function that collates reads and pads."""

    def __init__(self, num_clips: int) -> None:
        self._num_clips = num_clips

    def __len__(self) -> int:
        return self._num_clips

    def __getitem__(self, index: int) -> int:
        return index


class UsualTraining:
    """A training loop as in most tutorials."""

    def __init__(self, model: nn.Module, clips: ClipSource, *, batch_size: int, learning_rate: float) -> None:
        self._model, self._clips = model, clips
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        self._loader = DataLoader(
            Positions(len(clips)), batch_size=batch_size, shuffle=True, collate_fn=self._padded, drop_last=False
        )

    def epoch(self) -> float:
        """Train for an epoch; the mean loss of its batches."""
        self._model.train()
        losses = []
        for batch in self._batches():
            self._optimizer.zero_grad()
            logits_BC = self._model(**batch.inputs()).logits_BC
            loss = F.cross_entropy(logits_BC, batch.labels_BC.argmax(dim=1))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def _batches(self) -> Iterator[Batch]:
        yield from self._loader

    def _padded(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        return collate(self._clips, indices)
