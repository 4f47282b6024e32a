"""Multi-head attention as published, without additions: what the systems of two papers are made of.

Shape suffixes: B batch, T steps of the sequence that looks, S steps of the sequence looked at, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        batch, steps, width = x_BTD.shape
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query_BHTD = self._heads(F.linear(x_BTD, weight[:width], bias[:width]))
        key_value_BSD = F.linear(memory_BSD, weight[width:], bias[width:])
        key_BHSD, value_BHSD = (self._heads(part_BSD) for part_BSD in key_value_BSD.chunk(2, dim=2))
        mask_B1TS = memory_mask_BS[:, None, None, :]
        if causal:
            past_TS = torch.ones(steps, memory_BSD.shape[1], dtype=torch.bool, device=x_BTD.device).tril()
            mask_B1TS = mask_B1TS & past_TS
        anything_B1T1 = mask_B1TS.any(dim=3, keepdim=True)
        mixed_BHTD = F.scaled_dot_product_attention(
            query_BHTD,
            key_BHSD,
            value_BHSD,
            attn_mask=mask_B1TS | ~anything_B1T1,
            dropout_p=self.dropout if self.training else 0.0,
        )
        mixed_BHTD = torch.where(anything_B1T1, mixed_BHTD, 0.0)
        attended: Tensor = self.output(mixed_BHTD.transpose(1, 2).reshape(batch, steps, width))
        return attended

    def _heads(self, x_BTD: Tensor) -> Tensor:
        batch, steps, width = x_BTD.shape
        return x_BTD.reshape(batch, steps, self.num_heads, width // self.num_heads).transpose(1, 2)
