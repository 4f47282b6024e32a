"""The fine-tuning stage: the pre-trained model and a new head learn the labels, and its linear part is solved.

Reads `build/features` (train and validation) and `build/pretrain`, writes `build/finetune`: the model of the epoch
that was best on the validation speakers, `losses.csv`, `labels.json`, `task.json` and `summary.json`. With
`finetune.select_on_test` the epoch is chosen on the test part instead, as some papers did, and `summary.json` says so.
The linear part has no epoch: when all is chosen it learns from the validation speakers too, as ridge beside it does.
"""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from components import cluster, linear_part, models, task
from components.answers import Judge
from components.batches import Subset, draw_by_class
from components.linear_part import HasLinearPart
from components.masking import AugmentSettings
from components.objectives import Classification, Objective
from components.objectives_labels import Concordance, MultiLabel
from components.params import Finetune, Params, load_params
from components.runs import fit_settings, output_folder, run_name
from components.shards import ShardSet, open_split
from components.stage import run_stage
from components.task import Task
from components.training import TrainingState, Validation

FEATURES = Path("build/features")
PRETRAINED = Path("build/pretrain")
OUTPUT = Path("build/finetune")

Selection = Literal["validation", "test"]

_KIND_WORDS: Final = {
    "classes": "emotion(s)",
    "multilabel": "label(s) that some clips have and others have not",
    "values": "moving value(s)",
}


def main() -> None:
    params = load_params()
    settings = params.finetune
    features = FEATURES.resolve()
    asked = task.read(features)
    labelled = open_split(features, "train")
    selection, selected_on = clips_to_choose_on(settings, features)
    check_labels(labelled, selection, asked)
    train = Subset(labelled, draw_by_class(labelled.labels_NC, settings.label_share, seed=params.seed, task=asked))
    name = run_name(
        "finetune",
        sections=[params.model, settings],
        seed=params.seed,
        data=[
            *(PRETRAINED / file for file in ("config.json", "model.safetensors")),
            *(features / file for file in ("labels.json", "task.json", "train", selected_on)),
        ],
    )
    schedule = fit_settings(settings, seed=params.seed)
    model = with_new_heads(models.load(PRETRAINED), len(asked.labels), seed=params.seed)
    objective = new_objective(settings, asked)
    judge = Judge(asked)
    validation = Validation(selection, judge)
    state = cluster.train(
        cluster.Job(
            name, "finetune", model, train, validation, objective, schedule, settings.num_workers, settings.min_workers
        )
    )
    model.load_state_dict(state.best_weights)
    model.train(False)
    if isinstance(model, HasLinearPart) and linear_part.learn(model, train, asked):
        weights = linear_part.weights(model, selection, asked)
        # Thresholds of several labels are yet to be chosen on the validation speakers.
        if selected_on == "validation" and asked.kind != "multilabel":
            linear_part.learn(model, with_validation(train, features, params, asked), asked)
        model.weigh(linear=weights.linear, sequence=weights.sequence)
    with output_folder(OUTPUT) as folder:
        models.save(model, folder)
        task.write(folder, asked)
        write_losses(folder / "losses.csv", state, figure=judge.name)
        write_summary(folder / "summary.json", state, figure=judge.name, selected_on=selected_on, num_clips=len(train))
    cluster.forget(name)


def clips_to_choose_on(settings: Finetune, features: Path) -> tuple[ShardSet, Selection]:
    """The clips on which the best epoch is found, and the name of their part."""
    if settings.select_on_test:
        return open_split(features, "test"), "test"
    return open_split(features, "validation"), "validation"


def check_labels(train: ShardSet, selection: ShardSet, asked: Task) -> None:
    """Refuse data that no model can be trained or chosen on.

    Raises:
        ValueError: there is nothing to tell apart, or there is nothing to choose the epoch on.
    """
    found = _told_apart(train, asked)
    needed = 2 if asked.kind == "classes" else 1
    if len(found) < needed:
        raise ValueError(
            f"the training clips hold {len(found)} {_KIND_WORDS[asked.kind]} ({', '.join(found) or 'no labels'}): "
            f"at least {'two are' if needed == 2 else 'one is'} needed; check the labels of the corpus"
        )
    if not len(selection) or not selection.labels_NC.shape[1]:
        raise ValueError("no labelled validation clips: raise ingest.validation_share or add speakers")


def new_objective(settings: Finetune, asked: Task) -> Objective:
    """What the model is asked for, by the kind of the task."""
    augment = AugmentSettings(settings.modality_dropout, settings.time_mask_share)
    if asked.kind == "multilabel":
        return MultiLabel(asked.threshold, augment)
    if asked.scale is not None:
        return Concordance(asked.labels, asked.scale, augment)
    return Classification(augment, settings.label_smoothing)


def with_new_heads(pretrained: PreTrainedModel, num_classes: int, *, seed: int) -> PreTrainedModel:
    """The pre-trained model with freshly drawn heads for `num_classes` labels."""
    config = copy.deepcopy(pretrained.config)
    config.num_classes = num_classes
    torch.manual_seed(seed)
    model: PreTrainedModel = type(pretrained)(config)
    heads = models.heads_of(model)
    body = {key: value for key, value in pretrained.state_dict().items() if not key.startswith(heads)}
    model.load_state_dict(body, strict=False)
    for name, parameter in pretrained.named_parameters():
        if not name.startswith(heads):
            model.get_parameter(name).requires_grad_(parameter.requires_grad)
    return model


def with_validation(train: Subset, features: Path, params: Params, asked: Task) -> Subset:
    """The training clips, and the same share of the validation clips: all that is to be chosen on them is chosen."""
    validation = open_split(features, "validation")
    drawn = draw_by_class(validation.labels_NC, params.finetune.label_share, seed=params.seed, task=asked)
    num_train = len(train.source)
    return Subset(open_split(features, "train", "validation"), np.concatenate([train.indices, num_train + drawn]))


def write_losses(path: Path, state: TrainingState, *, figure: str) -> None:
    """Write the losses of each epoch and the figure it is chosen by, for `dvc plots`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", "train", "validation", figure])
        trained, validated = ([row for row in state.history if row.split == split] for split in ("train", "validation"))
        for train, validation in zip(trained, validated, strict=True):
            writer.writerow(
                [train.epoch + 1, f"{train.loss:.6f}", f"{validation.loss:.6f}", f"{validation.score or 0.0:.6f}"]
            )


def write_summary(path: Path, state: TrainingState, *, figure: str, selected_on: Selection, num_clips: int) -> None:
    """Write which epoch was chosen, on which part, and what it reached there."""
    summary = {
        "best_epoch": state.best_epoch + 1,
        f"{selected_on}_{figure}": round(state.best_score, 6),
        "selected_on": selected_on,
        "num_epochs": state.epoch,
        "num_training_clips": num_clips,
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _told_apart(clips: ShardSet, asked: Task) -> list[str]:
    """The classes that occur, the labels that some clips have and others have not, or the values that differ."""
    labels_NC = clips.labels_NC
    if not labels_NC.shape[1]:
        return []
    if asked.kind == "classes":
        known_NC = labels_NC[np.isfinite(labels_NC).all(axis=1)]
        return sorted({asked.labels[label] for label in known_NC.argmax(axis=1)})
    if asked.kind == "multilabel":
        labels_NC = np.where(np.isfinite(labels_NC), labels_NC > asked.threshold, np.nan)
    columns = [column[np.isfinite(column)] for column in labels_NC.T]
    return [name for name, column in zip(asked.labels, columns, strict=True) if len(column) and np.ptp(column) > 0]


if __name__ == "__main__":
    run_stage(main)
