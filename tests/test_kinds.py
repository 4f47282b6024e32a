"""Several labels and values through the whole back end: evaluation, report, gates, bundle, runtime, endpoint."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from components import (
    bundle,
    bundle_files,
    evaluate,
    gates,
    metrics,
    metrics_regression,
    predictor,
    report,
    run_report,
    scoring,
)
from components.bundle import Bundle
from components.gates.__main__ import main as judge_bundle
from components.gates.champion import NotWorseThanChampion
from components.gates.floor import HeadlineFloor
from components.gates.gathering import gather
from components.metrics_multilabel import mean_weighted_accuracy
from components.report import HEADLINES, LabelReport
from components.run_record import RunRecord
from components.shards import Example, ShardSet, open_split, write_shard
from components.task import Task
from serving.prediction import LabelPrediction, Request, ValuePrediction
from serving.runtime import Runtime
from tests import kinds
from tests.bundles import requests
from tests.finished_run import LABELS, FinishedRun

Other = Literal["multilabel", "values"]
KINDS: tuple[Other, ...] = ("multilabel", "values")


@dataclass(frozen=True)
class Made:
    """An evaluated and bundled run, and a champion's bundle with other weights."""

    kind: Other
    run: FinishedRun
    figures: LabelReport
    bundle: Bundle
    champion: Path

    @property
    def build(self) -> Path:
        return self.run.build

    @property
    def task(self) -> Task:
        return kinds.TASKS[self.kind]


def finish(run: FinishedRun) -> Bundle:
    evaluate.evaluate(run.settings, build=run.build)
    return bundle.write(run.build / "bundle", settings=run.settings, requests=requests(), build=run.build)


@pytest.fixture(scope="module", params=KINDS)
def made(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Made:
    kind: Other = request.param
    folder = tmp_path_factory.mktemp(kind)
    champion = finish(kinds.make(finished_run, folder / "champion", kind, seed=1, num_steps=5))
    run = kinds.make(finished_run, folder / "build", kind)
    candidate = finish(run)
    figures = report.read(run.build / "evaluation" / "metrics.json")
    assert isinstance(figures, LabelReport)
    return Made(kind, run, figures, candidate, champion.folder)


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> FinishedRun:
    """The run of `made`, to be changed."""
    return FinishedRun(Path(shutil.copytree(made.build, tmp_path / "build")), made.run.settings)


def known_of(made: Made) -> dict[str, tuple[float, ...]]:
    """What the shards of the test part hold, by clip."""
    source = open_split(made.build / "features", "test")
    return dict(zip(source.clip_ids, map(tuple, source.labels_NC.astype(float).tolist()), strict=True))


def test_the_report_names_its_kind_and_its_headline(made: Made) -> None:
    plain = json.loads((made.build / "evaluation" / "metrics.json").read_text())
    assert plain["kind"] == made.kind
    assert plain["headline"] == HEADLINES[made.kind].name
    assert set(plain["figures"][plain["headline"]]) == {"value", "low", "high"}
    assert plain["selected_on"] == "validation"
    assert (plain["task"], plain["label_source"]) == (made.task.name, "made from the class")
    assert tuple(plain["by_label"]) == made.task.labels
    assert "macro_f1" not in plain
    assert made.figures.num_clips == 12
    assert made.figures.figures[made.figures.headline].low <= made.figures.figures[made.figures.headline].high
    assert len(made.figures.subsets) == 7
    together = made.figures.subsets["audio+video+text"]
    assert together == made.figures.figures[made.figures.headline].value


def test_the_figures_are_those_of_the_stored_answers(made: Made) -> None:
    rows = pq.read_table(made.build / "evaluation" / "predictions.parquet").to_pylist()
    known = known_of(made)
    for row in rows:
        np.testing.assert_array_equal(row["annotated"], known[row["clip_id"]])
    annotated_NL = np.array([row["annotated"] for row in rows])
    answers_NL = np.array([row["answers"] for row in rows])
    if made.kind == "multilabel":
        assert made.figures.thresholds is not None
        actual_NL = np.where(np.isnan(annotated_NL), np.nan, annotated_NL > 0.5)
        predicted_NL = answers_NL >= np.array(list(made.figures.thresholds.values()))
        expected = mean_weighted_accuracy(actual_NL, predicted_NL)
        hits = [np.mean(p[a >= 0] == a[a >= 0]) for a, p in zip(actual_NL.T, predicted_NL.T, strict=True)]
        assert made.figures.figures["mean_accuracy"].value == pytest.approx(np.mean(hits))
    else:
        expected = metrics_regression.mean_ccc(annotated_NL, answers_NL)
        errors = np.abs(annotated_NL - answers_NL)
        assert made.figures.figures["mean_mae"].value == pytest.approx(np.mean(np.nanmean(errors, axis=0)))
        assert "mean_acc7_round" not in made.figures.figures
        # On the scale of the annotation, 1 to 5, not on the training's 0 to 1.
        assert 1 < answers_NL.mean() < 5
    assert made.figures.figures[made.figures.headline].value == pytest.approx(expected)


def test_stored_answers_are_read_back_whole(made: Made) -> None:
    found = evaluate.read_answers(made.build / "evaluation")
    again = evaluate.score_bundle(made.bundle, build=made.build)
    assert found.task == made.task
    assert found.thresholds == again.thresholds == made.bundle.thresholds
    assert (found.clip_ids, found.speaker_ids) == (again.clip_ids, again.speaker_ids)
    np.testing.assert_array_equal(found.annotated_NC, again.annotated_NC)
    np.testing.assert_array_equal(found.answers_NC, again.answers_NC)


def test_the_table_says_in_words_what_was_there_and_what_was_said(made: Made) -> None:
    rows = pq.read_table(made.build / "evaluation" / "predictions.parquet").to_pylist()
    for row in rows:
        known = zip(made.task.labels, row["annotated"], strict=True)
        if made.kind == "multilabel":
            assert row["actual"] == (", ".join(label for label, value in known if value > 0.5) or "none")
        else:
            assert row["actual"] == ", ".join(f"{label} {value:.2f}" for label, value in known if not math.isnan(value))
        assert row["predicted"]


def test_what_was_learnt_is_better_than_a_constant(made: Made) -> None:
    """On the clips that it learnt: these models are too small to say anything about other speakers."""
    source = open_split(made.build / "features", "train")
    answers_NC = made.bundle.answers([source.features(index) for index in range(len(source))])
    annotated_NC = source.labels_NC.astype(float)
    if made.kind == "multilabel":
        actual_NC = np.where(np.isnan(annotated_NC), np.nan, annotated_NC > 0.5)
        assert mean_weighted_accuracy(actual_NC, answers_NC >= 0.5) > 0.75
    else:
        assert metrics_regression.mean_ccc(annotated_NC, answers_NC.astype(float)) > 0.5


def test_pictures_are_by_kind_and_the_same_bytes_each_time(made: Made, copy: FinishedRun) -> None:
    expected = {"metrics.json", "predictions.parquet", "task.json", "labels.json"}
    expected |= {"labels.png", "thresholds.json"} if made.kind == "multilabel" else {"values.png"}
    folder = made.build / "evaluation"
    assert {path.name for path in folder.iterdir()} == expected
    evaluate.evaluate(copy.settings, build=copy.build)
    for name in expected:
        assert (copy.build / "evaluation" / name).read_bytes() == (folder / name).read_bytes(), name
    [picture] = folder.glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_thresholds_are_chosen_on_validation_only(made: Made, copy: FinishedRun) -> None:
    if made.kind != "multilabel":
        assert made.figures.thresholds is None
        return
    source = open_split(made.build / "features", "validation")
    answers_NC = made.bundle.answers([source.features(index) for index in range(len(source))])
    for label, threshold in enumerate(made.bundle.thresholds):
        known_N = np.isfinite(source.labels_NC[:, label])
        actual_N1 = (source.labels_NC[known_N, label] > 0.5).astype(float)[:, None]
        chosen_N1 = answers_NC[known_N, label, None]
        if len(set(actual_N1[:, 0])) < 2:
            assert threshold == 0.5
            continue
        best = max(mean_weighted_accuracy(actual_N1, chosen_N1 >= t) for t in [0.5, *chosen_N1[:, 0].tolist(), 2.0])
        assert mean_weighted_accuracy(actual_N1, chosen_N1 >= threshold) == pytest.approx(best)
    # Other truths in the test part leave them as they are.
    test = copy.build / "features" / "test" / "00000.arrow"
    clips = ShardSet([test])
    turned = [
        Example(clips.clip_ids[n], clips.speaker_ids[n], tuple((3.0 - clips.labels_NC[n]).tolist()), clips.features(n))
        for n in range(len(clips))
    ]
    audio, video = clips.features(0).audio_TF, clips.features(0).video_TF
    write_shard(test, turned, widths=(audio.shape[1], video.shape[1]))
    figures = evaluate.evaluate(copy.settings, build=copy.build)
    assert isinstance(figures, LabelReport)
    assert figures.thresholds == made.figures.thresholds
    assert figures.figures != made.figures.figures


def test_a_model_selected_on_test_is_marked_and_never_released(made: Made, copy: FinishedRun) -> None:
    kinds.select_on_test(copy)
    changed = finish(copy)
    assert report.read(copy.build / "evaluation" / "metrics.json").selected_on == "test"
    assert "CHOSEN ON THE TEST PART" in (changed.folder / "CARD.md").read_text()
    assert "CHOSEN ON THE TEST PART" not in (made.bundle.folder / "CARD.md").read_text()
    evidence = gather(changed.folder, None, settings=copy.settings.gates, build=copy.build)
    floor = HeadlineFloor(-1.0, 200, made.kind).judge(evidence)
    assert not floor.passed
    assert "select_on_test=false" in floor.message
    unmarked = gather(made.bundle.folder, None, settings=made.run.settings.gates, build=made.build)
    assert HeadlineFloor(-1.0, 200, made.kind).judge(unmarked).passed


def test_a_damaged_summary_is_named(copy: FinishedRun) -> None:
    (copy.build / "finetune" / "summary.json").write_text("[1, ")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        evaluate.evaluate(copy.settings, build=copy.build)


def test_gates_hold_the_headline_figure_against_floor_and_champion(
    made: Made, copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    output = copy.build / "gates.json"
    arguments = ["--bundle", str(made.bundle.folder), "--champion", str(made.champion), "--build", str(copy.build)]
    judge_bundle([*arguments, "--output", str(output)])
    verdict = gates.read_verdict(output)
    floor, comparison, *others, golden = verdict.gates
    headline = HEADLINES[made.kind]
    assert floor.name == f"{headline.name}_floor"
    assert floor.value == made.figures.figures[headline.name].value
    assert headline.words in floor.message
    assert f"{headline.words} against the champion" in comparison.message
    theirs = evaluate.score_bundle(bundle.load(made.champion), build=made.build).outcomes
    own = evaluate.score_bundle(made.bundle, build=made.build).outcomes
    expected = metrics.paired_bootstrap(own, theirs, metric=headline.metric, num_resamples=1000)
    assert (comparison.value, comparison.low, comparison.high) == (expected.value, expected.low, expected.high)
    assert golden.passed
    names = {gate.name for gate in others}
    assert ("calibration" in names) is (made.kind == "multilabel")
    assert {"modalities/audio", "modalities/video+text", "robustness/noise_20_db"} <= names
    assert headline.name in capsys.readouterr().out


def test_a_champion_of_another_kind_is_not_compared(
    made: Made, finished_run: FinishedRun, tmp_path: Path, copy: FinishedRun
) -> None:
    build = Path(shutil.copytree(finished_run.build, tmp_path / "classes", dirs_exist_ok=True))
    champion = finish(FinishedRun(build, finished_run.settings))
    evidence = gather(made.bundle.folder, champion.folder, settings=copy.settings.gates, build=copy.build)
    result = NotWorseThanChampion(0.0, 100).judge(evidence)
    assert result.passed
    assert f"answers classes, this one {made.kind}" in result.message
    with pytest.raises(evaluate.NoSharedLabels, match=f"asks for {made.kind}"):
        evaluate.score_bundle(champion, build=copy.build)


def test_answers_of_a_champion_go_by_name_and_scale(made: Made) -> None:
    task = made.task
    turned = tuple(reversed(task.labels))
    answers_NC = np.arange(2 * len(turned), dtype=np.float32).reshape(2, -1) / np.float32(10)
    if made.kind == "multilabel":
        known = Task("multilabel", (*turned[:-1], "bored"))
        aligned_NC = scoring.align(answers_NC, known, task)
        np.testing.assert_array_equal(aligned_NC[:, 0], 0)
        np.testing.assert_array_equal(aligned_NC[:, 1:], answers_NC[:, ::-1][:, 1:])
    else:
        known = Task("values", ("dominance", "arousal"), scale=(0.0, 1.0))
        aligned_NC = scoring.align(answers_NC, known, task)
        np.testing.assert_allclose(aligned_NC[:, 0], 1 + 4 * answers_NC[:, 1], rtol=1e-6)
        np.testing.assert_array_equal(aligned_NC[:, 1], 3)


def test_the_bundle_brings_its_task_along(made: Made) -> None:
    thresholds = {"thresholds.json"} if made.kind == "multilabel" else set()
    names = {*bundle_files.FILES, "graph.pt", "task.json"} | thresholds
    assert {path.name for path in made.bundle.folder.iterdir()} == names
    assert made.bundle.task == made.task
    assert json.loads((made.bundle.folder / "labels.json").read_text()) == list(made.task.labels)
    assert made.bundle.golden_error() <= made.bundle.golden.tolerance


def test_any_changed_byte_of_the_optional_files_changes_the_version(made: Made, copy: FinishedRun) -> None:
    folder = copy.build / "bundle"
    assert bundle_files.version_of(folder) == made.bundle.version
    for name in bundle_files.OPTIONAL_FILES:
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content + b"\n")
            assert bundle_files.version_of(folder) != made.bundle.version
            (folder / name).write_bytes(b"")
            with pytest.raises(ValueError, match=f"{name} is empty"):
                bundle.load(folder)
            (folder / name).write_bytes(content)


def test_thresholds_that_are_missing_or_of_other_labels_are_named(made: Made, copy: FinishedRun) -> None:
    path = copy.build / "bundle" / "thresholds.json"
    if made.kind == "values":
        assert not path.exists()
        assert made.bundle.thresholds == ()
        return
    path.write_text('{"bored": 0.5}')
    with pytest.raises(ValueError, match=r"thresholds\.json is damaged"):
        bundle.load(path.parent)
    path.unlink()
    with pytest.raises(ValueError, match=r"thresholds\.json is missing"):
        bundle.load(path.parent)


def test_other_weights_do_not_answer_the_golden_requests(made: Made, copy: FinishedRun) -> None:
    shutil.copyfile(made.champion / "model.safetensors", copy.build / "bundle" / "model.safetensors")
    assert 1e-4 < bundle.load(copy.build / "bundle").golden_error() <= 1


def test_golden_values_are_compared_in_lengths_of_the_scale(made: Made, copy: FinishedRun) -> None:
    path = copy.build / "bundle" / "golden.json"
    golden = json.loads(path.read_text())
    golden["requests"][1]["probabilities"][0] += 0.4
    path.write_text(json.dumps(golden))
    unit = 4 if made.kind == "values" else 1
    assert bundle.load(path.parent).golden_error() == pytest.approx(0.4 / unit, abs=1e-4)


def test_the_drift_reference_describes_the_answers(made: Made) -> None:
    source = open_split(made.build / "features", "validation")
    answers_NC = made.bundle.answers([source.features(index) for index in range(len(source))])
    reference = made.bundle.drift_reference
    if made.kind == "multilabel":
        shares = (answers_NC >= np.array(made.bundle.thresholds)).mean(axis=0)
        np.testing.assert_allclose(reference.class_shares_C, shares, rtol=1e-6)
        assert reference.values is None
    else:
        assert reference.class_shares_C.size == 0
        assert reference.values is not None
        np.testing.assert_allclose(reference.values.mean_F, answers_NC.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(reference.values.quantiles_QF[5], np.median(answers_NC, axis=0), rtol=1e-5)


def test_the_card_says_what_the_model_says(made: Made) -> None:
    text = (made.bundle.folder / "CARD.md").read_text()
    says = "says of each of 4 emotions" if made.kind == "multilabel" else "rates 2 dimension(s) from 1 to 5"
    assert f"{says}" in text
    assert ", ".join(made.task.labels) in text
    headline = made.figures.figures[made.figures.headline]
    assert f"| {made.figures.headline.replace('_', ' ')} | {headline.value:.3f} | {headline.low:.3f} |" in text
    assert f"| {made.task.labels[0]} |" in text
    assert ("chosen on validation speakers" in text) is (made.kind == "multilabel")


@pytest.fixture(scope="module")
def runtime(made: Made) -> Runtime:
    loaded = Runtime(made.bundle.folder)
    loaded.warmup()
    return loaded


def everything() -> Request:
    return Request(video=requests()[1].video, text=requests()[2].text)


def test_the_runtime_answers_by_kind(made: Made, runtime: Runtime) -> None:
    [judged] = runtime.predict([everything()])
    prepared = runtime.prepare(everything())
    expected_C = made.bundle.answers([prepared.features])[0]
    if made.kind == "multilabel":
        assert isinstance(judged, LabelPrediction)
        assert list(judged.probabilities.values()) == pytest.approx(expected_C.tolist(), abs=1e-5)
        assert tuple(judged.thresholds.values()) == made.bundle.thresholds
        assert all(0 <= value <= 1 for moment in judged.timeline for value in moment.answers.values())
    else:
        assert isinstance(judged, ValuePrediction)
        assert list(judged.values.values()) == pytest.approx(expected_C.tolist(), abs=1e-4)
        assert judged.scale == (1.0, 5.0)
    assert len(judged.timeline) > 0
    assert set(judged.timeline[0].answers) == set(made.task.labels)
    assert runtime.info().task == made.task


def test_contributions_are_what_a_request_without_the_modality_changes(made: Made, runtime: Runtime) -> None:
    whole, without, alone = runtime.predict(
        [everything(), Request(video=everything().video), Request(text=everything().text)]
    )
    for label in made.task.labels:
        if isinstance(whole, LabelPrediction):
            assert isinstance(without, LabelPrediction)
            assert isinstance(alone, LabelPrediction)
            odds = [math.log(p / (1 - p)) for p in (each.probabilities[label] for each in (whole, without, alone))]
            middle = 0.0
        else:
            assert isinstance(whole, ValuePrediction)
            assert isinstance(without, ValuePrediction)
            assert isinstance(alone, ValuePrediction)
            odds = [each.values[label] for each in (whole, without, alone)]
            middle = 3.0
        assert whole.contributions["text"][label] == pytest.approx(odds[0] - odds[1], abs=1e-3)
        assert alone.contributions["text"][label] == pytest.approx(odds[2] - middle, abs=1e-3)
    assert set(whole.contributions) == {"audio", "video", "text"}


def test_an_answer_does_not_depend_on_its_company(made: Made, runtime: Runtime) -> None:
    each = [Request(audio=requests()[0].audio), everything(), Request(text="we saw the door")]
    alone = [runtime.predict([request])[0] for request in each]
    for one, other in zip(alone, runtime.predict(each), strict=True):
        for modality, found in one.contributions.items():
            assert isinstance(found, dict)
            assert found == pytest.approx(other.contributions[modality], abs=1e-3)
        assert len(one.timeline) == len(other.timeline)
    assert {type(answer).__name__ for answer in alone} == {
        "LabelPrediction" if made.kind == "multilabel" else "ValuePrediction"
    }


def test_a_folder_without_task_json_is_of_classes(finished_run: FinishedRun) -> None:
    assert predictor.read_task(finished_run.build / "finetune") == Task("classes", LABELS)


def test_the_report_of_a_run_shows_its_kind(made: Made) -> None:
    record = RunRecord("id", "digest", "/folder", "2026-01-01T10:00:00+00:00", outcome="promoted", release=1)
    html = run_report.build(run_report.gather(record, None, made.build))
    assert '<section id="answers">' in html
    # Values have no probabilities that could be right or wrong.
    assert ('<section id="reliability">' in html) is (made.kind == "multilabel")
    for label in made.task.labels:
        assert f"<td>{label}</td>" in html
    headline = HEADLINES[made.kind]
    assert f"{made.figures.figures[headline.name].value:.3f}" in html
