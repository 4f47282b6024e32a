"""What the training benchmark compares with: the same model, and clips and operations that are what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from components import models
from components.batches import collate
from tests.benchmarks import train
from tests.benchmarks.train_sizes import Sizes, clips_of, model_of
from tests.benchmarks.usual import UsualTraining, usual

TRIMODAL = Sizes(
    "trimodal",
    {"audio_features": 7, "video_features": 5, "vocabulary_size": 300, "width": 20, "num_heads": 5, "num_layers": 2},
    (20, 20, 6),
    batch_size=4,
    num_batches=2,
)
AUDIOVISUAL = Sizes(
    "audiovisual",
    {"audio_features": 7, "video_features": 5, "width": 20, "num_heads": 2, "num_layers": 2},
    (20, 20, 0),
    batch_size=4,
    num_batches=2,
)


def _slopes(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the slopes of all weights that both ways of writing have under one name."""
    logits_BC = model(**inputs).logits_BC
    logits_BC.square().sum().backward()
    named = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    shared = [value.flatten() for name, value in sorted(named.items()) if ".attention." not in name]
    return logits_BC.detach(), torch.cat(shared)


@pytest.mark.parametrize("sizes", [TRIMODAL, AUDIOVISUAL], ids=["trimodal", "audiovisual"])
def test_the_usual_way_computes_the_same(sizes: Sizes) -> None:
    clips = clips_of(sizes, "real")
    torch.manual_seed(0)
    ours: nn.Module = model_of(sizes)
    ours.eval()
    inputs = collate(clips, range(len(clips))).inputs()
    logits_BC, slopes = _slopes(ours, inputs)
    ours.zero_grad()
    other_BC, other_slopes = _slopes(usual(ours, dropout=0.1).eval(), inputs)
    torch.testing.assert_close(other_BC, logits_BC, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_slopes, slopes, rtol=1e-4, atol=1e-5 * float(slopes.abs().max()))


def test_the_usual_way_learns() -> None:
    clips = clips_of(TRIMODAL, "real")
    torch.manual_seed(0)
    training = UsualTraining(
        usual(model_of(TRIMODAL), dropout=0.1), clips, batch_size=TRIMODAL.batch_size, learning_rate=1e-2
    )
    first = training.epoch()
    for _ in range(15):
        last = training.epoch()
    assert last < first


def test_needed_operations_are_those_of_the_layers_and_half_of_the_causal_attention() -> None:
    """Counted by hand: three for each weight and step (forward, and backward twice), two to each multiplication."""
    clips = clips_of(AUDIOVISUAL, "full")
    model = models.build("audiovisual", num_classes=0, **AUDIOVISUAL.options)
    steps, width, layers = 20, 20, 2
    tokens = steps * AUDIOVISUAL.batch_size
    of_products = 2 * 3 * tokens * layers * (2 * 12 * width**2 + 12 * (2 * width) ** 2)
    of_attention = 3 * 4 * tokens * steps * layers * (2 * width + 2 * width) / 2
    # Slopes of the inputs are not needed.
    of_projections = 2 * 2 * tokens * (7 + 5) * width
    found = train.needed_flops(model, clips, AUDIOVISUAL)
    assert found == pytest.approx(of_products + of_attention + of_projections, rel=0.02)


def test_lengths_are_full_or_spread() -> None:
    many = replace(TRIMODAL, num_batches=200)
    full, real = (clips_of(many, lengths).num_steps_N3 for lengths in ("full", "real"))
    assert (full == (20, 20, 6)).all()
    assert real[:, 0].mean() == pytest.approx(20 * 7.3 / 25, rel=0.1)
    assert real.max() <= 20
    assert real.min() >= 1
