"""From a recipe and its features to the configuration of a model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from components import models
from components.features.audio import audio_step_s, frames_per_step
from components.features.video import video_step_s
from components.params import Recipe


def sizes(recipe: Recipe, widths: tuple[int, int], *, vocabulary_size: int) -> dict[str, Any]:
    """What `models.build` takes: a system's section of the recipe, and what its configuration wants of the features.

    What the recipe leaves out of the features, the system does not look at, and reads no encoder for it.
    """
    config = models.config_of(recipe.model.system)
    modalities = [name for name in config.modalities if name in recipe.features.modalities]
    found: dict[str, Any] = {
        "audio_features": widths[0],
        "video_features": widths[1],
        "vocabulary_size": vocabulary_size,
        "audio_frames_per_step": frames_per_step(recipe.features.audio),
        "audio_step_s": audio_step_s(recipe.features.audio),
        "video_step_s": video_step_s(recipe.features.video),
        "modalities": modalities,
        "matching": recipe.pretrain.match_weight > 0,
    }
    known = {field.name for field in fields(config)}
    chosen = recipe.model.model_dump(mode="json", exclude={"system"})
    for name in chosen.keys() & {"audio_encoder", "text_encoder"}:
        if name.removesuffix("_encoder") not in modalities:
            chosen[name] = None
    return {**{name: value for name, value in found.items() if name in known}, **chosen}
