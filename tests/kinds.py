"""Runs of every kind of task from one finished run: its clips annotated anew, and a small model that learnt them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from components import models, task
from components.answers import to_answers
from components.batches import collate
from components.features.audio import audio_width
from components.features.text import load_tokenizer
from components.features.video import video_width
from components.shards import Example, ShardSet, open_split, write_shard
from components.task import Kind, Task
from tests.finished_run import FinishedRun

TASKS: Final[dict[Kind, Task]] = {
    "multilabel": Task(
        "multilabel", ("happy", "sad", "anger", "fear"), name="intensities", source="made from the class", threshold=0.5
    ),
    "values": Task("values", ("arousal", "valence"), name="dimensions", source="made from the class", scale=(1.0, 5.0)),
}
NAN: Final = math.nan


def annotate(kind: Kind, number: int, index: int) -> tuple[float, ...]:
    """The annotation of a clip of class `number`, as shards hold it: some of it unknown, some of it faint."""
    if kind == "multilabel":
        faint = 0.5 if index % 3 else 0.0
        return (
            *(2.0 if number == label else faint for label in (1, 2)),
            2.0 if number >= 3 else 0.0,
            NAN if index % 5 == 4 else 3.0 * (number % 2),
        )
    arousal = 1 + 2 * (number % 3)
    return (arousal + 0.25 * (index % 2 - (arousal > 3)), NAN if index % 7 == 6 else 1 + 4 * (number >= 3))


def make(run: FinishedRun, build: Path, kind: Kind, *, seed: int = 0, num_steps: int = 60) -> FinishedRun:
    """A copy of a run whose clips answer another task, up to and with `build/finetune`."""
    shutil.copytree(run.build, build)
    asked = TASKS[kind]
    for split in ("train", "validation", "test"):
        path = build / "features" / split / "00000.arrow"
        source = ShardSet([path])
        examples = [_annotated(source, index, kind) for index in range(len(source))]
        write_shard(path, examples, widths=_widths(run))
    task.write(build / "features", asked)
    write_model(build, run, asked, seed=seed, num_steps=num_steps)
    return FinishedRun(build, run.settings)


def write_model(build: Path, run: FinishedRun, asked: Task, *, seed: int, num_steps: int) -> None:
    """Draw a model, let it learn the training clips for some steps, and write `build/finetune`."""
    audio_features, video_features = _widths(run)
    audio, video = run.settings.features.audio, run.settings.features.video
    torch.manual_seed(seed)
    model = models.build(
        "trimodal",
        audio_features=audio_features,
        video_features=video_features,
        vocabulary_size=load_tokenizer(build / "features" / "tokenizer.json").get_vocab_size(),
        num_classes=len(asked.labels),
        audio_step_s=audio.hop_s * audio.stack,
        video_step_s=1.0 / video.frame_rate_hz,
        width=16,
        num_heads=2,
        num_layers=1,
    )
    learn(model, open_split(build / "features", "train"), asked, num_steps=num_steps)
    shutil.rmtree(build / "finetune", ignore_errors=True)
    models.save(model, build / "finetune")
    task.write(build / "finetune", asked)


def learn(model: PreTrainedModel, source: ShardSet, asked: Task, *, num_steps: int) -> None:
    """Plain descent on all clips at once."""
    batch = collate(source, np.arange(len(source)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    for _ in range(num_steps):
        loss = LOSSES[asked.kind](to_answers(model(**batch.inputs()).logits_BC, asked), batch.labels_BC, asked)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()


def select_on_test(run: FinishedRun) -> None:
    """As a training leaves it that chose its epoch on the test part."""
    (run.build / "finetune" / "summary.json").write_text(json.dumps({"best_epoch": 3, "selected_on": "test"}))


def _label_loss(probabilities_BC: Tensor, annotated_BC: Tensor, asked: Task) -> Tensor:
    known_BC = annotated_BC.isfinite()
    present_BC = (annotated_BC > asked.threshold).float()
    return torch.nn.functional.binary_cross_entropy(probabilities_BC[known_BC], present_BC[known_BC])


def _value_loss(values_BC: Tensor, annotated_BC: Tensor, _asked: Task) -> Tensor:
    known_BC = annotated_BC.isfinite()
    return ((values_BC - annotated_BC)[known_BC] ** 2).mean()


LOSSES: Final[dict[Kind, Callable[[Tensor, Tensor, Task], Tensor]]] = {"multilabel": _label_loss, "values": _value_loss}


def _widths(run: FinishedRun) -> tuple[int, int]:
    return audio_width(run.settings.features.audio), video_width(run.settings.features.video)


def _annotated(source: ShardSet, index: int, kind: Kind) -> Example:
    number = int(source.labels_NC[index].argmax())
    clip = source.features(index)
    return Example(source.clip_ids[index], source.speaker_ids[index], annotate(kind, number, index), clip)
