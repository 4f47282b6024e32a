"""Each recipe through both trainings, as the stages put them together: real shards, small sizes, no Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from components import models
from components.answers import Judge
from components.features import ClipFeatures, text
from components.finetune import new_objective as labels_objective
from components.finetune import with_new_heads
from components.params import Choices, Params, TextFeatures, resolve
from components.pretrain import new_model, new_objective
from components.runs import fit_settings
from components.shards import Example, ShardSet, write_shard
from components.task import Task
from components.training import Validation, fit

WORDS = ["good", "bad", "morning", "evening", "you"]
TASKS = {
    "classes": Task("classes", ("calm", "loud")),
    "multilabel": Task("multilabel", ("calm", "loud"), threshold=0.5),
    "values": Task("values", ("calm", "loud"), scale=(0.0, 1.0)),
}
SMALL: dict[str, dict[str, Any]] = {
    "quick": {"model": {"width": 16, "num_heads": 2, "num_layers": 1}},
    "khare2021": {"model": {"width": 16, "num_heads": 2, "num_layers": 1}},
    "tran2022_base": {"model": {"width": 16, "num_heads": 2, "num_layers": 1}},
    "krishna2021": {"model": {"width": 16, "num_heads": 2}},
}


def small(recipe: str, folder: Path) -> Params:
    """A recipe at a small width, with tiny encoders where it reads any."""
    overrides = {
        **SMALL[recipe],
        "pretrain": {"num_epochs": 1, "batch_size": 8},
        "finetune": {"num_epochs": 2, "batch_size": 8},
    }
    if recipe == "krishna2021":
        speech, words = _encoders(folder)
        overrides["model"] = {**overrides["model"], "audio_encoder": str(speech), "text_encoder": str(words)}
        overrides["features"] = {"text": {"kind": "words"}}
        overrides["pretrain"] = {}
    return resolve(Choices(recipe=recipe, overrides=overrides))


def clips(folder: Path, params: Params, *, seed: int) -> ShardSet:
    """Shards of a split, with features of the widths that the recipe's system looks at."""
    random = np.random.default_rng(seed)
    is_waveform, is_paired = params.features.audio.kind == "waveform", params.model.system == "audiovisual"
    widths = (1 if is_waveform else 8, 4)
    examples = []
    for number in range(16):
        loud = float(number % 2)
        steps = 1600 if is_waveform else int(random.integers(6, 12))
        audio = random.normal(size=(steps, widths[0])) * (0.05 if is_waveform else 1) + loud
        video = random.normal(size=(steps if is_paired else 5, widths[1])) + loud
        features = ClipFeatures(
            audio.astype(np.float16), video.astype(np.float16), random.integers(3, 8, 4).astype(np.int32)
        )
        examples.append(Example(f"clip{number}", f"speaker{number % 4}", (1 - loud, loud), features))
    write_shard(folder / "00000.arrow", examples, widths=widths)
    return ShardSet([folder / "00000.arrow"])


@pytest.mark.parametrize("kind", ["classes", "multilabel", "values"])
@pytest.mark.parametrize("recipe", list(SMALL))
def test_a_recipe_goes_through_both_trainings(recipe: str, kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    params = small(recipe, tmp_path)
    train, validation = (clips(tmp_path / name, params, seed=seed) for seed, name in enumerate(("train", "valid")))
    tokenizer = text.fit_tokenizer([" ".join(WORDS)], TextFeatures())
    text.save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    model = new_model(params, train, tmp_path)
    assert model.config.system == params.model.system
    assert model.config.audio_features == train.widths[0]
    if params.pretrain.enabled:
        objective = new_objective(params, train, tokenizer)
        state = fit(model, train, objective, fit_settings(params.pretrain, seed=0))
        assert state.finished
        assert math.isfinite(state.history[-1].loss)
    models.save(model, tmp_path / "pretrained")

    task = TASKS[kind]
    tuned = with_new_heads(models.load(tmp_path / "pretrained"), len(task.labels), seed=0)
    tuned_objective = labels_objective(params.finetune, task)
    schedule = fit_settings(params.finetune, seed=0)
    state = fit(tuned, train, tuned_objective, schedule, validation=Validation(validation, Judge(task)))
    assert state.finished
    assert state.best_epoch >= 0
    assert all(math.isfinite(row.loss) for row in state.history)
    body = {name: value for name, value in model.state_dict().items() if not name.startswith(models.heads_of(tuned))}
    moved = [name for name, value in body.items() if not torch.equal(state.weights[name], value)]
    assert moved
    if recipe == "krishna2021":
        assert not [name for name in moved if "feature_extractor" in name]


def test_what_a_system_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    tokenizer = text.fit_tokenizer([" ".join(WORDS)], TextFeatures())
    speech = resolve(Choices(recipe="krishna2021", overrides={"pretrain": {"enabled": True}}))
    train = clips(tmp_path / "train", speech, seed=0)
    with pytest.raises(ValueError, match=r"set pretrain\.enabled=false"):
        new_objective(speech, train, tokenizer)
    matched = resolve(Choices(recipe="tran2022_base", overrides={"pretrain": {"match_weight": 1.0}}))
    with pytest.raises(ValueError, match=r"pretrain\.match_weight: audiovisual has nothing to match"):
        new_objective(matched, train, tokenizer)


def _encoders(folder: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    speech = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[8, 8],
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(speech).save_pretrained(folder / "speech")
    words = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(words).save_pretrained(folder / "words")
    return folder / "speech", folder / "words"
