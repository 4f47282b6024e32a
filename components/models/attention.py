"""Multi-head attention: the mixing of values that all systems share, and the layer as published.

Shape suffixes: B batch, T steps of the sequence that looks, S steps of the sequence looked at, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.dropout import drop


def attend(
    query_BTD: Tensor,
    key_BSD: Tensor,
    value_BSD: Tensor,
    mask: Tensor,
    *,
    num_heads: int,
    dropout: float = 0.0,
    null_key_value: Tensor | None = None,
) -> Tensor:
    """(B, T, D): for each head scaled dot products, softmax over S, and the values mixed by it (Vaswani et al. 2017).

    PyTorch's own `scaled_dot_product_attention` on a GPU. On a processor that takes one and a half times to nine times
    as long, forward and backward, as the products themselves, at the sizes of this field's models.

    Args:
        mask: what may be looked at (True), (B, S), or (B, T, S) where queries differ; every query needs something.
        dropout: chance that a weight is left out.
        null_key_value: (2, D) a key and a value that stand in front of every sequence, for a query that finds nothing.
    """
    query, key, value = (_heads(part, num_heads) for part in (query_BTD, key_BSD, value_BSD))
    if null_key_value is not None:
        null_key_D, null_value_D = null_key_value.unbind()
        key, value = _preceded(key, null_key_D), _preceded(value, null_value_D)
        mask = F.pad(mask, (1, 0), value=True)
    if query.device.type == "cpu":
        mixed = drop(_scores(query, key, mask).softmax(dim=-1), dropout) @ value
    else:
        mask_B1TS = mask[:, None] if mask.ndim == 3 else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B1TS, dropout_p=dropout)
    mixed_BTD: Tensor = mixed.transpose(1, 2).flatten(2)
    return mixed_BTD


def _scores(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """(B, H, T, S) scaled dot products, minus infinity where the mask, (B, S) or (B, T, S), is False."""
    batch, num_heads, _, width = query.shape
    hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    if mask.ndim == 3:
        apart: Tensor = (query * width**-0.5) @ key.transpose(-1, -2)
        return apart + hidden[:, None]
    # Small enough to be laid out for every head, and added while the products are written.
    hidden = hidden[:, None, None].expand(-1, num_heads, -1, -1).flatten(0, 1)
    products = torch.baddbmm(hidden, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=width**-0.5)
    return products.reshape(batch, num_heads, *products.shape[1:])


def _preceded(x_BHSD: Tensor, first_D: Tensor) -> Tensor:
    """A sequence with one step more, at its beginning: laid out by heads, so that products need no copy of it."""
    batch, num_heads, _, width = x_BHSD.shape
    first_BH1D = first_D.to(x_BHSD.dtype).reshape(1, num_heads, 1, width).expand(batch, -1, -1, -1)
    return torch.cat([first_BH1D, x_BHSD], dim=2)


def _heads(x_BTD: Tensor, num_heads: int) -> Tensor:
    batch, steps, width = x_BTD.shape
    return x_BTD.reshape(batch, steps, num_heads, width // num_heads).transpose(1, 2)


class CrossAttention(nn.Module):
    """Scaled dot products of heads (Vaswani et al. 2017): queries of one sequence, keys and values of another.

    A query without anything to look at gets zeros from all heads, so what leaves is the bias of the output.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, memory_mask_BS: Tensor, *, causal: bool = False) -> Tensor:
        """(B, T, D). Only valid steps of the memory (True) are looked at; with `causal` none later than the query's."""
        width = x_BTD.shape[2]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        if x_BTD is memory_BSD:
            query_BTD, key_BSD, value_BSD = self.query_key_value(x_BTD).chunk(3, dim=2)
        else:
            query_BTD = F.linear(x_BTD, weight[:width], bias[:width])
            key_BSD, value_BSD = F.linear(memory_BSD, weight[width:], bias[width:]).chunk(2, dim=2)
        mask = memory_mask_BS
        if causal:
            past_TS = torch.ones(x_BTD.shape[1], memory_BSD.shape[1], dtype=torch.bool, device=x_BTD.device).tril()
            mask = memory_mask_BS[:, None] & past_TS
        anything = mask.any(dim=-1, keepdim=True)
        mixed_BTD = attend(
            query_BTD,
            key_BSD,
            value_BSD,
            mask | ~anything,
            num_heads=self.num_heads,
            dropout=self.dropout if self.training else 0.0,
        )
        anything_BT1 = anything if causal else anything[:, None]
        attended: Tensor = self.output(torch.where(anything_BT1, mixed_BTD, 0.0))
        return attended
