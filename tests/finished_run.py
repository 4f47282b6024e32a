"""A small run as its first five stages leave it, made without Ray and without training: what the later stages read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

from components import clip_table, models, params, training
from components.clip import Clip, Split
from components.datasets import synthetic
from components.features import clip_features, text
from components.features.audio import audio_width
from components.features.video import video_width
from components.shards import Example, open_split, write_shard

SPLIT_OF_SPEAKER: dict[str, Split] = {
    "speaker-000": "train",
    "speaker-001": "train",
    "speaker-002": "train",
    "speaker-003": "validation",
    "speaker-004": "test",
    "speaker-005": "test",
}
LABELS = synthetic.LABELS


@dataclass(frozen=True)
class FinishedRun:
    """The folder `build` of a run, and its parameters."""

    build: Path
    settings: params.Params


def make(build: Path, *, model_seed: int = 0, num_labelled: int = 36) -> FinishedRun:
    """Write a run of six speakers below `build`; its model is drawn, not trained."""
    overrides = {"synthetic": {"num_speakers": 6, "num_labelled": num_labelled, "num_unlabelled": 0}}
    settings = params.resolve(params.Choices(overrides=overrides))
    (build / "clips" / "media").mkdir(parents=True)
    (build / "params.yaml").write_text(params.to_yaml(settings))
    clips = [_render(plan, build / "clips") for plan in synthetic.plan(settings.synthetic)]
    _write_clips(clips, build / "clips")
    write_features(build, clips, settings.features)
    write_model(build, settings, seed=model_seed)
    return FinishedRun(build, settings)


def write_features(build: Path, clips: list[Clip], config: params.Features) -> None:
    """Write `build/features` of these clips."""
    words = [clip.transcript for clip in clips if clip.split == "train"]
    tokenizer = text.fit_tokenizer(words, config.text)
    widths = audio_width(config.audio), video_width(config.video)
    for split in ("train", "validation", "test"):
        examples = [_example(clip, build / "clips", config, tokenizer) for clip in clips if clip.split == split]
        write_shard(build / "features" / split / "00000.arrow", examples, widths=widths)
    text.save_tokenizer(tokenizer, build / "features" / "tokenizer.json")
    (build / "features" / "preprocess.json").write_text(config.model_dump_json(indent=2))
    (build / "features" / "labels.json").write_text(json.dumps(LABELS))


def write_model(build: Path, settings: params.Params, *, seed: int, labels: tuple[str, ...] = LABELS) -> None:
    """Write `build/finetune` with a freshly drawn model."""
    torch.manual_seed(seed)
    config = settings.features
    model = models.build(
        "trimodal",
        audio_features=audio_width(config.audio),
        video_features=video_width(config.video),
        vocabulary_size=text.load_tokenizer(build / "features" / "tokenizer.json").get_vocab_size(),
        num_classes=len(labels),
        width=16,
        num_heads=2,
        num_layers=1,
    )
    # As drawn, one class wins everywhere: without what is common to all clips, the answers depend on the clip.
    logits_NC = np.log(training.predict(model, open_split(build / "features", "train")))
    with torch.no_grad():
        model.get_parameter("head.4.bias").sub_(torch.from_numpy(logits_NC.mean(axis=0)))
    model.save_pretrained(build / "finetune")
    (build / "finetune" / "labels.json").write_text(json.dumps(labels))


def _render(plan: synthetic.SyntheticPlan, folder: Path) -> Clip:
    clip = synthetic.render(plan, folder / "media")
    place = f"media/{clip.video_uri}"
    return replace(clip, split=SPLIT_OF_SPEAKER[clip.speaker_id], audio_uri=place, video_uri=place)


def _example(clip: Clip, folder: Path, config: params.Features, tokenizer: Tokenizer) -> Example:
    path = folder / str(clip.video_uri)
    recording = clip_features.record(audio=path, video=path, config=config)
    features, _ = clip_features.compute(recording, clip.transcript, config, tokenizer)
    return Example(clip.clip_id, clip.speaker_id, tuple(clip.labels.get(label, 0.0) for label in LABELS), features)


def _write_clips(clips: list[Clip], folder: Path) -> None:
    rows = [
        {
            "clip_id": clip.clip_id,
            "corpus": "synthetic",
            "speaker_id": clip.speaker_id,
            "session_id": clip.session_id,
            "split": clip.split,
            "audio_uri": clip.audio_uri,
            "video_uri": clip.video_uri,
            "start_s": clip.start_s,
            "end_s": clip.end_s,
            "duration_s": 1.0,
            "transcript": clip.transcript,
            "speaker_sex": clip.speaker_sex,
            "speaker_age": clip.speaker_age,
            "labels": list(clip.labels.items()),
            "num_bytes": 1,
            "md5": "",
        }
        for clip in clips
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=clip_table.SCHEMA), folder / "clips.parquet")
