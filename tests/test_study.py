"""The plan of a study: which runs there are, what they share, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from components import evaluate, ridge
from components.params import Corpus, resolve
from components.storage import Storage
from components.study import StudyChoices, StudyRun, plan
from components.study_jobs import RIDGE, Job, figures_of, jobs_of, read_pipeline
from components.study_records import Records, RunRecord, study_digest
from flows.study_command import choices_of
from tests.conftest import REPOSITORY

PIPELINE = read_pipeline(REPOSITORY / "dvc.yaml")
RAVDESS = Corpus(dataset="ravdess", root="/corpora/ravdess")


def test_a_study_is_the_whole_product() -> None:
    runs = plan(StudyChoices(finetune_on=RAVDESS, num_folds=4, seeds=[0, 3], modalities=["audio", "all"]))
    # folds x seeds x subsets x shares x learners
    assert len(runs) == 4 * 2 * 2 * 2 * 3
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        settings = resolve(run.choices)
        assert (settings.ingest.num_folds, settings.ingest.fold, settings.seed) == (4, run.fold, run.seed)
        assert settings.features.modalities == run.condition.modalities
        assert settings.finetune.label_share == run.condition.label_share
        assert settings.finetune.num_workers == settings.pretrain.num_workers == 1
        if run.condition.learner != "ridge":
            assert settings.pretrain.enabled == (run.condition.learner == "pretrained")
    names = {run.condition.modality_name for run in runs}
    assert names == {"audio", "audio+video+text"}


def test_a_corpus_is_divided_as_its_papers_do_unless_told_otherwise() -> None:
    published = plan(StudyChoices(finetune_on=RAVDESS, ridge=False, label_shares=[1.0], initializations=["scratch"]))
    assert [run.fold for run in published] == list(range(6))
    assert {resolve(run.choices).ingest.protocol for run in published} == {"actors"}
    [one] = plan(StudyChoices(ridge=False, label_shares=[1.0], initializations=["scratch"]))
    assert one.fold is None
    assert resolve(one.choices).ingest.num_folds is None
    some = plan(StudyChoices(finetune_on=RAVDESS, folds=[4, 1], ridge=False, label_shares=[1.0]))
    assert [run.fold for run in some] == [4, 4, 1, 1]


def test_each_trains_every_subset_of_what_the_recipe_looks_at() -> None:
    runs = plan(StudyChoices(modalities=["each"], overrides={"features": {"modalities": ["video", "audio"]}}))
    assert {run.condition.modalities for run in runs} == {("audio", "video"), ("audio",), ("video",)}


def test_what_runs_share_is_one_job() -> None:
    runs = plan(StudyChoices(finetune_on=RAVDESS, num_folds=2))
    jobs = jobs_of(runs, PIPELINE)
    by_stage: dict[str, list[Job]] = {}
    for job in jobs:
        by_stage.setdefault(job.stage, []).append(job)
    # Of each fold: the features once for all 6 runs, each initial model once for both shares of the labels.
    assert {stage: len(found) for stage, found in by_stage.items()} == {
        "features": 2,
        "pretrain": 4,
        "evaluate": 8,
        RIDGE: 4,
    }
    assert [len(job.runs) for job in by_stage["features"]] == [6, 6]
    assert all(len(job.runs) == 2 for job in by_stage["pretrain"])
    # The job of every run ends in its figures, behind all that it is built on.
    done: set[str] = set()
    for job in jobs:
        assert set(job.waits_for) <= done
        assert job.run in job.runs
        done.add(job.key)
    terminal = {name for job in jobs if job.stage in ("evaluate", RIDGE) for name in job.runs}
    assert terminal == {run.name for run in runs}


def test_runs_share_a_stage_exactly_when_all_that_it_depends_on_is_equal() -> None:
    """Against the slow, obvious way: comparing the parameters of the stage and of all stages before it."""
    choices = StudyChoices(finetune_on=RAVDESS, num_folds=2, seeds=[0, 1], modalities=["audio", "video"], ridge=False)
    runs = plan(choices)
    jobs = jobs_of(runs, PIPELINE)
    for stage in ("features", "pretrain"):
        inputs = {run.name: _inputs(run, stage) for run in runs}
        for first, second in product(inputs, inputs):
            shared = any(job.stage == stage and {first, second} <= set(job.runs) for job in jobs)
            assert shared == (inputs[first] == inputs[second]), (first, second, stage)


def _inputs(run: StudyRun, stage: str) -> list[Any]:
    """The values of every parameter that a stage or one before it names in dvc.yaml."""
    settings = resolve(run.choices).model_dump(mode="json")
    order = ["ingest", "features", "pretrain", "finetune", "evaluate"]
    found = []
    for name in order[: order.index(stage) + 1]:
        for entry in PIPELINE[name]["params"]:
            for key in entry["build/params.yaml"]:
                value: Any = settings
                for part in key.split("."):
                    value = value[part]
                found.append((name, key, json.dumps(value)))
    return found


def test_a_run_that_is_done_is_planned_out() -> None:
    runs = plan(StudyChoices(finetune_on=RAVDESS, num_folds=2))
    rest = [run for run in runs if run.fold == 1 and run.condition.learner == "pretrained"]
    assert [job.stage for job in jobs_of(rest, PIPELINE)] == ["pretrain", "evaluate", "evaluate"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"overrides": {"finetune": {"label_share": 0.5}}}, "use label_shares"),
        ({"overrides": {"pretrain": {"enabled": False}}}, "use initializations"),
        ({"overrides": {"ingest": {"fold": 1}}}, "use folds"),
        ({"num_folds": 3, "protocol": "actors"}, "leave one of the two out"),
        ({"seeds": [1, 1]}, "names a value twice"),
        ({"finetune_on": {"dataset": "ravdess"}, "folds": [6]}, "no fold 6"),
        ({"folds": [0]}, "set num_folds"),
        ({"finetune_on": {"dataset": "ravdess"}, "protocol": "actor"}, "did you mean actors"),
        ({"modalities": ["audio+smell"]}, "has no 'smell'"),
        ({"recipe": "quikc"}, "did you mean quick"),
        ({"label_shares": [2.0]}, "label_shares"),
        ({"overrides": {"finetune": {"num_epoch": 3}}}, "did you mean num_epochs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(StudyChoices.model_validate(values))


def test_the_command_takes_choices_of_the_study_and_settings_of_the_recipe() -> None:
    choices = choices_of(
        "quick",
        Corpus(),
        options={"num_folds": 3, "seeds": ["0", "2"], "label_shares": None, "modalities": ["each"]},
        assignments=["parallel=2", "model.width=32", "folds=[1, 2]", "synthetic.num_speakers=6"],
    )
    assert (choices.num_folds, choices.seeds, choices.modalities, choices.parallel) == (3, [0, 2], ["each"], 2)
    assert choices.overrides == {"model": {"width": 32}, "synthetic": {"num_speakers": 6}}
    assert {run.fold for run in plan(choices)} == {1, 2}
    with pytest.raises(ValueError, match="a study chooses seed itself"):
        choices_of("quick", Corpus(), options={}, assignments=["seed=3"])
    with pytest.raises(ValueError, match="did you mean num_epochs"):
        choices_of("quick", Corpus(), options={}, assignments=["finetune.num_epoch=3"])
    with pytest.raises(ValueError, match="seeds"):
        choices_of("quick", Corpus(), options={"seeds": ["one"]}, assignments=[])


def test_the_form_and_the_plan_survive_json() -> None:
    choices = StudyChoices(finetune_on=RAVDESS, num_folds=2, seeds=[0, 1], modalities=["each"])
    again = StudyChoices.model_validate(json.loads(choices.model_dump_json()))
    assert plan(again) == plan(choices)


def test_figures_are_looked_for_where_they_are_written() -> None:
    for run in plan(StudyChoices(label_shares=[1.0])):
        folder = ridge.FOLDER if run.condition.learner == "ridge" else "evaluation"
        assert figures_of(run, Path("w")) == Path("w") / evaluate.BUILD / folder / evaluate.PREDICTIONS


def test_whoever_serves_the_flow_does_not_wait_for_ray_and_torch() -> None:
    code = "import sys, flows.study; sys.exit(bool({'torch', 'ray', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_records_are_kept_and_a_damaged_one_is_no_record(tmp_path: Path) -> None:
    records = Records(Storage(str(tmp_path)), study_digest(["a 1", "b 2"]))
    assert study_digest(["a 1", "b 3"]) != records.study
    record = RunRecord("audio.scratch", "1", "/w", "done", duration_s=2.5, data={"build/clips": "md5.dir"})
    assert records.read(record.name) is None
    records.write(record)
    assert records.read(record.name) == record
    (tmp_path / "studies" / records.study / "runs" / "audio.scratch.json").write_text('{"name": "audio')
    assert records.read(record.name) is None
