"""Tiny real bundles for tests: random weights, real files, golden requests answered by themselves."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from components import bundle_files, drift, golden, models, params, predictor, recorded, task
from components.datasets import synthetic
from components.features.audio import audio_width
from components.features.text import fit_tokenizer, save_tokenizer
from components.features.video import video_width
from components.golden import GoldenRequest
from components.provenance import Provenance
from components.task import Task
from serving.prediction import ClassPrediction, Request
from serving.runtime import Runtime
from serving.schema import ClassAnswer

LABELS = ("neutral", "happy", "sad", "angry")
FEATURES = params.Features(max_duration_s=5.0)


@functools.cache
def requests() -> tuple[GoldenRequest, ...]:
    """A voice (WAV), a talking face with voice (MP4) and a sentence."""
    return tuple(GoldenRequest(each.name, each.audio, each.video, each.text) for each in synthetic.golden_requests())


def class_predictions(runtime: Runtime, asked: Sequence[Request]) -> list[ClassPrediction]:
    """What a bundle of classes makes of some requests."""
    found = runtime.predict(asked)
    return [each for each in found if isinstance(each, ClassPrediction)]


def of_classes(answer: object) -> ClassAnswer:
    """An answer of the endpoint, which must be one of classes."""
    assert isinstance(answer, ClassAnswer)
    return answer


def write_bundle(folder: Path, *, seed: int, asked: Task | None = None, width: int = 16, num_layers: int = 1) -> Path:
    """A whole bundle with random weights, of classes unless `asked`; another seed answers clearly differently."""
    labels = asked.labels if asked else LABELS
    folder.mkdir(parents=True)
    texts = [request.text for request in requests()]
    tokenizer = fit_tokenizer(texts, FEATURES.text)
    save_tokenizer(tokenizer, folder / bundle_files.TOKENIZER)
    models.save(_model(seed, tokenizer.get_vocab_size(), len(labels), width, num_layers), folder)
    (folder / bundle_files.LABELS).write_text(json.dumps(labels))
    if asked:
        task.write(folder, asked)
        if asked.kind == "multilabel":
            thresholds = {label: 0.3 + 0.1 * number for number, label in enumerate(labels)}
            (folder / bundle_files.THRESHOLDS).write_text(json.dumps(thresholds))
    (folder / bundle_files.PREPROCESS).write_text(FEATURES.model_dump_json())
    origin = Provenance("trimodal", "test", "synthetic", "", True, seed, "0" * 64, "0" * 64, {}, {})
    (folder / bundle_files.PROVENANCE).write_text(origin.to_json())
    (folder / bundle_files.CARD).write_text("# A model with random weights\n")
    core = predictor.load(folder)
    recorded.write(folder, core.model, core.features)
    clips = [core.features_of(each.audio, each.video, each.text)[0] for each in requests()]
    drift.describe(clips, np.full(len(labels), 1 / len(labels), np.float32)).save(folder / bundle_files.DRIFT_REFERENCE)
    (folder / bundle_files.GOLDEN).write_bytes(golden.answer(requests(), core).to_json())
    return folder


def _model(seed: int, vocabulary_size: int, num_classes: int, width: int, num_layers: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = models.build(
        "trimodal",
        audio_features=audio_width(FEATURES.audio),
        video_features=video_width(FEATURES.video),
        vocabulary_size=vocabulary_size,
        num_classes=num_classes,
        width=width,
        num_heads=2,
        num_layers=num_layers,
    )
    head = model.get_submodule("head")
    assert isinstance(head, nn.Sequential)
    last = head[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        # Initial weights answer nearly the same to everything; a test should see differences.
        last.weight.mul_(4.0)
    return model
