"""A model of this project under the Trainer of `transformers`, as its documentation shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from components.batches import ClipSource, collate
from tests.benchmarks.usual import Positions


class _ForTrainer(nn.Module):
    """The model with the loss that the Trainer asks it for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, num_items_in_batch: object = None, **inputs: Tensor) -> dict[str, Tensor]:
        del num_items_in_batch
        logits_BC = self.model(**inputs).logits_BC
        return {"loss": F.cross_entropy(logits_BC, labels), "logits": logits_BC}


class TrainerTraining:
    """Epochs under the Trainer, with its defaults but for the folder, what it reports and what it saves."""

    def __init__(
        self, model: nn.Module, clips: ClipSource, *, batch_size: int, learning_rate: float, folder: Path
    ) -> None:
        self._clips = clips
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            num_train_epochs=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
        )
        self._trainer = Trainer(
            _ForTrainer(model), arguments, data_collator=self._padded, train_dataset=Positions(len(clips))
        )

    def epoch(self) -> None:
        """Train for an epoch."""
        self._trainer.train()

    def _padded(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = collate(self._clips, indices)
        return {**batch.inputs(), "labels": batch.labels_BC.argmax(dim=1)}
