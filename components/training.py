"""The one training loop, for pre-training and fine-tuning, on one worker or many. Neither Ray nor files.

`fit` is the driver of one worker: epochs, checkpoints, validation. `_train_step` is one update. `predict` reads a
trained model. All workers plan the same batches and take a share of each; the sums of their gradients
(`components.sharding`) make their update the one that a single worker would have made. (torch's own wrapper averages
instead, and fills its buckets in an order that a resumed run would not repeat.)

Shape suffixes: N clips, B batch, C classes, L terms of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.answers import Judge, to_answers
from components.batches import Batch, ClipSource, collate, costs, in_advance, plan_epoch, share
from components.clip import Modality
from components.compilation import compile_layers
from components.masking import Moment
from components.objectives import Objective, Terms
from components.objectives_labels import LossOfMeans, loss_and_slopes
from components.optimizers import BertAdam, linear_schedule
from components.sharding import ALONE, Group, Placement, Sharding, place
from components.task import Task

_LARGEST_NAMED_CLIPS: Final = 8


class NonFiniteLoss(ValueError):
    """The loss is no number: the weights are as they were before that step, and the clips are named."""


@dataclass(frozen=True)
class FitSettings:
    """How long and how fast to train; as the section of the same names in the parameters."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every_steps: int = 50
    optimizer: Literal["adamw", "bert_adam"] = "adamw"
    schedule: Literal["cosine", "linear"] = "cosine"
    precision: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: bool = False
    sharding: Sharding = "none"
    compile: bool = False


@dataclass(frozen=True)
class HistoryRow:
    """Losses of one epoch on one split; `score` is the judge's figure, where there is validation."""

    step: int
    epoch: int
    split: str
    loss: float
    terms: tuple[float, ...]
    score: float | None = None


@dataclass
class TrainingState:
    """All that a training is at one moment: from here it goes on as if it had never stopped.

    Attributes:
        step, epoch, batch: steps done, and the place of the next batch in the plan.
        weights, optimizer: state dictionaries of the model and of its optimizer, whole on the first worker at least;
            see `sharding.Placement`. So is best_weights.
        sums_L, counts_L: terms of the loss so far in this epoch.
        best_weights, best_epoch, best_score: where validation was best; empty, -1 and -inf without validation.
        history: one row an epoch and split.
        finished: all epochs are done.
    """

    step: int
    epoch: int
    batch: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    sums_L: list[float]
    counts_L: list[float]
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1
    best_score: float = -math.inf
    history: list[HistoryRow] = field(default_factory=list)
    finished: bool = False


@dataclass(frozen=True)
class Validation:
    """Clips on which the best epoch is found, and who judges it."""

    clips: ClipSource
    judge: Judge


def _ignore(_state: object) -> None:
    """Do nothing with a state: the default of `fit`'s callbacks."""


def fit(
    model: nn.Module,
    train: ClipSource,
    objective: Objective,
    settings: FitSettings,
    *,
    validation: Validation | None = None,
    group: Group = ALONE,
    state: TrainingState | None = None,
    on_checkpoint: Callable[[TrainingState], None] = _ignore,
    on_epoch: Callable[[TrainingState], None] = _ignore,
) -> TrainingState:
    """Train `model` in place until all epochs are done, from `state` if there is one.

    With `validation` the epoch that its judge finds best is kept (the earlier of equals). `on_checkpoint` gets
    the state every `checkpoint_every_steps` and at the end of each epoch, `on_epoch` at the latter only; it is
    called on every worker, and must copy what it keeps: the weights in it are the live ones.

    Raises:
        NonFiniteLoss: on every worker at once, before the weights change.
        ValueError: there are fewer clips than workers.
    """
    if len(train) < group.num_workers:
        raise ValueError(f"{len(train)} clips cannot be shared by {group.num_workers} workers: set num_workers lower")
    if settings.activation_checkpointing:
        cast(PreTrainedModel, model).activation_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_layers(model)
    placement = place(model, settings.sharding, group)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(parameters, settings)
    state = state or TrainingState(0, 0, 0, {}, {}, *_zeros(objective))
    if state.weights:
        placement.load(state.weights, optimizer, state.optimizer)
    device = next(model.parameters()).device
    costs_N = costs(train)
    num_steps = settings.num_epochs * math.ceil(len(train) / settings.batch_size)
    while state.epoch < settings.num_epochs:
        plan = plan_epoch(costs_N, batch_size=settings.batch_size, seed=settings.seed, epoch=state.epoch)
        model.train()
        mine = (share(batch_N, rank=group.rank, num_workers=group.num_workers) for batch_N in plan[state.batch :])
        for batch in in_advance(train, mine, pinned=device.type == "cuda"):
            _set_learning_rate(optimizer, _learning_rate(settings, state.step, num_steps))
            terms = _train_step(model, batch.to(device), objective, optimizer, settings, state, placement)
            if terms is None:
                raise _non_finite(train, plan[state.batch], state)
            state.sums_L = [a + b for a, b in zip(state.sums_L, terms.sums_L.tolist(), strict=True)]
            state.counts_L = [a + b for a, b in zip(state.counts_L, terms.counts_L.tolist(), strict=True)]
            state.step, state.batch = state.step + 1, state.batch + 1
            if state.step % settings.checkpoint_every_steps == 0 and state.batch < len(plan):
                on_checkpoint(_snapshot(state, placement, optimizer))
        state.history.append(_row(state, "train", objective, state.sums_L, state.counts_L))
        if validation is not None:
            _validate(model, validation, settings, state, placement)
        state.epoch, state.batch, (state.sums_L, state.counts_L) = state.epoch + 1, 0, _zeros(objective)
        state.finished = state.epoch == settings.num_epochs
        on_checkpoint(_snapshot(state, placement, optimizer))
        on_epoch(state)
    return state


def predict(
    model: nn.Module,
    source: ClipSource,
    *,
    batch_size: int = 64,
    drop: Collection[Modality] = (),
    task: Task | None = None,
) -> NDArray[np.float32]:
    """(N, C) answers in the order of `source`, without the modalities in `drop`; see `answers.to_answers`.

    A clip that has none of the remaining modalities gets what the model says to silence in the dark.
    """
    return _predict(model, source, np.arange(len(source)), batch_size=batch_size, drop=drop, task=task)


def _train_step(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    settings: FitSettings,
    state: TrainingState,
    placement: Placement,
) -> Terms | None:
    """One update of the weights with this worker's share of a global batch; the terms over the whole of it.

    None, and no update on any worker, when the loss or its slope is no number.
    """
    # Keyed by the step and not by what was drawn before: a resumed run needs no generator's state.
    torch.manual_seed(_mix(settings.seed, state.step, placement.group.rank))
    # Weights, sums and what is small stay float32; a loss needs no scaling, for bfloat16 reaches as far.
    with torch.autocast(batch.index_B.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        terms = objective(model, batch, Moment(settings.seed, state.epoch))
    totals_2L = torch.stack([terms.sums_L.detach(), terms.counts_L]).double()
    placement.group.add(totals_2L)
    if not bool(totals_2L.isfinite().all()):
        return None
    _, slopes_L = loss_and_slopes(objective, Terms(totals_2L[0], totals_2L[1]))
    loss = (terms.sums_L * slopes_L.to(terms.sums_L.dtype)).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    parameters = [parameter for block in optimizer.param_groups for parameter in block["params"]]
    if not bool(placement.clip_gradients(parameters, settings.clip_norm).isfinite()):
        return None
    optimizer.step()
    return Terms(totals_2L[0], totals_2L[1])


def _validate(
    model: nn.Module,
    validation: Validation,
    settings: FitSettings,
    state: TrainingState,
    placement: Placement,
) -> None:
    """Score the epoch on the validation clips and keep its weights if they are the best so far."""
    clips, judge = validation.clips, validation.judge
    labels_NC = np.asarray(clips.labels_NC, dtype=np.float32)
    mine = np.arange(placement.group.rank, len(clips), placement.group.num_workers)
    answers_NC = torch.zeros(labels_NC.shape, dtype=torch.float32)
    with placement.gathered():
        mine_NC = _predict(model, clips, mine, batch_size=settings.batch_size, task=judge.task)
    answers_NC[mine] = torch.from_numpy(mine_NC)
    answers_NC = answers_NC.to(next(model.parameters()).device)
    placement.group.add(answers_NC)
    found_NC = answers_NC.cpu().numpy().astype(np.float64)
    total, count = judge.loss(labels_NC, found_NC)
    loss, score = total / max(count, 1.0), judge.score(labels_NC, found_NC)
    state.history.append(HistoryRow(state.step, state.epoch, "validation", loss, (loss,), score))
    if score > state.best_score:
        state.best_score, state.best_epoch = score, state.epoch
        state.best_weights = {name: value.detach().clone() for name, value in placement.weights().items()}


def _predict(
    model: nn.Module,
    source: ClipSource,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    drop: Collection[Modality] = (),
    task: Task | None = None,
) -> NDArray[np.float32]:
    """(N, C) answers about some clips of a source, in the order of `indices`."""
    device = next(model.parameters()).device
    order = np.argsort(costs(source)[indices], kind="stable") if len(indices) else indices
    rows: list[NDArray[np.float32]] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = collate(source, indices[order[start : start + batch_size]]).to(device).without(drop)
            rows.append(to_answers(model(**batch.inputs()).logits_BC, task).cpu().numpy())
    model.train(was_training)
    if not rows:
        return np.zeros((0, np.asarray(source.labels_NC).shape[1]), dtype=np.float32)
    answers_NC = np.concatenate(rows)
    result_NC = np.empty_like(answers_NC)
    result_NC[order] = answers_NC
    return result_NC


def _snapshot(state: TrainingState, placement: Placement, optimizer: torch.optim.Optimizer) -> TrainingState:
    state.weights, state.optimizer = placement.weights(), placement.optimizer_state(optimizer)
    return state


def _optimizer(parameters: list[nn.Parameter], settings: FitSettings) -> torch.optim.Optimizer:
    # Norms, biases and single learned vectors are not shrunk: their size carries meaning.
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if settings.optimizer == "bert_adam":
        return BertAdam(groups, lr=settings.learning_rate)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def _learning_rate(settings: FitSettings, step: int, num_steps: int) -> float:
    """Linear warm-up, then down to zero in half a cosine or in a line: a function of the step alone."""
    if settings.schedule == "linear":
        return settings.learning_rate * linear_schedule(step, num_steps, warmup_share=settings.warmup_share)
    num_warmup = max(1, round(settings.warmup_share * num_steps))
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for block in optimizer.param_groups:
        block["lr"] = learning_rate


def _row(
    state: TrainingState, split: str, objective: Objective, sums_L: list[float], counts_L: list[float]
) -> HistoryRow:
    terms = tuple(total / max(count, 1.0) for total, count in zip(sums_L, counts_L, strict=True))
    if isinstance(objective, LossOfMeans):
        loss = float(objective.loss(torch.tensor(terms, dtype=torch.float64)))
    else:
        loss = sum(weight * term for weight, term in zip(objective.weights, terms, strict=True))
    return HistoryRow(state.step, state.epoch, split, loss, terms)


def _zeros(objective: Objective) -> tuple[list[float], list[float]]:
    return [0.0] * len(objective.names), [0.0] * len(objective.names)


def _mix(seed: int, step: int, rank: int) -> int:
    """One 63-bit seed from three numbers, without structure between neighbours."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _non_finite(train: ClipSource, batch_N: NDArray[np.int64], state: TrainingState) -> NonFiniteLoss:
    """The error for a batch whose loss is no number, with the clips to look at: the broken ones if any is."""
    clips = [int(index) for index in batch_N]
    broken = [index for index in clips if not _is_finite(train, index)]
    names = [train.clip_ids[index] for index in (broken or clips)]
    shown = ", ".join(names[:_LARGEST_NAMED_CLIPS]) + (", ..." if len(names) > _LARGEST_NAMED_CLIPS else "")
    what = "features that are no numbers in clips" if broken else "lower learning_rate; clips of the batch:"
    return NonFiniteLoss(f"the loss is not finite in step {state.step + 1} (epoch {state.epoch + 1}): {what} {shown}")


def _is_finite(train: ClipSource, index: int) -> bool:
    clip = train.features(index)
    return bool(np.isfinite(clip.audio_TF).all() and np.isfinite(clip.video_TF).all())
