"""The fine-tuning stage: the pre-trained model and a new head learn the labels.

Reads `build/features` (train and validation) and `build/pretrain`, writes `build/finetune`: the model of the epoch
that was best on the validation speakers, `losses.csv`, `labels.json` and `summary.json`.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from components import cluster, models
from components.batches import Subset, draw_by_class, in_order
from components.masking import AugmentSettings
from components.objectives import Classification
from components.params import load_params
from components.runs import fit_settings, output_folder, run_name
from components.shards import ShardSet, open_split
from components.stage import run_stage
from components.training import TrainingState

FEATURES = Path("build/features")
PRETRAINED = Path("build/pretrain")
OUTPUT = Path("build/finetune")
_HEADS = ("head.", "summary_head.")


def main() -> None:
    params = load_params()
    settings = params.finetune
    features = FEATURES.resolve()
    labels: list[str] = json.loads((features / "labels.json").read_text(encoding="utf-8"))
    labelled, validation = open_split(features, "train"), open_split(features, "validation")
    check_labels(labelled, validation, labels)
    train = Subset(labelled, draw_by_class(labelled.labels_NC, settings.label_share, seed=params.seed))
    name = run_name(
        "finetune",
        sections=[params.model, params.finetune],
        seed=params.seed,
        data=[PRETRAINED / "model.safetensors", features / "labels.json", features / "train", features / "validation"],
    )
    schedule = fit_settings(settings, seed=params.seed)
    augment = AugmentSettings(settings.modality_dropout, settings.time_mask_share)
    objective = Classification(augment, settings.label_smoothing)
    model = with_new_heads(models.load(PRETRAINED), len(labels), seed=params.seed)
    model.learn_summaries(batch.inputs() for batch in in_order(train))  # type: ignore[operator]  # a Tensor, for mypy
    state = cluster.train(
        cluster.Job(name, "finetune", model, train, validation, objective, schedule, settings.num_workers)
    )
    model.load_state_dict(state.best_weights)
    with output_folder(OUTPUT) as folder:
        models.save(model, folder)
        shutil.copyfile(features / "labels.json", folder / "labels.json")
        write_losses(folder / "losses.csv", state)
        write_summary(folder / "summary.json", state, num_clips=len(train))
    cluster.forget(name)


def check_labels(train: ShardSet, validation: ShardSet, labels: list[str]) -> None:
    """Refuse data that no classifier can be trained or chosen on.

    Raises:
        ValueError: fewer than two emotions occur, or there is nothing to choose the epoch on.
    """
    labelled_N = np.isfinite(train.labels_NC).all(axis=1) if train.labels_NC.shape[1] else np.zeros(len(train), bool)
    found = sorted({labels[label] for label in train.labels_NC[labelled_N].argmax(axis=1)}) if labelled_N.any() else []
    if len(found) < 2:
        raise ValueError(
            f"the training clips hold {len(found)} emotion(s) ({', '.join(found) or 'no labels'}): "
            "at least two are needed; check the labels of the corpus"
        )
    if not len(validation) or not validation.labels_NC.shape[1]:
        raise ValueError("no labelled validation clips: raise ingest.validation_share or add speakers")


def with_new_heads(pretrained: PreTrainedModel, num_classes: int, *, seed: int) -> PreTrainedModel:
    """The pre-trained model with freshly drawn heads for `num_classes` labels."""
    config = {**pretrained.config.to_dict(), "num_classes": num_classes}
    torch.manual_seed(seed)
    model = models.build(config.pop("system"), **config)
    body = {key: value for key, value in pretrained.state_dict().items() if not key.startswith(_HEADS)}
    model.load_state_dict(body, strict=False)
    return model


def write_losses(path: Path, state: TrainingState) -> None:
    """Write the losses of each epoch and the macro-F1 on the validation speakers, for `dvc plots`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", "train", "validation", "macro_f1"])
        trained, validated = ([row for row in state.history if row.split == split] for split in ("train", "validation"))
        for train, validation in zip(trained, validated, strict=True):
            writer.writerow(
                [train.epoch + 1, f"{train.loss:.6f}", f"{validation.loss:.6f}", f"{validation.score or 0.0:.6f}"]
            )


def write_summary(path: Path, state: TrainingState, *, num_clips: int) -> None:
    """Write which epoch was chosen and what it reached on the validation speakers."""
    summary = {
        "best_epoch": state.best_epoch + 1,
        "validation_macro_f1": round(state.best_score, 6),
        "num_epochs": state.epoch,
        "num_training_clips": num_clips,
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
