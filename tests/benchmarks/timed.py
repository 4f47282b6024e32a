"""Objectives that note when their steps begin; apart, because Ray's workers import them."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from components.batches import Batch
from components.masking import Moment
from components.objectives import Objective, Terms

NUM_WARM_STEPS: Final = 5


@dataclass(frozen=True)
class Timed:
    """An objective that notes when each step begins."""

    objective: Objective
    path: Path
    names: tuple[str, ...] = ("classification",)
    weights: tuple[float, ...] = (1.0,)

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        with self.path.open("ab") as file:
            file.write(struct.pack("d", time.monotonic()))
        return self.objective(model, batch, moment)

    def rate_hz(self) -> float:
        """Steps a second, after the first few."""
        times_s = np.frombuffer(self.path.read_bytes())[NUM_WARM_STEPS:]
        return float(1 / np.median(np.diff(times_s)))


@dataclass(frozen=True)
class OfFirst:
    """A timed objective whose times only the first worker notes."""

    timed: Timed
    names: tuple[str, ...] = ("classification",)
    weights: tuple[float, ...] = (1.0,)

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        if torch.distributed.get_rank() == 0:
            return self.timed(model, batch, moment)
        return self.timed.objective(model, batch, moment)
