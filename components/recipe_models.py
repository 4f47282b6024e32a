"""What each recipe builds: its system, and how many parameters that has with the recipe's inputs.

A model is built on torch's meta device, where weights have shapes and no content, so that the largest costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from components import models
from components.features.audio import audio_width
from components.features.text import fit_tokenizer
from components.features.video import video_width
from components.model_sizes import sizes
from components.params import Choices, Recipe, TextFeatures, recipe_names, resolve


@dataclass(frozen=True)
class Entry:
    """One recipe, as `affect models` lists it.

    Attributes:
        num_parameters: of the model as it is pre-trained.
        audio, video, text: the kind of features; - is not looked at.
    """

    recipe: str
    system: str
    num_parameters: int
    audio: str
    video: str
    text: str


def entries() -> list[Entry]:
    """All recipes that come with the project, by name."""
    return [_entry(name, resolve(Choices(recipe=name))) for name in recipe_names()]


def num_parameters(recipe: Recipe) -> int:
    """Parameters of a recipe's model, with the inputs that the recipe makes.

    An encoder that is not on this machine counts as the base model of its kind.
    """
    widths = audio_width(recipe.features.audio), video_width(recipe.features.video)
    found = sizes(recipe, widths, vocabulary_size=_vocabulary_size(recipe.features.text))
    for name in found.keys() & {"audio_encoder", "text_encoder"}:
        # Weights are not needed to count them.
        folder = found.pop(name)
        if folder is not None and Path(folder).expanduser().is_dir():
            architecture = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
            found[name.replace("encoder", "architecture")] = architecture
    with torch.device("meta"):
        model = models.build(recipe.model.system, **found)
    return sum(parameter.numel() for parameter in model.parameters())


def _vocabulary_size(config: TextFeatures) -> int:
    if config.kind == "words":
        return config.vocabulary_size
    # Without its tokenizer here, the system's own number.
    found = Path(config.path or "").expanduser().is_dir()
    return int(fit_tokenizer((), config).get_vocab_size()) if found else 0


def _entry(name: str, recipe: Recipe) -> Entry:
    features = recipe.features
    kinds = {"audio": features.audio.kind, "video": features.video.kind, "text": features.text.kind}
    told = {part: kind if part in features.modalities else "-" for part, kind in kinds.items()}
    return Entry(name, recipe.model.system, num_parameters(recipe), **told)
