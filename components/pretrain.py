"""The pre-training stage: masked modelling on all training clips, with labels or without.

Reads `build/features`, writes `build/pretrain` (a model, and `losses.csv`). Switched off, it writes a freshly drawn
model in the same form, so that what follows is the same.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from components import cluster, models
from components.batches import ClipSource, Subset, frame_statistics, in_order
from components.features.text import load_tokenizer, mask_ids
from components.masking import MaskSettings
from components.masking_joint import JointMaskSettings, fill_bank
from components.model_sizes import sizes
from components.objectives import MaskedModelling, MatchedModelling, Objective
from components.objectives_audiovisual import JointMaskedModelling
from components.params import Params, load_params
from components.runs import fit_settings, output_folder, run_name
from components.shards import ShardSet, open_split
from components.stage import run_stage
from components.training import HistoryRow

FEATURES = Path("build/features")
OUTPUT = Path("build/pretrain")
_SPLITS = ("train", "unlabelled")
_MOST_CLIPS = 20_000


def main() -> None:
    params = load_params()
    features = FEATURES.resolve()
    clips = open_split(features, *_SPLITS)
    if not len(clips):
        raise ValueError(f"{features} has no training clips: look at build/clips/rejected.parquet for what was refused")
    model = new_model(params, clips, features)
    history: list[HistoryRow] = []
    settings = params.pretrain
    objective: Objective | None = None
    if settings.enabled:
        objective = new_objective(params, clips, load_tokenizer(features / "tokenizer.json"))
        name = run_name(
            "pretrain",
            sections=[params.model, settings, params.features],
            seed=params.seed,
            data=[features / "tokenizer.json", *(features / split for split in _SPLITS)],
        )
        schedule = fit_settings(settings, seed=params.seed)
        state = cluster.train(
            cluster.Job(
                name, "pretrain", model, clips, None, objective, schedule, settings.num_workers, settings.min_workers
            )
        )
        model.load_state_dict(state.weights)
        history = state.history
        learn_shared(model, clips)
    with output_folder(OUTPUT) as folder:
        models.save(model, folder)
        write_losses(folder / "losses.csv", objective.names if objective else (), history)
    if settings.enabled:
        cluster.forget(name)


def new_model(params: Params, clips: ShardSet, features: Path) -> PreTrainedModel:
    """A freshly drawn model for these features, which knows their mean and deviation if it normalises by them."""
    tokenizer = load_tokenizer(features / "tokenizer.json")
    torch.manual_seed(params.seed)
    model = models.build(params.model.system, **sizes(params, clips.widths, vocabulary_size=tokenizer.get_vocab_size()))
    if hasattr(model, "set_input_statistics"):
        model.set_input_statistics(**vars(frame_statistics(clips)))  # type: ignore[operator]  # a Tensor, for mypy
    return model


def learn_shared(model: PreTrainedModel, clips: ClipSource) -> None:
    """Let a model that has a linear part find what frames and words have in common."""
    if hasattr(model, "learn_shared"):
        # More clips than this say nothing new of a few thousand entries.
        chosen = Subset(clips, np.unique(np.linspace(0, len(clips) - 1, _MOST_CLIPS).astype(np.int64)))
        model.learn_shared(lambda: (batch.inputs() for batch in in_order(chosen)))  # type: ignore[operator]  # a Tensor, for mypy


def new_objective(params: Params, clips: ClipSource, tokenizer: Tokenizer) -> Objective:
    """What a system is asked for: rebuilding what is masked, and if it weighs anything, matching.

    Raises:
        ValueError: the system has no pre-training of its own, or not what the settings ask for.
    """
    settings, system = params.pretrain, params.model.system
    if system == "speech_text":
        raise ValueError("speech_text begins with pre-trained encoders: set pretrain.enabled=false")
    if system == "audiovisual":
        if settings.match_weight > 0:
            raise ValueError("pretrain.match_weight: audiovisual has nothing to match; set it to 0")
        # A span begins at so many of a clip's steps that, where none overlap, the share is masked.
        joint = JointMaskSettings(settings.mask_share / settings.mask_span, settings.mask_span)
        return JointMaskedModelling(fill_bank(clips, seed=params.seed), joint, settings.loss_weights[:2])
    mask_id, first_id = mask_ids(tokenizer)
    masks = MaskSettings(
        settings.mask_share,
        settings.mask_span,
        settings.modality_mask_share,
        mask_word_id=mask_id,
        first_word_id=first_id,
    )
    if settings.match_weight == 0:
        return MaskedModelling(masks, settings.loss_weights)
    return MatchedModelling(replace(masks, apart=True), (*settings.loss_weights, settings.match_weight))


def write_losses(path: Path, names: Sequence[str], history: list[HistoryRow]) -> None:
    """Write the loss of each epoch and its terms, for `dvc plots`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "epoch", "train", *names])
        for row in history:
            writer.writerow([row.step, row.epoch + 1, f"{row.loss:.6f}", *(f"{t:.6f}" for t in row.terms)])


if __name__ == "__main__":
    run_stage(main)
