"""Multi-head attention: the mixing of values that all systems share, and the layer as published.

Shape suffixes: B batch, T steps of the sequence that looks, S steps of the sequence looked at, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.dropout import drop


def attend(
    query_BTD: Tensor, key_BSD: Tensor, value_BSD: Tensor, mask: Tensor, *, num_heads: int, dropout: float = 0.0
) -> Tensor:
    """(B, T, D): for each head scaled dot products, softmax over S, and the values mixed by it (Vaswani et al. 2017).

    PyTorch's own `scaled_dot_product_attention` on a GPU. On a processor that takes one and a half times to nine times
    as long, forward and backward, as the products themselves, at the sizes of this field's models.

    Args:
        mask: (B, 1, T or 1, S) what may be looked at (True); every query needs something.
        dropout: chance that a weight is left out.
    """
    query, key, value = (_heads(part, num_heads) for part in (query_BTD, key_BSD, value_BSD))
    if query.device.type == "cpu":
        scores_BHTS = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        scores_BHTS = scores_BHTS + torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
        mixed = drop(scores_BHTS.softmax(dim=-1), dropout) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    mixed_BTD: Tensor = mixed.transpose(1, 2).flatten(2)
    return mixed_BTD


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
        mask_B1TS = memory_mask_BS[:, None, None, :]
        if causal:
            past_TS = torch.ones(x_BTD.shape[1], memory_BSD.shape[1], dtype=torch.bool, device=x_BTD.device).tril()
            mask_B1TS = mask_B1TS & past_TS
        anything_B1T1 = mask_B1TS.any(dim=3, keepdim=True)
        mixed_BTD = attend(
            query_BTD,
            key_BSD,
            value_BSD,
            mask_B1TS | ~anything_B1T1,
            num_heads=self.num_heads,
            dropout=self.dropout if self.training else 0.0,
        )
        attended: Tensor = self.output(torch.where(anything_B1T1[:, 0], mixed_BTD, 0.0))
        return attended
