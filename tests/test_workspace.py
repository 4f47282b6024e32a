"""A run's folder and name: another task, fold or label table is another run, and wrong names are told at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.params import Choices, Corpus
from components.settings import Settings
from flows.stages import STAGES, StageFailed, bring_all, stage_environment
from flows.workspace import Workspace, find, keep, prepare, reopen
from tests.corpus_files import write_sound, write_text

VOTES = ('"","A","D","F","H","N","S","fileName"', '"300001",8,2,0,0,0,0,"1001_DFA_ANG_XX"')


def prepared(folder: Path, *, task: str | None = None, **ingest: object) -> Workspace:
    corpus = Corpus(dataset="crema_d", root=str(folder / "crema"), task=task)
    choices = Choices(finetune_on=corpus, overrides={"ingest": ingest} if ingest else {})
    return prepare(choices, Settings(home=folder / "home"))


def test_task_fold_and_votes_name_the_run(tmp_path: Path) -> None:
    write_sound(tmp_path / "crema/AudioWAV/1001_DFA_ANG_XX.wav")
    votes = write_text(tmp_path / "crema/processedResults/tabulatedVotes.csv", *VOTES)
    acted, crowd = prepared(tmp_path), prepared(tmp_path, task="crowd")
    first = prepared(tmp_path, protocol="actors")
    second = prepared(tmp_path, protocol="actors", fold=1)
    assert len({acted.digest, crowd.digest, first.digest, second.digest}) == 4
    assert prepared(tmp_path, task="crowd") == crowd
    write_text(votes, VOTES[0], VOTES[1].replace("8,2", "2,8"))
    assert prepared(tmp_path, task="crowd") != crowd
    assert prepared(tmp_path) == acted


def test_wrong_names_are_told_before_a_folder_is_made(tmp_path: Path) -> None:
    write_sound(tmp_path / "crema/AudioWAV/1001_DFA_ANG_XX.wav")
    with pytest.raises(ValueError, match="crema_d has no task 'croud'; did you mean crowd"):
        prepared(tmp_path, task="croud")
    with pytest.raises(ValueError, match="crema_d has no protocol 'actor'; did you mean actors"):
        prepared(tmp_path, protocol="actor")
    with pytest.raises(ValueError, match=r"tabulatedVotes\.csv is missing"):
        prepared(tmp_path, task="crowd")
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_finished_run_is_found_by_a_machine_that_has_the_store_alone(tmp_path: Path) -> None:
    there, here = (
        Settings(home=tmp_path / name, storage_url=str(tmp_path / "store"), rayjob="affect/training")
        for name in ("there", "here")
    )
    run = prepare(Choices(), there)
    made = {stage: f"build/{stage}" for stage in STAGES[1:]} | {STAGES[0]: "build/params.yaml"}
    stages = {
        stage: {
            "cmd": f"mkdir -p build && echo seed: 1 > {made[stage]}",
            "deps": ["params.yaml"],
            "outs": [{made[stage]: {"cache": stage != STAGES[0]}}],
        }
        for stage in STAGES
    }
    (run.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    with pytest.raises(StageFailed, match="ingest: what it made is not in"):
        bring_all(run.folder, there)
    for stage in STAGES[1:]:
        command = [sys.executable, "-m", "components.stored_stage", stage]
        subprocess.run(command, cwd=run.folder, env=stage_environment(there), check=True)
    assert find(run.digest, here) is None
    with pytest.raises(ValueError, match="has no bundle"):
        reopen(run.digest, here)

    keep(run, there)
    found = reopen(run.digest, here)
    assert found.folder == tmp_path / "here" / "workspaces" / run.digest
    assert {path for path in made.values() if (found.folder / path).exists()} == set(made.values())
    assert reopen(run.digest, here) == found
