"""What a training run is called and where its output goes.

The name is a digest of everything that the result depends on: settings, data and code. So the same work has the
same name, and goes on where it stopped; other work has another, and cannot take over its states.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel

from components.params import Optimization
from components.training import FitSettings

_CODE = Path(__file__).parent
# What decides the weights; storage, Ray and progress do not.
_MODULES = (
    "answers.py",
    "batches.py",
    "compilation.py",
    "masking.py",
    "masking_joint.py",
    "metrics.py",
    "metrics_by_label.py",
    "metrics_multilabel.py",
    "metrics_regression.py",
    "models",
    "objectives.py",
    "objectives_audiovisual.py",
    "objectives_labels.py",
    "optimizers.py",
    "sharding.py",
    "systems.py",
    "task.py",
    "training.py",
)


def run_name(stage: str, *, sections: Iterable[BaseModel], seed: int, data: Iterable[Path]) -> str:
    """`<stage>-<digest>` of the stage's settings, its input files or folders, the training code, and torch."""
    digest = hashlib.sha256()
    digest.update(json.dumps([section.model_dump(mode="json") for section in sections]).encode())
    digest.update(f"{seed} {torch.__version__}".encode())
    code = [_CODE / f"{stage}.py", *(_CODE / name for name in _MODULES)]
    for root in (*code, *data):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{root.name}/{path.name} ".encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{stage}-{digest.hexdigest()[:16]}"


def fit_settings(section: Optimization, *, seed: int) -> FitSettings:
    """What `training.fit` takes of a section of the parameters."""
    return FitSettings(
        num_epochs=section.num_epochs,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        seed=seed,
        warmup_share=section.warmup_share,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
        checkpoint_every_steps=section.checkpoint_every_steps,
        optimizer=section.optimizer,
        schedule=section.schedule,
        precision=section.precision,
        activation_checkpointing=section.activation_checkpointing,
        sharding=section.sharding,
        compile=section.compile,
    )


@contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """A folder to write to that becomes `target` when all went well, and is gone when it did not."""
    partial = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
