"""The solved linear part: what it says of clips that it has not seen, by the kind of the task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from components import linear_part
from components.answers import Judge
from components.batches import in_order
from components.models.trimodal import TrimodalModel
from components.task import Task
from components.training import predict
from tests.toy_clips import ToyClips, toy_model

NAMES = ("a", "b", "c")
TASKS = {
    "classes": Task("classes", NAMES),
    "multilabel": Task("multilabel", NAMES, threshold=0.5),
    "values": Task("values", NAMES, scale=(1.0, 5.0)),
}


@dataclass(frozen=True)
class _Solved:
    model: TrimodalModel
    task: Task


def _solved(task: Task, clips: ToyClips) -> _Solved:
    model = toy_model(seed=1)
    assert isinstance(model, TrimodalModel)
    # What is left is the linear part alone.
    last = model.get_submodule("head.4")
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()
    model.train(False)
    assert linear_part.learn(model, clips, task) == bool(np.isfinite(clips.labels_NC).all(axis=1).any())
    return _Solved(model, task)


def _weigh(model: TrimodalModel, clips: ToyClips, task: Task) -> None:
    found = linear_part.weights(model, clips, task)
    model.weigh(linear=found.linear, sequence=found.sequence)


def _clips(task: Task, num_clips: int, *, seed: int) -> ToyClips:
    clips = ToyClips(num_clips, seed=seed)
    if task.kind == "values":
        clips.labels_NC = 1 + 4 * clips.labels_NC
    return clips


@pytest.mark.parametrize("kind", TASKS)
def test_it_judges_clips_that_it_has_not_seen(kind: str) -> None:
    task = TASKS[kind]
    solved, unseen = _solved(task, _clips(task, 120, seed=0)), _clips(task, 80, seed=9)
    answers_NC = predict(solved.model, unseen, task=task).astype(np.float64)
    assert Judge(task).score(unseen.labels_NC, answers_NC) > 0.85


def _confused(clips: ToyClips, *, seed: int) -> ToyClips:
    """A third of the clips has any label."""
    random = np.random.default_rng(seed)
    wrong_N = random.random(len(clips)) < 1 / 3
    clips.labels_NC[wrong_N] = np.eye(len(NAMES), dtype=np.float32)[random.integers(0, len(NAMES), wrong_N.sum())]
    return clips


def test_it_is_as_sure_as_it_is_right() -> None:
    task = TASKS["classes"]
    solved = _solved(task, _confused(ToyClips(150), seed=1))
    unseen = _confused(ToyClips(600, seed=9), seed=2)

    def loss() -> float:
        answers_NC = predict(solved.model, unseen, task=task).astype(np.float64)
        total, count = Judge(task).loss(unseen.labels_NC, answers_NC)
        return total / count

    found, head = loss(), solved.model.summary_head
    assert head is not None
    for factor in (0.5, 2.0):
        head.weight_IC *= factor
        head.bias_C *= factor
        assert found < loss()
        head.weight_IC /= factor
        head.bias_C /= factor


def test_a_clip_of_which_a_label_is_not_known_teaches_nothing() -> None:
    task = TASKS["multilabel"]
    clips, fewer = _clips(task, 60, seed=0), _clips(task, 60, seed=0)
    clips.labels_NC[:5, 1] = np.nan
    for name in ("clips", "clip_ids", "speaker_ids", "labels_NC", "num_steps_N3"):
        setattr(fewer, name, getattr(fewer, name)[5:])
    one, other = (_solved(task, each).model.state_dict() for each in (clips, fewer))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])


def test_without_known_labels_it_says_nothing() -> None:
    clips = ToyClips(20, labelled=False)
    solved = _solved(TASKS["classes"], clips)
    assert solved.model.summary_head is not None
    assert not solved.model.summary_head.weight_IC.any()


def test_the_same_clips_give_the_same_weights_to_the_bit() -> None:
    one, other = (_solved(TASKS["classes"], ToyClips(60)).model.state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_model_without_a_linear_part_is_left_alone() -> None:
    model = toy_model(summary=False)
    assert isinstance(model, TrimodalModel)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not linear_part.learn(model, ToyClips(20), TASKS["classes"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_missing_counts_as_nothing() -> None:
    solved = _solved(TASKS["classes"], ToyClips(60))
    [batch] = list(in_order(ToyClips(20, seed=3)))
    inputs_BI = solved.model.linear_inputs(batch.without(["video"]).inputs())
    audio, video, *_ = solved.model.linear_bands
    assert inputs_BI[:, :audio].any()
    assert not inputs_BI[:, audio : audio + video].any()


@pytest.mark.parametrize("kind", TASKS)
def test_the_part_that_knows_nothing_counts_little_beside_the_one_that_knows(kind: str) -> None:
    task = TASKS[kind]
    solved, others = _solved(task, _clips(task, 120, seed=0)), _clips(task, 80, seed=9)
    model = solved.model
    last, head = model.get_submodule("head.4"), model.summary_head
    assert head is not None
    with torch.no_grad():
        # The transformer guesses by what it was drawn as.
        last.get_parameter("weight").normal_(std=0.3)
        guessed, told = last.get_parameter("weight").norm(), head.weight_IC.norm()
        _weigh(model, others, task)
        assert last.get_parameter("weight").norm() / guessed < 0.5 * head.weight_IC.norm() / told


def test_one_speaker_moves_the_weights_less_than_many() -> None:
    moved = []
    for num_speakers in (1, 40):
        task = TASKS["classes"]
        solved, others = _solved(task, _confused(ToyClips(60), seed=1)), _confused(ToyClips(80, seed=5), seed=3)
        others.speaker_ids = [f"speaker{number % num_speakers}" for number in range(len(others))]
        last, head = solved.model.get_submodule("head.4"), solved.model.summary_head
        assert head is not None
        # Four times as sure as it should be.
        head.weight_IC *= 4
        head.bias_C *= 4
        torch.nn.init.normal_(last.get_parameter("weight"), std=0.1)
        told = head.weight_IC.norm()
        _weigh(solved.model, others, task)
        moved.append(abs(float(head.weight_IC.norm() / told) - 1))
    assert moved[0] < moved[1]


def test_weighing_never_makes_the_loss_larger() -> None:
    task = TASKS["classes"]
    solved, others = _solved(task, _confused(ToyClips(60), seed=1)), _confused(ToyClips(60, seed=5), seed=3)
    torch.nn.init.normal_(solved.model.get_submodule("head.4").get_parameter("weight"), std=0.5)

    def loss() -> float:
        total, count = Judge(task).loss(others.labels_NC, predict(solved.model, others, task=task).astype(np.float64))
        return total / count

    before = loss()
    _weigh(solved.model, others, task)
    assert loss() <= before
