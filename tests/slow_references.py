"""Slow, obvious forms of what the models compute quickly, in numpy and float64, one clip at a time."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64 and evaluation mode, every weight drawn so that it matters."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


def affine(module: nn.Module, x: Array) -> Array:
    """What a linear layer does to each row."""
    linear = cast(nn.Linear, module)
    return np.stack([linear.weight.detach().numpy() @ row + linear.bias.detach().numpy() for row in x])


def layer_norm(module: nn.Module, x: Array) -> Array:
    norm = cast(nn.LayerNorm, module)
    rows = [(row - row.mean()) / math.sqrt(row.var() + norm.eps) for row in x]
    found: Array = np.stack(rows) * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    return found


def attention(query: Array, key: Array, value: Array, allowed: NDArray[np.bool_], num_heads: int) -> Array:
    """Heads one by one, queries one by one, keys one by one; a query that may look at nothing gets zeros."""
    found = np.zeros_like(query)
    size = query.shape[1] // num_heads
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        for place in range(len(query)):
            scores = [
                math.exp(float(query[place, part] @ key[other, part]) / math.sqrt(size))
                if allowed[place, other]
                else 0.0
                for other in range(len(key))
            ]
            if sum(scores) > 0:
                for other, score in enumerate(scores):
                    found[place, part] += score / sum(scores) * value[other, part]
    return found


def allowed_steps(num_queries: int, num_keys: int, length: int, *, causal: bool) -> NDArray[np.bool_]:
    """Which keys each query may look at: valid ones, and with `causal` none later than itself."""
    allowed = np.zeros((num_queries, num_keys), dtype=bool)
    for place in range(num_queries):
        for other in range(num_keys):
            allowed[place, other] = other < length and (not causal or other <= place)
    return allowed


def gelu(x: Array) -> Array:
    found: Array = np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)
    return found
