"""The checklist of paper C (Tran and Soleymani 2022) for model, masking, losses and optimiser, box by box."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import models
from components.batches import Batch, collate
from components.masking import AugmentSettings, Moment
from components.masking_joint import JointMaskSettings, draw_joint_spans, fill_bank, mask_jointly
from components.models.audiovisual import AudiovisualModel, AudiovisualOutput
from components.objectives import Classification
from components.objectives_audiovisual import JointMaskedModelling
from components.objectives_labels import Concordance, concordance_moments, concordance_of_moments, loss_and_slopes
from components.optimizers import BertAdam, linear_schedule
from tests.toy_pairs import AUDIO_FEATURES, VIDEO_FEATURES, paired_clips

SMALL: dict[str, Any] = {
    "audio_features": AUDIO_FEATURES,
    "video_features": VIDEO_FEATURES,
    "width": 8,
    "num_heads": 2,
    "num_layers": 2,
}
SILENT: dict[str, Any] = {
    "embedding_dropout": 0.0,
    "attention_dropout": 0.0,
    "relu_dropout": 0.0,
    "residual_dropout": 0.0,
}


def _model(*, seed: int = 0, **sizes: Any) -> AudiovisualModel:
    torch.manual_seed(seed)
    model = models.build("audiovisual", **{**SMALL, **sizes})
    assert isinstance(model, AudiovisualModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.train(False)
    return model


def _run(model: AudiovisualModel, batch: Batch) -> AudiovisualOutput:
    with torch.inference_mode():
        output: AudiovisualOutput = model(**batch.inputs())
    return output


def _batch(num_clips: int = 6) -> Batch:
    return collate(paired_clips(num_clips), range(num_clips))


def _concordance(predicted_B: Tensor, actual_B: Tensor) -> Tensor:
    sums, counts = concordance_moments(predicted_B[:, None], actual_B[:, None])
    return concordance_of_moments((sums / counts).reshape(1, 5))[0]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({}, 18_407_329), ({"width": 384, "num_heads": 12, "num_layers": 8}, 89_250_961)],
    ids=["base", "large"],
)
def test_the_model_has_the_parameters_of_the_table(sizes: dict[str, int], expected: int) -> None:
    with torch.device("meta"):
        model = models.build("audiovisual", **sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    width, layers = int(model.config.width), int(model.config.num_layers)

    def stack(d: int) -> int:
        """Attention of 4 d^2 + 4 d, a feed-forward part of 8 d^2 + 5 d, two norms a layer and one at the end."""
        return layers * (12 * d * d + 13 * d) + 2 * d

    inner = 2 * width
    projections = (512 + 17) * width
    heads = 6 * (inner * inner + inner) + (inner + 1) * (512 + 17)
    assert projections + 2 * stack(width) + stack(inner) + heads == expected


def test_the_model_is_the_one_of_the_table() -> None:
    config = models.build("audiovisual", **SMALL).config
    assert (config.embedding_dropout, config.relu_dropout, config.residual_dropout) == (0.25, 0.1, 0.1)
    assert (config.attention_dropout, config.cross_attention_dropout) == (0.1, 0.0)
    model = _model()
    for projection in (model.audio_projection, model.video_projection):
        assert projection.kernel_size == (1,)
        assert projection.bias is None
    stacks = (model.video_from_audio, model.audio_from_video, model.joint)
    assert [len(stack.layers) for stack in stacks] == [2, 2, 2]
    assert [stack.settings.width for stack in stacks] == [8, 8, 16]
    assert [stack.settings.attention_dropout for stack in stacks] == [0.0, 0.0, 0.1]
    output = _run(model, _batch())
    assert output.joint_BTE.shape[2] == 16


def test_causality_and_places_of_zero_frames_default_to_the_authors_and_can_be_switched() -> None:
    config = models.build("audiovisual", **SMALL).config
    assert config.causal is True
    assert config.position_on_zero_frames is False
    batch = _batch()
    hidden_BT = torch.zeros(batch.audio_BTF.shape[:2], dtype=torch.bool)
    hidden_BT[:, 1] = True
    found = []
    for switched in ({}, {"causal": False}, {"position_on_zero_frames": True}):
        with torch.inference_mode():
            found.append(_model(**switched)(**batch.inputs(), audio_masked_BT=hidden_BT, video_masked_BT=hidden_BT))
    for other in found[1:]:
        assert not torch.allclose(found[0].joint_BTE, other.joint_BTE, atol=1e-4)
    # Without masks every frame has its place, and only padding has not, which nobody looks at.
    plain, placed = _run(_model(), batch), _run(_model(position_on_zero_frames=True), batch)
    torch.testing.assert_close(plain.pooled_BD, placed.pooled_BD)


@pytest.mark.parametrize("causal", [True, False])
def test_the_next_step_leaks_only_when_not_causal(causal: bool) -> None:
    model, batch = _model(causal=causal), _batch()
    step = 1
    for name in ("audio_BTF", "video_BTF"):
        changed_BTF = getattr(batch, name).clone()
        changed_BTF[:, step + 1] += 3
        before, after = _run(model, batch), _run(model, replace(batch, **{name: changed_BTF}))
        same = torch.equal(before.joint_BTE[:, : step + 1], after.joint_BTE[:, : step + 1])
        assert same == causal
        assert not torch.allclose(before.joint_BTE[:, step + 1], after.joint_BTE[:, step + 1], atol=1e-4)


def test_masks_start_at_a_twentieth_of_the_steps_and_span_three() -> None:
    settings = JointMaskSettings()
    assert (settings.start_share, settings.span) == (0.05, 3)
    for num_steps in (1, 7, 20, 21, 100, 140):
        num_starts = -(-num_steps // 20)
        for seed in range(30):
            found_T = draw_joint_spans(np.random.default_rng(seed), num_steps, settings)
            starts = np.random.default_rng(seed).integers(0, num_steps, num_starts)
            expected = {start + offset for start in starts for offset in range(3) if start + offset < num_steps}
            assert set(np.flatnonzero(found_T)) == expected
    share = np.mean([draw_joint_spans(np.random.default_rng(seed), 100, settings).mean() for seed in range(2000)])
    assert 0.12 < share < 0.15


def test_masks_are_equal_across_modalities_and_redrawn_each_epoch() -> None:
    clips = paired_clips(40)
    batch, bank = collate(clips, range(40)), fill_bank(clips)
    masked = mask_jointly(JointMaskSettings(), batch, Moment(0, 0), bank)
    assert masked.audio_asked_BT.any(dim=1).all()
    assert torch.equal(masked.audio_asked_BT, masked.video_asked_BT)
    assert torch.equal(masked.audio_hidden_BT, masked.video_hidden_BT)
    again = mask_jointly(JointMaskSettings(), batch, Moment(0, 0), bank)
    later = mask_jointly(JointMaskSettings(), batch, Moment(0, 1), bank)
    assert torch.equal(masked.audio_asked_BT, again.audio_asked_BT)
    assert not torch.equal(masked.audio_asked_BT, later.audio_asked_BT)


def test_masked_frames_are_zero_replaced_or_kept_in_the_shares_of_the_paper() -> None:
    clips = paired_clips(600)
    batch, bank = collate(clips, range(600)), fill_bank(clips)
    masked = mask_jointly(JointMaskSettings(start_share=0.3), batch, Moment(0, 0), bank)
    asked_BT, hidden_BT = masked.audio_asked_BT, masked.audio_hidden_BT
    changed_BT = (masked.seen.audio_BTF != batch.audio_BTF).any(dim=2)
    assert not (changed_BT & ~asked_BT).any()
    assert torch.equal(changed_BT, (masked.seen.video_BTF != batch.video_BTF).any(dim=2))
    num_asked = float(asked_BT.sum())
    assert 0.77 < float(hidden_BT.sum()) / num_asked < 0.83
    assert 0.08 < float(changed_BT.sum()) / num_asked < 0.12
    # What stands in is a frame of another clip, the sound and the face of one moment.
    of_bank = {
        (audio_F.tobytes(), video_F.tobytes()): index
        for audio_F, video_F, index in zip(bank.audio_NF, bank.video_NF, bank.index_N, strict=True)
    }
    for row, step in changed_BT.nonzero().tolist()[:200]:
        audio_F, video_F = masked.seen.audio_BTF[row, step].numpy(), masked.seen.video_BTF[row, step].numpy()
        assert of_bank[(audio_F.tobytes(), video_F.tobytes())] != row


def test_the_loss_is_the_sum_of_both_mean_errors_over_the_masked_steps() -> None:
    clips = paired_clips(12)
    batch, model = collate(clips, range(12)), _model()
    objective = JointMaskedModelling(fill_bank(clips))
    terms = objective(model, batch, Moment(0, 0))
    masked = mask_jointly(objective.masks, batch, Moment(0, 0), objective.bank)
    with torch.inference_mode():
        output = model(
            **masked.seen.inputs(), audio_masked_BT=masked.audio_hidden_BT, video_masked_BT=masked.video_hidden_BT
        )
        rebuilt = model.reconstruct(output, num_audio=batch.audio_BTF.shape[1], num_video=batch.video_BTF.shape[1])
    asked_BT = masked.audio_asked_BT
    expected = sum(
        float((found[asked_BT] - actual[asked_BT]).abs().mean())
        for found, actual in ((rebuilt.audio_BTF, batch.audio_BTF), (rebuilt.video_BTF, batch.video_BTF))
    )
    assert objective.weights == (1.0, 1.0)
    assert float((terms.sums_L / terms.counts_L).detach().sum()) == pytest.approx(expected, rel=1e-5)


def test_the_optimiser_and_the_schedule_are_those_of_the_paper() -> None:
    settings = BertAdam([nn.Parameter(torch.zeros(1))]).defaults
    assert settings == {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "tensor_norm": 1.0}
    shares = [linear_schedule(step, 200) for step in range(200)]
    assert shares[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert shares[20:] == pytest.approx([(200 - step) / 180 for step in range(20, 200)])
    assert linear_schedule(200, 200) == 0


def test_the_head_reads_the_last_valid_step() -> None:
    model, batch = _model(num_classes=6), _batch()
    assert isinstance(model.head, nn.Sequential)
    assert [type(part) for part in model.head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(value.shape) for value in model.head.parameters()] == [(16, 16), (16,), (6, 16), (6,)]
    output = _run(model, batch)
    for row, length in enumerate(batch.audio_lengths_B.tolist()):
        last_D = output.joint_BTE[row, length - 1]
        assert torch.equal(output.pooled_BD[row], last_D)
        with torch.inference_mode():
            torch.testing.assert_close(output.logits_BC[row], model.head(last_D))


def test_six_classes_are_learned_by_cross_entropy() -> None:
    batch = _batch()
    labels_BC = torch.eye(6)
    model = _model(num_classes=6)
    terms = Classification(AugmentSettings())(model, replace(batch, labels_BC=labels_BC), Moment(0, 0))
    logits_BC = _run(model, batch).logits_BC
    expected = nn.functional.cross_entropy(logits_BC, torch.arange(6), reduction="sum")
    torch.testing.assert_close(terms.sums_L[0].detach(), expected, rtol=1e-4, atol=1e-5)


def test_three_values_are_learned_by_the_sum_of_one_minus_concordance() -> None:
    batch = _batch()
    labels_BC = 1 + 4 * torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    model = _model(num_classes=3)
    objective = Concordance(("arousal", "valence", "dominance"), (1.0, 5.0))
    terms = objective(model, replace(batch, labels_BC=labels_BC), Moment(0, 0))
    loss, _ = loss_and_slopes(objective, terms)
    found_BC, actual_BC = _run(model, batch).logits_BC.double().numpy(), (labels_BC.double().numpy() - 1) / 4
    expected = 0.0
    for found_B, actual_B in zip(found_BC.T, actual_BC.T, strict=True):
        covariance = ((found_B - found_B.mean()) * (actual_B - actual_B.mean())).mean()
        spread = found_B.var() + actual_B.var() + (found_B.mean() - actual_B.mean()) ** 2
        expected += 1 - 2 * covariance / spread
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_concordance_with_itself_is_one_less_when_shifted_and_zero_for_a_constant() -> None:
    values_B = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert float(_concordance(values_B, values_B)) == pytest.approx(1, abs=1e-6)
    assert 0 < float(_concordance(values_B, values_B + 0.3)) < 0.9
    assert float(_concordance(torch.full_like(values_B, 0.5), values_B)) == pytest.approx(0, abs=1e-9)
    assert float(_concordance(torch.full_like(values_B, 0.5), torch.full_like(values_B, 0.5))) == 0


def test_pretraining_gets_better_with_this_optimiser_and_schedule() -> None:
    clips = paired_clips(32)
    batch, model = collate(clips, range(32)), _model(**SILENT, width=16)
    objective = JointMaskedModelling(fill_bank(clips), JointMaskSettings(start_share=0.15))
    optimizer = BertAdam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 3e-3 * linear_schedule(step, 60)
        terms = objective(model, batch, Moment(0, step))
        loss = (terms.sums_L / terms.counts_L).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        losses.append(float(loss.detach()))
    assert math.fsum(losses[-5:]) < 0.7 * math.fsum(losses[:5])
