"""The evaluation on held-out speakers: the only module that opens the test part.

`python -m components.evaluate` is the stage that writes `build/evaluation`. `score_bundle` puts another bundle, the
champion, in front of the very same clips. What the files hold depends on the kind of the task; `read_outcomes` reads
those of classes, `read_answers` those of any kind.

N clips, C labels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import clip_table, measuring, params, pictures, predictor, report, scoring, shards, training
from components import task as tasks
from components.batches import ClipSource
from components.bundle_files import PREPROCESS, THRESHOLDS, TOKENIZER
from components.clip import Clip
from components.features import text
from components.measuring import Origin
from components.metrics import Outcomes
from components.metrics_multilabel import LabelOutcomes
from components.metrics_regression import ValueOutcomes
from components.predictor import LoadedClips, Predictor
from components.report import HEADLINES, ClassReport, LabelReport, SelectedOn
from components.scoring import Answers
from components.stage import progress, run_stage

BUILD = Path("build")
PREDICTIONS = "predictions.parquet"
SUMMARY = "summary.json"

_BATCH_SIZE = 32


class NoSharedLabels(ValueError):
    """A bundle knows none of the labels that the test part has, or answers otherwise: there is nothing to score."""


def score_bundle(bundle: Predictor, *, build: Path = BUILD) -> Answers:
    """Let a bundle answer the test part, each clip seen through the bundle's own preprocessing and tokenizer.

    The task is that of the test part, so that the outcomes of any two bundles can be compared. Labels are
    aligned by name: one that the bundle does not know is never answered, and the probability of a class that the
    test part does not have is shared out among the others.

    Raises:
        NoSharedLabels: the bundle knows none of the labels, or its task is of another kind.
        ValueError: the test part is damaged.
    """
    task = predictor.read_task(build / "features")
    if bundle.task.kind != task.kind:
        raise NoSharedLabels(f"the bundle answers {bundle.task.kind}, the test part asks for {task.kind}")
    if not set(task.labels) & set(bundle.labels):
        raise NoSharedLabels(
            f"the bundle knows the labels {', '.join(bundle.labels)}, the test part has {', '.join(task.labels)}"
        )
    source = _seen_by(bundle, build)
    answers_NC = training.predict(bundle.model, source, batch_size=_BATCH_SIZE, task=bundle.task)
    known = dict(zip(bundle.labels, bundle.thresholds, strict=True)) if bundle.thresholds else {}
    thresholds = tuple(known.get(label, 1.0) for label in task.labels) if known else ()
    return scoring.answers_of(source, scoring.align(answers_NC, bundle.task, task), task, thresholds=thresholds)


def score_subsets(bundle: Predictor, *, build: Path = BUILD) -> dict[str, Outcomes | LabelOutcomes | ValueOutcomes]:
    """What a bundle of the test part's own task answers there with each subset of the modalities, as "audio+text"."""
    source = _seen_by(bundle, build)
    found = scoring.answers_by_subset(bundle.model, source, task=bundle.task, thresholds=bundle.thresholds)
    return {name: answers.outcomes for name, answers in found.items()}


def rows_of(clip_ids: Sequence[str], *, build: Path = BUILD) -> list[dict[str, Any]]:
    """What `clips.parquet` has of some clips of the test part, with absolute places of their recordings."""
    rows = {row["clip_id"]: row for row in clip_table.read_clips(build / "clips", split="test").to_pylist()}
    return [rows[name] for name in clip_ids]


def read_outcomes(folder: Path, labels: tuple[str, ...]) -> Outcomes:
    """The outcomes that an evaluation of a task of classes stored in its folder.

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


def read_answers(folder: Path) -> Answers:
    """The answers to a task of several labels or of values that an evaluation stored in its folder.

    Raises:
        FileNotFoundError: the evaluation has not run.
        ValueError: a file of it is damaged, or it was of classes.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro evaluate` first")
    table = pq.read_table(path)
    if "annotated" not in table.column_names:
        raise ValueError(f"{path} has one class a clip: read it with read_outcomes")
    task = predictor.read_task(folder)
    return Answers(
        task,
        np.arange(len(table)),
        tuple(table["clip_id"].to_pylist()),
        tuple(table["speaker_id"].to_pylist()),
        np.array(table["annotated"].to_pylist(), dtype=np.float64),
        np.array(table["answers"].to_pylist(), dtype=np.float32),
        predictor.read_thresholds(folder / THRESHOLDS, task),
    )


def answer_test(
    answer: Callable[[ClipSource], NDArray[np.float32]], *, thresholds: tuple[float, ...] = (), build: Path
) -> Answers:
    """What something that answers from features, such as a baseline, says of the test part.

    It gives (N, C) probabilities, or values on the task's scale.

    Raises:
        ValueError: the test part is damaged, or has no labelled clip.
    """
    source = shards.open_split(build / "features", "test")
    return scoring.answers_of(source, answer(source), predictor.read_task(build / "features"), thresholds=thresholds)


def write_answers(folder: Path, answers: Answers, *, build: Path) -> None:
    """Write answers into a folder, as `read_outcomes` and `read_answers` read them."""
    pq.write_table(_table(answers, build), folder / PREDICTIONS)
    tasks.write(folder, answers.task)
    if answers.thresholds:
        thresholds = dict(zip(answers.labels, answers.thresholds, strict=True))
        (folder / THRESHOLDS).write_text(json.dumps(thresholds, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Write `build/evaluation`."""
    evaluate(params.load_params(), build=BUILD)


def evaluate(settings: params.Params, *, build: Path) -> ClassReport | LabelReport:
    """Score the fine-tuned model on the test part and write `evaluation/` below `build`, in one step at the end.

    The thresholds of a task of several labels are chosen on the validation part, whatever chose the epoch.

    Raises:
        FileNotFoundError: a stage before has not run.
        ValueError: what it left is damaged, or the test part has no labelled clip.
    """
    task = predictor.read_task(build / "finetune")
    model = predictor.load_model(build / "finetune")
    source = shards.open_split(build / "features", "test")
    thresholds: tuple[float, ...] = ()
    if task.kind == "multilabel":
        thresholds = scoring.thresholds_on(model, shards.open_split(build / "features", "validation"), task=task)
    answers = scoring.score(model, source, task=task, thresholds=thresholds)
    subsets = scoring.by_subset(model, source, task=task, thresholds=thresholds)
    origin = Origin(settings.finetune_on.dataset, _selected_on(build / "finetune" / SUMMARY))
    figures = measuring.measure(answers, subsets, origin=origin, num_resamples=settings.gates.num_resamples)
    target, partial = build / "evaluation", build / ".partial-evaluation"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / report.FILE).write_text(figures.to_json(), encoding="utf-8")
        pq.write_table(_table(answers, build), partial / PREDICTIONS)
        _write_by_kind(partial, answers, figures)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    headline = HEADLINES[task.kind]
    message = f"{headline.words} {figures.figures[headline.name]}"
    progress(stage="evaluate", done=1, total=1, message=message)
    return figures


def _write_by_kind(folder: Path, answers: Answers, figures: ClassReport | LabelReport) -> None:
    """The picture, and beside answers that are no classes what they mean: `task.json`, `labels.json`, thresholds."""
    if isinstance(figures, ClassReport):
        pictures.write_confusion(folder, answers.class_outcomes, labels=answers.labels, figures=figures)
        return
    tasks.write(folder, answers.task)
    if figures.thresholds is not None:
        (folder / THRESHOLDS).write_text(json.dumps(figures.thresholds, indent=2) + "\n", encoding="utf-8")
        pictures.write_labels(folder, figures)
    else:
        pictures.write_values(folder, answers.annotated_NC, answers.answers_NC, figures=figures)


def _selected_on(path: Path) -> SelectedOn:
    """The part that the epoch was chosen on, as the training says; one that says nothing chose on validation."""
    if not path.exists():
        return "validation"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return "test" if summary.get("selected_on") == "test" else "validation"
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: run `dvc repro --force finetune`") from error


def _table(answers: Answers, build: Path) -> pa.Table:
    """One row a clip, with the places of its files as `clips.parquet` has them: generated media below `clips/`."""
    table = pq.read_table(build / "clips" / clip_table.NAME, filters=[("split", "==", "test")])
    rows = {row["clip_id"]: row for row in table.to_pylist()}
    places = [rows[name] for name in answers.clip_ids]
    if answers.task.kind == "classes":
        names = {"actual": answers.actual_N, "predicted": answers.class_outcomes.predicted_N}
        said = {name: [answers.labels[number] for number in numbers_N] for name, numbers_N in names.items()}
        numbers = {"probabilities": pa.array(list(answers.answers_NC), pa.list_(pa.float32()))}
    else:
        said = {"actual": answers.actual_words(), "predicted": answers.predicted_words()}
        numbers = {
            "annotated": pa.array(list(answers.annotated_NC), pa.list_(pa.float64())),
            "answers": pa.array(list(answers.answers_NC), pa.list_(pa.float32())),
        }
    return pa.table(
        {
            "clip_id": pa.array(answers.clip_ids, pa.string()),
            "speaker_id": pa.array(answers.speaker_ids, pa.string()),
            **{name: pa.array(words, pa.string()) for name, words in said.items()},
            **numbers,
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
    # What is recognized from the sound is as much of an extraction as the frames are.
    same_frames = _frames(config) == _frames(bundle.features)
    same_words = config.text == bundle.features.text and tokenizer.to_str() == bundle.tokenizer.to_str()
    if same_frames and same_words:
        return source
    # Ray comes with it and takes a second to import; only a champion with other features needs it.
    from components import transcripts

    clips = [clip_table.to_clip(row) for row in rows_of(source.clip_ids, build=build)]
    if not same_frames:
        return _extracted(bundle, clips, source, build / "champion_features")
    heard = transcripts.filled(clips, transcripts.read(build / "features"))
    words = [text.encode(bundle.tokenizer, clip.transcript, bundle.features.text)[0] for clip in heard]
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


def _frames(config: params.Features) -> tuple[object, ...]:
    """What decides what has to be taken from the files anew."""
    # The digest tells face models apart; each bundle has its file in a folder of its own.
    video = config.video.model_copy(update={"face_model": None})
    recognizer = config.text.transcribe and config.text.transcribe.digest
    language = config.text.transcribe and config.text.transcribe.language
    return config.audio, video, recognizer, language, config.modalities, config.max_duration_s


if __name__ == "__main__":
    run_stage(main)
