"""A run's folder and name: another task, fold or label table is another run, and wrong names are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.params import Choices, Corpus
from components.settings import Settings
from flows.workspace import Workspace, prepare
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
