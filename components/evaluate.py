"""The evaluation on held-out speakers: the only module that opens the test part.

`python -m components.evaluate` is the stage that writes `build/evaluation`. `score_bundle` puts another bundle, the
champion, in front of the very same clips.

N clips, C classes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import params, pictures, predictor, report, scoring, shards, training
from components.batches import ClipSource
from components.bundle_files import LABELS, PREPROCESS, TOKENIZER
from components.clip import Clip
from components.features import text
from components.metrics import Outcomes
from components.predictor import LoadedClips, Predictor
from components.report import Report
from components.scoring import Answers
from components.stage import progress, run_stage

BUILD = Path("build")
PREDICTIONS = "predictions.parquet"

_BATCH_SIZE = 32


class NoSharedLabels(ValueError):
    """A bundle knows none of the labels that the test part has: there is nothing to score."""


def score_bundle(bundle: Predictor, *, build: Path = BUILD) -> Outcomes:
    """Let a bundle answer the test part, each clip seen through the bundle's own preprocessing and tokenizer.

    The classes are those of the test part, so that the outcomes of any two bundles can be compared. Labels are
    aligned by name: one that the bundle does not know is never answered, and the probability of one that the test
    part does not have is shared out among the others.

    Raises:
        NoSharedLabels: the bundle knows none of the labels.
        ValueError: the test part is damaged.
    """
    labels = predictor.read_labels(build / "features" / LABELS)
    if not set(labels) & set(bundle.labels):
        raise NoSharedLabels(
            f"the bundle knows the labels {', '.join(bundle.labels)}, the test part has {', '.join(labels)}"
        )
    source = _seen_by(bundle, build)
    probabilities_NC = training.predict(bundle.model, source, batch_size=_BATCH_SIZE)
    return scoring.answers_of(source, scoring.align(probabilities_NC, bundle.labels, labels), labels).outcomes


def read_outcomes(folder: Path, labels: tuple[str, ...]) -> Outcomes:
    """The outcomes that an evaluation stored in its folder.

    Raises:
        FileNotFoundError: the evaluation has not run.
        ValueError: it was made with other labels.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro evaluate` first")
    table = pq.read_table(path, columns=["speaker_id", "actual", "predicted"])
    names = set(table["actual"].to_pylist()) | set(table["predicted"].to_pylist())
    if not names <= set(labels):
        raise ValueError(f"{path} has the labels {', '.join(sorted(names))}, not only {', '.join(labels)}")
    actual_N, predicted_N = (
        np.array([labels.index(label) for label in table[column].to_pylist()], dtype=np.int64)
        for column in ("actual", "predicted")
    )
    return Outcomes(actual_N, predicted_N, table["speaker_id"].to_pylist(), len(labels))


def main() -> None:
    """Write `build/evaluation`."""
    evaluate(params.load_params(), build=BUILD)


def evaluate(settings: params.Params, *, build: Path) -> Report:
    """Score the fine-tuned model on the test part and write `evaluation/` below `build`, in one step at the end.

    Raises:
        FileNotFoundError: a stage before has not run.
        ValueError: what it left is damaged, or the test part has no labelled clip.
    """
    labels = predictor.read_labels(build / "finetune" / LABELS)
    model = predictor.load_model(build / "finetune")
    source = shards.open_split(build / "features", "test")
    answers = scoring.score(model, source, labels=labels)
    dataset = settings.finetune_on.dataset
    figures = scoring.measure(answers, model, source, dataset=dataset, num_resamples=settings.gates.num_resamples)
    target, partial = build / "evaluation", build / ".partial-evaluation"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / report.FILE).write_text(figures.to_json(), encoding="utf-8")
        pq.write_table(_table(answers, build), partial / PREDICTIONS)
        pictures.write_confusion(partial, answers.outcomes, labels=labels, figures=figures)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(stage="evaluate", done=1, total=1, message=f"macro-F1 {figures.macro_f1}")
    return figures


def _table(answers: Answers, build: Path) -> pa.Table:
    """One row a clip, with the places of its files as `clips.parquet` has them: generated media below `clips/`."""
    rows = {row["clip_id"]: row for row in pq.read_table(build / "clips" / "clips.parquet").to_pylist()}
    places = [rows[name] for name in answers.clip_ids]
    predicted_N = answers.outcomes.predicted_N
    return pa.table(
        {
            "clip_id": pa.array(answers.clip_ids, pa.string()),
            "speaker_id": pa.array(answers.speaker_ids, pa.string()),
            "actual": pa.array([answers.labels[number] for number in answers.actual_N], pa.string()),
            "predicted": pa.array([answers.labels[number] for number in predicted_N], pa.string()),
            "probabilities": pa.array(list(answers.probabilities_NC), pa.list_(pa.float32())),
            **{name: pa.array([row[name] for row in places], pa.string()) for name in ("audio_uri", "video_uri")},
            **{name: pa.array([row[name] for row in places], pa.float64()) for name in ("start_s", "end_s")},
            "transcript": pa.array([row["transcript"] for row in places], pa.string()),
        }
    )


def _seen_by(bundle: Predictor, build: Path) -> ClipSource:
    """The test part with the features that `bundle` was trained on, computed again only where they differ."""
    source = shards.open_split(build / "features", "test")
    config = predictor.read_preprocess(build / "features" / PREPROCESS)
    tokenizer = text.load_tokenizer(build / "features" / TOKENIZER)
    same_frames = _frames(config) == _frames(bundle.features)
    same_words = config.text == bundle.features.text and tokenizer.to_str() == bundle.tokenizer.to_str()
    if same_frames and same_words:
        return source
    # Ray comes with it and takes a second to import; only a champion with other features needs it.
    from components import ingest

    rows = {row["clip_id"]: row for row in ingest.read_clips(build / "clips").to_pylist()}
    clips = [ingest.to_clip(rows[name]) for name in source.clip_ids]
    if not same_frames:
        return _extracted(bundle, clips, source, build / "champion_features")
    words = [text.encode(bundle.tokenizer, clip.transcript, bundle.features.text)[0] for clip in clips]
    features = [replace(source.features(index), word_ids_T=word_ids_T) for index, word_ids_T in enumerate(words)]
    return LoadedClips(features, source.clip_ids, source.speaker_ids, source.labels_NC)


def _extracted(bundle: Predictor, clips: Sequence[Clip], source: ClipSource, folder: Path) -> ClipSource:
    from components import extract

    try:
        skipped = extract.extract_clips(clips, config=bundle.features, tokenizer=bundle.tokenizer, folder=folder)
        if skipped:
            raise ValueError(
                f"clip {skipped[0].clip_id} of the test part cannot be read any more ({skipped[0].reason}), so the "
                "champion cannot be scored on it: bring the file back, or run `dvc repro --force ingest`"
            )
        found = shards.ShardSet(sorted(folder.glob(f"*{shards.SUFFIX}")))
        places = {name: index for index, name in enumerate(found.clip_ids)}
        features = [found.features(places[name]) for name in source.clip_ids]
        return LoadedClips(features, source.clip_ids, source.speaker_ids, source.labels_NC)
    finally:
        # The shards stay mapped into memory for as long as somebody reads them.
        shutil.rmtree(folder, ignore_errors=True)


def _frames(config: params.Features) -> tuple[params.AudioFeatures, params.VideoFeatures, tuple[str, ...], float]:
    return config.audio, config.video, config.modalities, config.max_duration_s


if __name__ == "__main__":
    run_stage(main)
