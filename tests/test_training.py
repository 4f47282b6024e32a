"""The training loop: resuming, workers, what it learns, and how it stops."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.answers import Judge
from components.batches import Batch, ClipSource
from components.masking import AugmentSettings, MaskSettings, Moment
from components.objectives import Classification, MaskedModelling, Objective, Terms
from components.objectives_labels import Concordance, MultiLabel
from components.sharding import Alone
from components.task import Task
from components.training import FitSettings, NonFiniteLoss, TrainingState, Validation, fit, predict
from tests.toy_clips import NUM_CLASSES, BrokenClips, ToyClips, toy_model

MASKED = MaskedModelling(MaskSettings(0.3, 2, 0.3))
LABELS = Classification(AugmentSettings(0.2, 0.2), 0.1)
NAMES = ("calm", "loud", "lively")
CLASSES, ANY = Task("classes", NAMES), Task("multilabel", NAMES, threshold=0.5)
VALUES = Task("values", NAMES, scale=(1.0, 5.0))
SHORT = FitSettings(num_epochs=3, batch_size=8, learning_rate=3e-3, seed=1, checkpoint_every_steps=4)


class Stop(Exception):
    """Ends a training from its callback, as a kill would."""


class _Meeting:
    """Where the threads of one training add up their tensors: a group of workers in one process."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.barrier = threading.Barrier(num_workers, timeout=60)
        self.parts: dict[int, Tensor] = {}

    def add(self, rank: int, tensor: Tensor) -> None:
        self.parts[rank] = tensor.clone()
        self.barrier.wait()
        total = sum((self.parts[other] for other in range(1, self.num_workers)), self.parts[0])
        self.barrier.wait()
        tensor.copy_(total)


class _Member(Alone):
    """One thread's view of a meeting."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        super().__init__(rank, meeting.num_workers)
        object.__setattr__(self, "meeting", meeting)

    def add(self, tensor: Tensor) -> None:
        meeting: _Meeting = vars(self)["meeting"]
        meeting.add(self.rank, tensor)


def _train(
    objective: Objective,
    *,
    source: ClipSource | None = None,
    validation: ClipSource | None = None,
    state: TrainingState | None = None,
    on_checkpoint: Callable[[TrainingState], None] = lambda _: None,
    dropout: float = 0.1,
) -> TrainingState:
    model = toy_model(dropout=dropout)
    return fit(
        model,
        source or ToyClips(),
        objective,
        SHORT,
        validation=None if validation is None else Validation(validation, Judge(CLASSES)),
        state=state,
        on_checkpoint=on_checkpoint,
    )


def _equal(one: TrainingState, other: TrainingState) -> bool:
    same_weights = all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    same_best = all(torch.equal(one.best_weights[name], other.best_weights[name]) for name in one.best_weights)
    return same_weights and same_best and one.history == other.history and one.step == other.step


@pytest.mark.parametrize("objective", [MASKED, LABELS], ids=["masked", "labels"])
@pytest.mark.parametrize("stop_at", [4, 6, 16])
def test_a_resumed_training_equals_an_uninterrupted_one(objective: Objective, stop_at: int) -> None:
    validation = ToyClips(12, seed=5) if objective is LABELS else None
    whole = _train(objective, validation=validation)
    kept: list[TrainingState] = []

    def stop(state: TrainingState) -> None:
        if state.step == stop_at:
            kept.append(copy.deepcopy(state))
            raise Stop

    with pytest.raises(Stop):
        _train(objective, validation=validation, on_checkpoint=stop)
    resumed = _train(objective, validation=validation, state=kept[0])
    assert resumed.finished
    assert _equal(resumed, whole)


class _Watched:
    """An objective that remembers the clips of each step."""

    names, weights = LABELS.names, LABELS.weights

    def __init__(self) -> None:
        self.steps: list[set[int]] = []

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        self.steps.append(set(batch.index_B.tolist()))
        return LABELS(model, batch, moment)


def _clips_of_steps(
    num_workers: int, *, state: TrainingState | None = None, stop_at: int | None = None
) -> tuple[list[set[int]], TrainingState]:
    """What workers that are threads train on together, step by step, until one step; and the state there."""
    meeting, kept = _Meeting(num_workers), {}
    watched = [_Watched() for _ in range(num_workers)]

    def work(rank: int) -> None:
        def keep(reached: TrainingState) -> None:
            kept[rank] = copy.deepcopy(reached)
            if reached.step == stop_at:
                raise Stop

        settings, group = replace(SHORT, num_epochs=2, checkpoint_every_steps=1), _Member(meeting, rank)
        with suppress(Stop):
            own = copy.deepcopy(state)
            fit(toy_model(), ToyClips(), watched[rank], settings, group=group, state=own, on_checkpoint=keep)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parts = list(zip(*(each.steps for each in watched), strict=True))
    assert all(sum(map(len, step)) == len(set.union(*step)) for step in parts), "two workers took the same clip"
    return [set.union(*step) for step in parts], kept[0]


@pytest.mark.parametrize(("stop_at", "before", "after"), [(1, 1, 3), (4, 3, 2), (5, 2, 1)])
def test_with_other_workers_it_goes_on_with_the_same_clips(stop_at: int, before: int, after: int) -> None:
    planned, _ = _clips_of_steps(1)
    first, state = _clips_of_steps(before, stop_at=stop_at)
    rest, last = _clips_of_steps(after, state=state)
    assert first + rest == planned
    assert last.finished


def test_two_workers_make_the_update_of_one() -> None:
    objective = MaskedModelling(MaskSettings(0.3, 2, 0.3))
    alone = _train(objective, dropout=0.0)
    meeting, found = _Meeting(2), {}

    models = [toy_model(dropout=0.0) for _ in range(2)]

    def work(rank: int) -> None:
        found[rank] = fit(models[rank], ToyClips(), objective, SHORT, group=_Member(meeting, rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, weight in alone.weights.items():
        assert torch.equal(found[0].weights[name], found[1].weights[name])
        torch.testing.assert_close(found[0].weights[name], weight, rtol=2e-3, atol=2e-4)
    losses = [(a.loss, b.loss) for a, b in zip(alone.history, found[0].history, strict=True)]
    assert all(one == pytest.approx(two, rel=1e-3) for one, two in losses)


def test_it_learns_and_keeps_the_best_epoch() -> None:
    model, validation = toy_model(), ToyClips(40, seed=9)
    state = fit(
        model,
        ToyClips(120),
        Classification(label_smoothing=0.1),
        FitSettings(num_epochs=6, batch_size=16, learning_rate=1e-2, seed=0),
        validation=Validation(validation, Judge(CLASSES)),
    )
    scores = [row.score for row in state.history if row.split == "validation"]
    assert state.best_score == max(score for score in scores if score is not None)
    assert state.best_epoch == scores.index(state.best_score)
    model.load_state_dict(state.best_weights)
    probabilities_NC = predict(model, validation)
    assert (probabilities_NC.argmax(axis=1) == validation.labels_NC.argmax(axis=1)).mean() > 0.85


def _on_scale(clips: ToyClips) -> ToyClips:
    clips.labels_NC = 1 + 4 * clips.labels_NC
    return clips


@pytest.mark.parametrize(
    ("task", "objective", "figure"),
    [
        (ANY, MultiLabel(ANY.threshold), "weighted_accuracy"),
        (VALUES, Concordance(VALUES.labels, (1.0, 5.0)), "ccc"),
    ],
    ids=["multilabel", "values"],
)
def test_it_learns_labels_that_are_no_classes(task: Task, objective: Objective, figure: str) -> None:
    train, validation = ToyClips(120), ToyClips(40, seed=9)
    if task.kind == "values":
        train, validation = _on_scale(train), _on_scale(validation)
    model, judge = toy_model(), Judge(task)
    assert judge.name == figure
    settings = FitSettings(num_epochs=8, batch_size=16, learning_rate=3e-3, seed=0)
    state = fit(model, train, objective, settings, validation=Validation(validation, judge))
    assert state.best_score > 0.8
    trained = [row.loss for row in state.history if row.split == "train"]
    assert trained[-1] < trained[0]
    model.load_state_dict(state.best_weights)
    answers_NC = predict(model, validation, task=task)
    assert judge.score(validation.labels_NC, answers_NC.astype(np.float64)) == pytest.approx(state.best_score, abs=1e-6)
    if task.kind == "values":
        assert answers_NC.max() > 3


def test_the_concordance_of_two_workers_is_that_of_one() -> None:
    objective = Concordance(VALUES.labels, (0.0, 1.0))
    # The linear part has a dropout of its own, which differs by worker.
    models = [toy_model(dropout=0.0, summary=False) for _ in range(3)]
    alone = fit(models[2], ToyClips(), objective, SHORT)
    meeting, found = _Meeting(2), {}

    def work(rank: int) -> None:
        found[rank] = fit(models[rank], ToyClips(), objective, SHORT, group=_Member(meeting, rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    losses = [(a.loss, b.loss) for a, b in zip(alone.history, found[0].history, strict=True)]
    assert all(one == pytest.approx(two, rel=1e-2) for one, two in losses)


@pytest.mark.parametrize("stop_at", [4, 6])
def test_bert_adam_and_the_linear_schedule_resume_too(stop_at: int) -> None:
    settings = replace(SHORT, optimizer="bert_adam", schedule="linear")
    kept: list[TrainingState] = []

    def keep(state: TrainingState) -> None:
        if state.step == stop_at:
            kept.append(copy.deepcopy(state))

    whole = fit(toy_model(), ToyClips(), MASKED, settings, on_checkpoint=keep)
    assert _equal(fit(toy_model(), ToyClips(), MASKED, settings, state=kept[0]), whole)
    assert not _equal(_train(MASKED), whole)


def test_pretraining_lowers_every_term() -> None:
    settings = FitSettings(num_epochs=12, batch_size=16, learning_rate=5e-3, seed=0)
    state = fit(toy_model(), ToyClips(96), MASKED, settings)
    assert state.history[-1].loss < state.history[0].loss


@pytest.mark.parametrize("objective", [MASKED, LABELS], ids=["masked", "labels"])
def test_bfloat16_learns_nearly_the_same_in_float32_weights(objective: Objective) -> None:
    exact, coarse = (
        fit(toy_model(dropout=0.0), ToyClips(), objective, replace(SHORT, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    assert {each.dtype for each in coarse.weights.values()} == {each.dtype for each in exact.weights.values()}
    assert coarse.history != exact.history
    assert coarse.history[-1].loss == pytest.approx(exact.history[-1].loss, rel=0.02)


def test_prediction_does_not_depend_on_the_batch_and_keeps_the_order() -> None:
    model, clips = toy_model(), ToyClips(17)
    one, many = predict(model, clips, batch_size=1), predict(model, clips, batch_size=16)
    np.testing.assert_allclose(one, many, atol=1e-6)
    assert one.shape == (17, NUM_CLASSES)
    np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(predict(model, clips, drop=["audio"]), one)


def test_a_loss_that_is_no_number_stops_before_the_step_and_names_the_clip() -> None:
    model = toy_model()
    with pytest.raises(NonFiniteLoss, match=r"clip007$"):
        fit(model, BrokenClips(), LABELS, SHORT)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_loss_that_runs_away_names_the_learning_rate() -> None:
    model = toy_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match="learning_rate"):
        fit(model, ToyClips(), LABELS, SHORT)


def test_more_workers_than_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_workers"):
        fit(toy_model(), ToyClips(2), LABELS, SHORT, group=Alone(0, 3))
