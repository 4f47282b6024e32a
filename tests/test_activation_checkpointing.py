"""Layers that are computed a second time in the backward pass: the same bits, and less that is kept for it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from components.batches import ClipSource, collate
from components.masking import AugmentSettings, MaskSettings, Moment
from components.masking_joint import JointMaskSettings, fill_bank
from components.objectives import Classification, MatchedModelling, Objective, Terms
from components.objectives_audiovisual import JointMaskedModelling
from components.training import FitSettings, fit
from tests import toy_pairs
from tests.toy_clips import ToyClips, toy_model

SHORT: Final = FitSettings(num_epochs=1, batch_size=8, learning_rate=3e-3, seed=1)


class _Bytes(TorchDispatchMode):
    """Remembers the memory of all that is computed, to tell how much of it is still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Collection[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self._made[StorageWeakRef(storage)] = storage.nbytes()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return made

    def kept(self) -> int:
        """Bytes of what is still there."""
        there = [size for storage, size in self._made.items() if not storage.expired()]  # type: ignore[no-untyped-call]  # as above
        return sum(there)


def _trimodal() -> tuple[PreTrainedModel, ClipSource, Objective]:
    masks = MaskSettings(0.3, 2, 0.3, apart=True)
    return toy_model(dropout=0.3, num_layers=3), ToyClips(16), MatchedModelling(masks, (1.0, 1.0, 1.0, 1.0))


def _audiovisual() -> tuple[PreTrainedModel, ClipSource, Objective]:
    clips = toy_pairs.paired_clips(16)
    model = toy_pairs.audiovisual_model(num_layers=3, cross_attention_dropout=0.1)
    return model, clips, JointMaskedModelling(fill_bank(clips, seed=0), JointMaskSettings(0.1, 3))


def _speech_text() -> tuple[PreTrainedModel, ClipSource, Objective]:
    speech = {**toy_pairs.SMALL_SPEECH, "layerdrop": 0.2}
    model = toy_pairs.speech_text_model(audio_architecture=speech, dropout=0.3)
    return model, toy_pairs.waves_and_words(16), Classification(AugmentSettings(0.2, 0.2), 0.1)


SYSTEMS: Final = pytest.mark.parametrize("new", [_trimodal, _audiovisual, _speech_text], ids=lambda new: new.__name__)


def _terms(model: PreTrainedModel, clips: ClipSource, objective: Objective) -> Terms:
    model.train()
    torch.manual_seed(3)
    return objective(model, collate(clips, np.arange(8)), Moment(0, 0))


def _gradients(new: Callable[[], tuple[PreTrainedModel, ClipSource, Objective]], *, again: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model, clips, objective = new()
    if again:
        model.activation_checkpointing_enable({"use_reentrant": False})
    _terms(model, clips, objective).sums_L.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@SYSTEMS
def test_gradients_are_the_same_to_the_bit(
    new: Callable[[], tuple[PreTrainedModel, ClipSource, Objective]],
) -> None:
    kept, again = _gradients(new, again=False), _gradients(new, again=True)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


@SYSTEMS
def test_less_is_kept_for_the_backward_pass(
    new: Callable[[], tuple[PreTrainedModel, ClipSource, Objective]],
) -> None:
    kept = []
    for again in (False, True):
        model, clips, objective = new()
        if again:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with _Bytes() as memory:
            terms = _terms(model, clips, objective)
        kept.append(memory.kept())
        del terms
    assert kept[1] < 0.6 * kept[0], kept


@SYSTEMS
def test_a_training_ends_in_the_same_weights(new: Callable[[], tuple[PreTrainedModel, ClipSource, Objective]]) -> None:
    ends = []
    for again in (False, True):
        torch.manual_seed(0)
        model, clips, objective = new()
        ends.append(fit(model, clips, objective, replace(SHORT, activation_checkpointing=again)))
        layers = [each for each in model.modules() if hasattr(each, "gradient_checkpointing")]
        assert {each.gradient_checkpointing for each in layers} == {again}
    assert all(torch.equal(ends[1].weights[name], weight) for name, weight in ends[0].weights.items())
    assert ends[0].history == ends[1].history
