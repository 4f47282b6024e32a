"""The evaluation: its figures against loops, its files, and another bundle in front of the same clips."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from components import evaluate, metrics, params, predictor, report, scoring, shards
from components.features import ClipFeatures, clip_features, text
from components.measuring import Origin, measure
from components.predictor import LoadedClips, Predictor
from components.report import ClassReport
from components.task import Task
from tests.finished_run import LABELS, SPLIT_OF_SPEAKER, FinishedRun, write_model

FILES = ("confusion.csv", "confusion.png", "metrics.json", "predictions.parquet")


@pytest.fixture
def run(finished_run: FinishedRun, tmp_path: Path) -> FinishedRun:
    """A copy of the run that a test may change."""
    build = tmp_path / "build"
    shutil.copytree(finished_run.build, build)
    return FinishedRun(build, finished_run.settings)


@pytest.fixture(scope="module")
def evaluated(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    build = tmp_path_factory.mktemp("evaluated") / "build"
    shutil.copytree(finished_run.build, build)
    evaluate.evaluate(finished_run.settings, build=build)
    return FinishedRun(build, finished_run.settings)


def champion_of(run: FinishedRun, *, seed: int) -> Predictor:
    """Another model with the run's own preprocessing."""
    write_model(run.build, run.settings, seed=seed)
    for name in ("preprocess.json", "tokenizer.json"):
        shutil.copyfile(run.build / "features" / name, run.build / "finetune" / name)
    return predictor.load(run.build / "finetune")


def test_the_figures_are_those_of_the_stored_predictions(evaluated: FinishedRun) -> None:
    folder = evaluated.build / "evaluation"
    assert tuple(sorted(path.name for path in folder.iterdir())) == FILES
    figures = report.read(folder / "metrics.json")
    assert isinstance(figures, ClassReport)
    table = pq.read_table(folder / "predictions.parquet")
    assert figures.dataset == "synthetic"
    assert figures.synthetic
    assert figures.num_clips == table.num_rows == 12
    assert {SPLIT_OF_SPEAKER[name] for name in table["speaker_id"].to_pylist()} == {"test"}

    actual_N = np.array([LABELS.index(label) for label in table["actual"].to_pylist()])
    probabilities_NC = np.array(table["probabilities"].to_pylist())
    np.testing.assert_allclose(probabilities_NC.sum(axis=1), 1, atol=1e-6)
    predicted_N = probabilities_NC.argmax(axis=1)
    assert [LABELS[number] for number in predicted_N] == table["predicted"].to_pylist()
    assert figures.macro_f1.value == metrics.macro_f1(actual_N, predicted_N, len(LABELS))
    assert figures.wa.value == pytest.approx(np.mean(actual_N == predicted_N))
    assert figures.majority_wa == pytest.approx(1 / 6)
    assert figures.subsets["audio+video+text"] == figures.macro_f1.value
    assert len(figures.subsets) == 7
    assert tuple(figures.per_class_f1) == LABELS


def test_the_files_are_what_dvc_and_people_read(evaluated: FinishedRun) -> None:
    folder = evaluated.build / "evaluation"
    plain = json.loads((folder / "metrics.json").read_text())
    assert set(plain["macro_f1"]) == {"value", "low", "high"}
    assert plain["synthetic"] is True
    with (folder / "confusion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(folder / "predictions.parquet")
    assert [row["actual"] for row in rows] == table["actual"].to_pylist()
    assert [row["predicted"] for row in rows] == table["predicted"].to_pylist()
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_held_out_clip_can_be_found_again(evaluated: FinishedRun) -> None:
    rows = pq.read_table(evaluated.build / "evaluation" / "predictions.parquet").to_pylist()
    for row in rows:
        assert (evaluated.build / "clips" / row["video_uri"]).is_file()
        assert row["transcript"]


def test_the_same_run_elsewhere_gives_the_same_bytes(evaluated: FinishedRun, run: FinishedRun) -> None:
    evaluate.evaluate(run.settings, build=run.build)
    for name in FILES:
        first, again = (folder.build / "evaluation" / name for folder in (evaluated, run))
        assert first.read_bytes() == again.read_bytes(), name
        assert str(run.build).encode() not in again.read_bytes()


def test_stored_outcomes_are_those_of_scoring_the_same_model_again(evaluated: FinishedRun, run: FinishedRun) -> None:
    stored = evaluate.read_outcomes(evaluated.build / "evaluation", LABELS)
    again = evaluate.score_bundle(champion_of(run, seed=0), build=run.build).class_outcomes
    np.testing.assert_array_equal(stored.actual_N, again.actual_N)
    np.testing.assert_array_equal(stored.predicted_N, again.predicted_N)
    assert list(stored.speaker_ids) == list(again.speaker_ids)
    assert metrics.paired_bootstrap(stored, again).value == 0


def test_labels_of_a_champion_are_aligned_by_name(run: FinishedRun) -> None:
    champion = champion_of(run, seed=3)
    expected = evaluate.score_bundle(champion, build=run.build).class_outcomes
    shuffled = tuple(LABELS[number] for number in (2, 0, 5, 1, 4, 3))
    renamed = replace(champion, task=Task("classes", shuffled))
    head = renamed.model.get_submodule("head.4")
    assert isinstance(head, nn.Linear)
    order = [LABELS.index(label) for label in shuffled]
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        head.bias.copy_(head.bias[order].clone())
    found = evaluate.score_bundle(renamed, build=run.build).class_outcomes
    np.testing.assert_array_equal(found.predicted_N, expected.predicted_N)


def test_a_label_that_the_champion_does_not_know_is_never_answered(run: FinishedRun) -> None:
    task = Task("classes", ("neutral", "happy", "sad", "bored", "proud", "calm"))
    champion = replace(champion_of(run, seed=3), task=task)
    found = evaluate.score_bundle(champion, build=run.build).class_outcomes
    assert set(found.predicted_N.tolist()) <= {0, 1, 2}
    assert found.num_classes == 6
    strange = replace(champion, task=Task("classes", ("a", "b", "c", "d", "e", "f")))
    with pytest.raises(evaluate.NoSharedLabels, match="knows the labels a, b, c"):
        evaluate.score_bundle(strange, build=run.build)


shares = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


@given(st.lists(shares, min_size=1, max_size=5), st.permutations("abcd"), st.sets(st.sampled_from("abxy"), min_size=3))
@settings(max_examples=60)
def test_alignment_equals_a_loop(rows: list[list[float]], known: list[str], wanted_set: set[str]) -> None:
    wanted = sorted(wanted_set)
    tasks = Task("classes", tuple(known)), Task("classes", tuple(wanted))
    found_NC = scoring.align(np.array(rows, dtype=np.float32), *tasks)
    shared = [label for label in wanted if label in known]
    for row, found_C in zip(rows, found_NC, strict=True):
        of = {label: np.float32(value) for label, value in zip(known, row, strict=True)}
        total = sum(of[label] for label in shared)
        for label, value in zip(wanted, found_C, strict=True):
            if label not in known:
                assert value == 0
            elif total > 1e-30:
                assert value == pytest.approx(of[label] / total, rel=1e-4)
        assert found_C.sum() == pytest.approx(1, abs=1e-4)


def features_again(run: FinishedRun, champion: Predictor, clip_id: str, transcript: str) -> ClipFeatures:
    path = run.build / "clips" / "media" / f"{clip_id}.mp4"
    recording = clip_features.record(audio=path, video=path, config=champion.features)
    return clip_features.compute(recording, transcript, champion.features, champion.tokenizer)[0]


def direct_answers(run: FinishedRun, champion: Predictor) -> list[int]:
    rows = {row["clip_id"]: row for row in pq.read_table(run.build / "clips" / "clips.parquet").to_pylist()}
    names = shards.open_split(run.build / "features", "test").clip_ids
    clips = [features_again(run, champion, name, rows[name]["transcript"]) for name in names]
    answers: list[int] = champion.answers(clips).argmax(axis=1).tolist()
    return answers


def test_a_champion_with_another_vocabulary_reads_with_its_own(run: FinishedRun) -> None:
    transcripts = pq.read_table(run.build / "clips" / "clips.parquet")["transcript"].to_pylist()
    config = run.settings.features.model_copy(update={"text": params.TextFeatures(vocabulary_size=24)})
    tokenizer = text.fit_tokenizer(transcripts, config.text)
    champion = replace(champion_of(run, seed=5), features=config, tokenizer=tokenizer)
    found = evaluate.score_bundle(champion, build=run.build).class_outcomes
    assert found.predicted_N.tolist() == direct_answers(run, champion)


def test_a_champion_with_other_preprocessing_sees_the_media_through_its_own(run: FinishedRun, ray_address: str) -> None:
    assert ray_address
    video = params.VideoFeatures(frame_rate_hz=6.25)
    config = run.settings.features.model_copy(update={"video": video})
    champion = replace(champion_of(run, seed=6), features=config)
    found = evaluate.score_bundle(champion, build=run.build).class_outcomes
    assert found.predicted_N.tolist() == direct_answers(run, champion)
    assert not (run.build / "champion_features").exists()


@dataclass
class Logits:
    logits_BC: Tensor


class ReadsTheFirstStep(nn.Module):
    """Answers with the audio's first step, or the video's where there is no audio; else with class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(
        self,
        audio_BTF: Tensor,
        audio_lengths_B: Tensor,
        video_BTF: Tensor,
        video_lengths_B: Tensor,
        **_words: Tensor,
    ) -> Logits:
        said_BC = torch.where(audio_lengths_B[:, None] > 0, audio_BTF[:, 0], video_BTF[:, 0])
        dark_C = torch.eye(said_BC.shape[1])[0]
        nothing_B1 = (audio_lengths_B + video_lengths_B == 0)[:, None]
        return Logits(self.scale * torch.where(nothing_B1, dark_C, said_BC))


def planted(audio: list[int], video: list[int], *, actual: list[int], num_words: int) -> LoadedClips:
    """Clips whose first steps name a class; a class of -1 is a modality that the clip lacks."""

    def steps(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
        return np.eye(3, dtype=np.float16)[[number] * 2] if number >= 0 else np.zeros((0, 3), np.float16)

    words = np.full(num_words, 2, np.int32)
    clips = [ClipFeatures(steps(a), steps(v), words) for a, v in zip(audio, video, strict=True)]
    names = [f"clip-{number}" for number in range(len(actual))]
    return LoadedClips(
        clips, names, [f"speaker-{n % 2}" for n in range(len(actual))], np.eye(3, dtype=np.float32)[actual]
    )


PLANTED = Task("classes", ("calm", "glad", "cross"))


def measured(source: LoadedClips) -> ClassReport:
    model = ReadsTheFirstStep()
    answers = scoring.score(model, source, task=PLANTED)
    subsets = scoring.by_subset(model, source, task=PLANTED)
    figures = measure(answers, subsets, origin=Origin("synthetic"), num_resamples=100)
    assert isinstance(figures, ClassReport)
    return figures


def test_subsets_show_what_each_modality_tells() -> None:
    figures = measured(planted([0, 1, 2, 0], [0, 0, 0, 0], actual=[0, 1, 2, 0], num_words=1))
    assert figures.macro_f1.value == 1
    only_class_0 = (2 * 2 / (4 + 2)) / 3
    assert figures.subsets == {
        "audio": 1.0,
        "video": pytest.approx(only_class_0),
        "text": pytest.approx(only_class_0),
        "audio+video": 1.0,
        "audio+text": 1.0,
        "video+text": pytest.approx(only_class_0),
        "audio+video+text": 1.0,
    }
    assert figures.majority_wa == 0.5
    assert figures.majority_macro_f1 == pytest.approx(only_class_0)


def test_only_modalities_that_occur_are_told_and_on_the_clips_that_have_them() -> None:
    figures = measured(planted([0, 1, 2, -1], [-1, -1, -1, 1], actual=[0, 1, 2, 1], num_words=0))
    assert figures.subsets == {"audio": 1.0, "video": 1.0, "audio+video": 1.0}


def test_clips_without_labels_are_not_scored() -> None:
    source = planted([0, 1, 2], [0, 0, 0], actual=[0, 1, 1], num_words=1)
    source.labels_NC[2] = np.nan
    assert measured(source).num_clips == 2
    source.labels_NC[:] = np.nan
    with pytest.raises(ValueError, match="no labelled clip"):
        measured(source)


def test_soft_labels_count_as_their_largest_share() -> None:
    source = planted([0, 1], [0, 0], actual=[0, 1], num_words=1)
    source.labels_NC[:] = [[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]]
    answers = scoring.score(ReadsTheFirstStep(), source, task=PLANTED)
    assert answers.actual_N.tolist() == [2, 0]


def spoil_weights(build: Path) -> None:
    path = build / "finetune" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def forget_training(build: Path) -> None:
    shutil.rmtree(build / "finetune")


def forget_features(build: Path) -> None:
    shutil.rmtree(build / "features")


def add_a_label(build: Path) -> None:
    (build / "finetune" / "labels.json").write_text(json.dumps([*LABELS, "bored"]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_weights, r"model\.safetensors is damaged"),
        (forget_training, r"labels\.json is missing"),
        (forget_features, r"test has no shards"),
        (add_a_label, r"the clips have 6 labels, the model 7"),
    ],
)
def test_what_a_stage_before_left_is_checked(run: FinishedRun, spoil: Callable[[Path], None], words: str) -> None:
    spoil(run.build)
    with pytest.raises(ValueError, match=words):
        evaluate.evaluate(run.settings, build=run.build)
    assert not (run.build / "evaluation").exists()
    assert not list(run.build.glob(".partial-*"))


def test_predictions_of_other_labels_are_refused(evaluated: FinishedRun) -> None:
    with pytest.raises(ValueError, match="has the labels"):
        evaluate.read_outcomes(evaluated.build / "evaluation", ("calm", "cross"))


def test_an_evaluation_that_has_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro evaluate"):
        evaluate.read_outcomes(tmp_path, LABELS)
    with pytest.raises(FileNotFoundError, match="dvc repro evaluate"):
        report.read(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="run it again"):
        report.read(tmp_path / "metrics.json")
