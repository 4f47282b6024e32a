"""What the quality benchmarks share: a run of the pipeline in a workspace, as the flow makes it, without the flow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from components import compute
from components.bundle_files import LABELS
from components.evaluate import read_outcomes
from components.metrics import Outcomes
from components.params import Choices
from components.predictor import read_labels
from components.settings import Settings
from components.settings import load as load_settings
from flows.stages import stage_environment
from flows.workspace import prepare


@contextmanager
def one_ray() -> Iterator[Settings]:
    """Settings with the address of a Ray that serves all runs of a benchmark."""
    here = load_settings()
    compute.connect()
    try:
        yield here.model_copy(update={"ray_address": here.ray_address or ray.get_runtime_context().gcs_address})
    finally:
        ray.shutdown()


def build(choices: Choices, settings: Settings, *, until: str) -> Path:
    """Bring a run up to date as far as one stage, and return its build folder.

    Raises:
        RuntimeError: a stage failed; with the end of its output.
    """
    workspace = prepare(choices, settings)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", until],
        cwd=workspace.folder,
        env={**stage_environment(settings), "AFFECT_PARENT_PID": str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{until} failed in {workspace.folder}: {done.stdout[-2000:]}")
    return workspace.folder / "build"


def outcomes(folder: Path) -> Outcomes:
    """What the fine-tuned model of a build folder answered on its test speakers."""
    return read_outcomes(folder / "evaluation", read_labels(folder / "finetune" / LABELS))


def pooled(parts: list[Outcomes]) -> Outcomes:
    """Several folds or seeds as one set of clips; a speaker of two seeds stays one speaker."""
    import numpy as np

    return Outcomes(
        np.concatenate([part.actual_N for part in parts]),
        np.concatenate([part.predicted_N for part in parts]),
        [speaker for part in parts for speaker in part.speaker_ids],
        parts[0].num_classes,
    )
