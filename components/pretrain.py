"""The pre-training stage: masked modelling on all training clips, with labels or without.

Reads `build/features`, writes `build/pretrain` (a model, and `losses.csv`). Switched off, it writes a freshly drawn
model in the same form, so that what follows is the same.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from components import cluster, models
from components.batches import frame_statistics
from components.masking import MaskSettings
from components.objectives import MaskedModelling, MatchedModelling, Objective
from components.params import Params, Pretrain, load_params
from components.runs import fit_settings, output_folder, run_name
from components.shards import ShardSet, open_split
from components.stage import run_stage
from components.training import HistoryRow

FEATURES = Path("build/features")
OUTPUT = Path("build/pretrain")
_SPLITS = ("train", "unlabelled")


def main() -> None:
    params = load_params()
    features = FEATURES.resolve()
    clips = open_split(features, *_SPLITS)
    if not len(clips):
        raise ValueError(f"{features} has no training clips: look at build/clips/rejected.parquet for what was refused")
    model = new_model(params, clips, features)
    history: list[HistoryRow] = []
    settings = params.pretrain
    objective = new_objective(settings)
    if settings.enabled:
        name = run_name(
            "pretrain",
            sections=[params.model, params.pretrain, params.features],
            seed=params.seed,
            data=[features / "tokenizer.json", *(features / split for split in _SPLITS)],
        )
        schedule = fit_settings(settings, seed=params.seed)
        state = cluster.train(
            cluster.Job(name, "pretrain", model, clips, None, objective, schedule, settings.num_workers)
        )
        model.load_state_dict(state.weights)
        history = state.history
    with output_folder(OUTPUT) as folder:
        models.save(model, folder)
        write_losses(folder / "losses.csv", objective.names, history)
    if settings.enabled:
        cluster.forget(name)


def new_model(params: Params, clips: ShardSet, features: Path) -> PreTrainedModel:
    """A freshly drawn model for these features, which knows their mean and deviation."""
    tokenizer = Tokenizer.from_file(str(features / "tokenizer.json"))
    audio, video = params.features.audio, params.features.video
    torch.manual_seed(params.seed)
    model = models.build(
        params.model.system,
        audio_features=clips.widths[0],
        video_features=clips.widths[1],
        vocabulary_size=tokenizer.get_vocab_size(),
        audio_step_s=audio.hop_s * audio.stack,
        video_step_s=1.0 / video.frame_rate_hz,
        width=params.model.width,
        num_heads=params.model.num_heads,
        num_layers=params.model.num_layers,
        dropout=params.model.dropout,
        modality_weights=list(params.model.modality_weights),
    )
    model.set_input_statistics(**vars(frame_statistics(clips)))  # type: ignore[operator]  # a Tensor, for mypy
    return model


def new_objective(settings: Pretrain) -> Objective:
    """What the model is asked for: rebuilding what is masked, and if it weighs anything, matching."""
    masks = MaskSettings(settings.mask_share, settings.mask_span, settings.modality_mask_share)
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
