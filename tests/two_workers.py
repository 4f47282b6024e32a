"""What two worker processes without Ray train: run by `tests.test_sharding`, each outcome left in a file."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from components.answers import Judge
from components.batches import ClipSource
from components.checkpoints import pack, unpack
from components.features import ClipFeatures
from components.masking import AugmentSettings, MaskSettings
from components.masking_joint import JointMaskSettings, fill_bank
from components.objectives import Classification, MatchedModelling, Objective
from components.objectives_audiovisual import JointMaskedModelling
from components.sharding import Sharding
from components.task import Task
from components.training import FitSettings, NonFiniteLoss, TrainingState, Validation, fit
from tests import toy_pairs
from tests.toy_clips import BrokenClips, ToyClips, toy_model

SETTINGS: Final = FitSettings(num_epochs=2, batch_size=8, learning_rate=3e-3, seed=1, checkpoint_every_steps=2)
SHARDINGS: Final[tuple[Sharding, ...]] = ("none", "full")
STOP_AT: Final = 2


@dataclass(frozen=True)
class Case:
    """A training small enough to be done twice, and how far apart the ends may be."""

    new: Callable[[], tuple[PreTrainedModel, ClipSource, Objective]]
    settings: FitSettings = SETTINGS
    validation: Validation | None = None
    tolerance: float = 1e-6


class SomeSilent(ToyClips):
    """Clips whose modalities are missing by turns: a worker meets batches that have none of one."""

    def features(self, index: int) -> ClipFeatures:
        clip = super().features(index)
        if index % 2:
            return ClipFeatures(clip.audio_TF, clip.video_TF[:0], clip.word_ids_T)
        return ClipFeatures(clip.audio_TF, clip.video_TF, clip.word_ids_T[:0])


def matched() -> tuple[PreTrainedModel, ClipSource, Objective]:
    masks = MaskSettings(0.3, 2, 0.3, apart=True)
    return toy_model(num_layers=2), ToyClips(), MatchedModelling(masks, (1.0, 1.0, 1.0, 1.0))


def labelled() -> tuple[PreTrainedModel, ClipSource, Objective]:
    return toy_model(dropout=0.0), ToyClips(), Classification(AugmentSettings(0.0, 0.0), 0.1)


def broken() -> tuple[PreTrainedModel, ClipSource, Objective]:
    return toy_model(), BrokenClips(), Classification()


def paired() -> tuple[PreTrainedModel, ClipSource, Objective]:
    clips = toy_pairs.paired_clips(24)
    torch.manual_seed(0)
    model = toy_pairs.audiovisual_model(num_layers=2, position_on_zero_frames=True)
    return model, clips, JointMaskedModelling(fill_bank(clips, seed=0), JointMaskSettings(0.1, 3))


def spoken() -> tuple[PreTrainedModel, ClipSource, Objective]:
    torch.manual_seed(0)
    model = toy_pairs.speech_text_model(freeze="front_end")
    return model, toy_pairs.waves_and_words(24), Classification(AugmentSettings(0.2, 0.2), 0.1)


CASES: Final = {
    # Clipping would hide a mean over the workers in the place of a sum.
    "matched": Case(matched, replace(SETTINGS, clip_norm=1e6)),
    "checkpointed": Case(matched, replace(SETTINGS, num_epochs=1, activation_checkpointing=True)),
    # Two steps: later each value that was rounded to the other side has changed all others.
    "bfloat16": Case(matched, replace(SETTINGS, num_epochs=1, batch_size=24, precision="bfloat16"), tolerance=1e-4),
    "bert_adam": Case(matched, replace(SETTINGS, optimizer="bert_adam", schedule="linear")),
    # An odd number of them: the workers judge different numbers of batches.
    "validated": Case(
        labelled,
        replace(SETTINGS, batch_size=6),
        Validation(SomeSilent(13, seed=5), Judge(Task("classes", ("calm", "loud", "lively")))),
    ),
    "paired": Case(paired),
    "spoken": Case(spoken, replace(SETTINGS, num_epochs=1)),
}


class Worker:
    """This process among the others, as `sharding.Group`."""

    def __init__(self) -> None:
        self.rank, self.num_workers = distributed.get_rank(), distributed.get_world_size()

    def add(self, tensor: Tensor) -> None:
        distributed.all_reduce(tensor)


def run(case: Case, sharding: Sharding, folder: Path, state: TrainingState | None = None) -> None:
    """Train, and leave the state in the middle, the last one, and this worker's share of weights and gradients."""
    group, (model, clips, objective) = Worker(), case.new()

    def keep(state: TrainingState) -> None:
        if state.step == STOP_AT and group.rank == 0:
            folder.with_suffix(".middle").write_bytes(pack(copy.deepcopy(state)))

    settings = replace(case.settings, sharding=sharding)
    last = fit(
        model, clips, objective, settings, validation=case.validation, group=group, state=state, on_checkpoint=keep
    )
    if group.rank == 0:
        folder.with_suffix(".last").write_bytes(pack(last))
    elif sharding == "full":
        assert not last.weights
        assert not last.best_weights
    weights = [each for each in model.parameters() if each.requires_grad]
    held = [sum(_own(each).numel() for each in weights), sum(_own(each.grad).numel() for each in weights)]
    folder.with_suffix(f".held{group.rank}").write_text(" ".join(map(str, held)))


def stop_together(folder: Path) -> None:
    """A loss that is no number ends both workers, before the weights change."""
    model, clips, objective = broken()
    before = [each.clone() for each in model.parameters()]
    try:
        fit(model, clips, objective, replace(SETTINGS, sharding="full"), group=Worker())
    except NonFiniteLoss as error:
        after = [each.full_tensor() if isinstance(each, DTensor) else each for each in model.parameters()]
        finite = all(bool(each.isfinite().all()) for each in after) and len(after) == len(before)
        folder.joinpath(f"stopped{distributed.get_rank()}").write_text(f"{finite} {error}")


def _own(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for name, case in CASES.items():
        for sharding in SHARDINGS:
            run(case, sharding, folder / f"{name}-{sharding}")
    alone = unpack(folder.joinpath("alone.middle").read_bytes())
    for sharding in SHARDINGS:
        run(CASES["validated"], sharding, folder / f"resumed-{sharding}", copy.deepcopy(alone))
    stop_together(folder)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
