"""A model's layers compiled by `torch.compile`, or left as they are where that cannot be done."""

from __future__ import annotations

import logging
from typing import Any, Final

import torch
import torch._dynamo
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

# Random numbers as they are drawn without it, so that both compute the same; shapes differ from batch to batch.
_HOW: Final[dict[str, Any]] = {"dynamic": True, "options": {"fallback_random": True}}
_REMEDY: Final = "install g++ or name a C++ compiler in CXX, or set compile to false"

_log = logging.getLogger(__name__)


def compile_layers(model: nn.Module) -> None:
    """Compile a model's layers in place: the names of its weights stay, and layers of one kind are compiled once.

    Where the compiler does not work, the log says why and what to do, and the model stays as it is. A layer that cannot
    be compiled computes as it did.
    """
    failure = _failure(next(model.parameters()).device)
    if failure is not None:
        _log.warning("compile: training goes on uncompiled (%s): %s", failure, _REMEDY)
        return
    torch._dynamo.config.suppress_errors = True
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(**_HOW)


def _failure(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device, from the attempt; None: it can."""
    try:
        torch.compile(_probe, **_HOW)(torch.ones(8, device=device, requires_grad=True)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except RuntimeError as error:
        return " ".join(str(error).split())[:200]
    return None


def _probe(x: Tensor) -> Tensor:
    return (x.sin() * x).sum()
