"""The trimodal system: padding, missing modalities, windows, and the form on disk."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from components import models
from components.batches import Batch, collate, in_order
from components.clip import MODALITIES, Modality
from components.models.layers import dynamics, statistics_pooling
from components.models.summary import MaskedFrames, Summarised, SummaryHead
from components.models.trimodal import TrimodalModel, TrimodalOutput
from tests.toy_clips import NUM_AUDIO_FEATURES, NUM_CLASSES, VOCABULARY_SIZE, ToyClips, toy_model

SUBSETS = [kept for count in (1, 2, 3) for kept in itertools.combinations(MODALITIES, count)]


def _linear_part(model: TrimodalModel) -> SummaryHead:
    assert model.summary_head is not None
    return model.summary_head


@pytest.fixture(scope="module")
def model() -> TrimodalModel:
    found = toy_model(num_layers=2)
    assert isinstance(found, TrimodalModel)
    # An untrained network hardly looks at anything: larger weights make every path count.
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1.5)
        # A new one says nothing at first.
        _linear_part(found).weight_IC.normal_(std=0.1)
    found.train(False)
    return found


@pytest.fixture(scope="module")
def batch() -> Batch:
    return collate(ToyClips(6), [0, 1, 2, 3, 4, 5])


def _run(model: TrimodalModel, batch: Batch) -> TrimodalOutput:
    with torch.inference_mode():
        output: TrimodalOutput = model(**batch.inputs())
    return output


def _scribbled(frames_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """The frames with rubbish beyond each clip's length."""
    beyond_BT = torch.arange(frames_BTF.shape[1])[None, :] >= lengths_B[:, None]
    return torch.where(beyond_BT[:, :, None], torch.full_like(frames_BTF, 1e3), frames_BTF)


@pytest.mark.parametrize("kept", SUBSETS, ids="+".join)
def test_any_subset_gives_the_same_shapes(model: TrimodalModel, batch: Batch, kept: tuple[Modality, ...]) -> None:
    whole = _run(model, batch)
    part = _run(model, batch.without(set(MODALITIES) - set(kept)))
    assert part.logits_BC.shape == whole.logits_BC.shape
    assert part.pooled_BD.shape == whole.pooled_BD.shape
    assert part.logits_BC.isfinite().all()


@pytest.mark.parametrize("kept", SUBSETS, ids="+".join)
def test_padding_changes_nothing(model: TrimodalModel, batch: Batch, kept: tuple[Modality, ...]) -> None:
    batch = batch.without(set(MODALITIES) - set(kept))
    longer = replace(
        batch,
        audio_BTF=_scribbled(torch.nn.functional.pad(batch.audio_BTF, (0, 0, 0, 9)), batch.audio_lengths_B),
        video_BTF=_scribbled(torch.nn.functional.pad(batch.video_BTF, (0, 0, 0, 4)), batch.video_lengths_B),
        word_ids_BT=torch.nn.functional.pad(batch.word_ids_BT, (0, 5), value=7),
    )
    torch.testing.assert_close(_run(model, longer).logits_BC, _run(model, batch).logits_BC, rtol=1e-4, atol=1e-5)


def test_a_clip_alone_is_what_it_is_in_a_batch(model: TrimodalModel, batch: Batch) -> None:
    whole = _run(model, batch).logits_BC
    for row in range(6):
        alone = _run(model, collate(ToyClips(6), [row])).logits_BC[0]
        torch.testing.assert_close(alone, whole[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_missing_modality_is_not_looked_at(model: TrimodalModel, batch: Batch, modality: Modality) -> None:
    changed = replace(
        batch, audio_BTF=batch.audio_BTF + 5, video_BTF=batch.video_BTF - 5, word_ids_BT=(batch.word_ids_BT + 1) % 20
    )
    others = [name for name in MODALITIES if name != modality]
    fields = {"audio": "audio_BTF", "video": "video_BTF", "text": "word_ids_BT"}
    changed = replace(changed, **{fields[name]: getattr(batch, fields[name]) for name in others})
    same, different = _run(model, batch.without([modality])), _run(model, changed.without([modality]))
    assert torch.equal(same.logits_BC, different.logits_BC)
    assert not torch.allclose(_run(model, batch).logits_BC, _run(model, changed).logits_BC, atol=1e-4)


def test_without_audio_the_time_base_has_the_length_of_the_video(model: TrimodalModel, batch: Batch) -> None:
    steps_B = _run(model, batch.without(["audio"])).step_mask_BA.sum(dim=1)
    assert steps_B.tolist() == (2 * batch.video_lengths_B).tolist()


@pytest.mark.parametrize("kept", SUBSETS)
def test_less_a_modality_it_says_what_it_says_to_a_clip_without(
    model: TrimodalModel, batch: Batch, kept: tuple[Modality, ...]
) -> None:
    """For all that leaves the clip its time base."""
    here = batch.without([modality for modality in MODALITIES if modality not in kept])
    whole, num_clips = _run(model, here), len(batch.index_B)
    for dropped in kept[1:]:
        left_BM = here.without([dropped]).present_BM()
        with torch.inference_mode():
            found = model.less(whole, torch.arange(num_clips), left_BM)
            windows_BKC, _ = model.window_logits(found, window_s=0.2)
        expected = _run(model, here.without([dropped]))
        assert torch.allclose(found.logits_BC, expected.logits_BC, atol=1e-6)
        assert torch.allclose(windows_BKC, model.window_logits(expected, window_s=0.2)[0], atol=1e-5)


def test_windows_cover_the_clip_and_one_window_is_the_whole(model: TrimodalModel, batch: Batch) -> None:
    output = _run(model, batch)
    with torch.inference_mode():
        whole_BKC, _ = model.window_logits(output, window_s=100.0)
        parts_BKC, there_BK = model.window_logits(output, window_s=0.2)
    torch.testing.assert_close(whole_BKC[:, 0], output.logits_BC, rtol=1e-4, atol=1e-5)
    assert parts_BKC.shape[2] == NUM_CLASSES
    assert there_BK.sum(dim=1).tolist() == (-(-batch.audio_lengths_B // 5)).tolist()


def test_reconstruction_has_the_shape_of_what_is_rebuilt(model: TrimodalModel, batch: Batch) -> None:
    for left_out in MODALITIES:
        output = _run(model, batch.without([left_out]))
        with torch.inference_mode():
            rebuilt = model.reconstruct(
                output,
                num_audio=batch.audio_BTF.shape[1],
                num_video=batch.video_BTF.shape[1],
                num_words=batch.word_ids_BT.shape[1],
            )
        assert rebuilt.audio_BTF.shape == batch.audio_BTF.shape
        assert rebuilt.video_BTF.shape == batch.video_BTF.shape
        assert rebuilt.words_BTV.shape[:2] == batch.word_ids_BT.shape


def test_pooling_is_mean_and_deviation_of_the_valid_steps() -> None:
    x_BTD = torch.randn(2, 5, 3, dtype=torch.float64)
    mask_BT = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    pooled_BD = statistics_pooling(x_BTD, mask_BT)
    torch.testing.assert_close(pooled_BD[0, :3], x_BTD[0, :3].mean(dim=0))
    torch.testing.assert_close(pooled_BD[0, 3:], x_BTD[0, :3].std(dim=0, correction=0), rtol=1e-4, atol=1e-4)
    assert pooled_BD[1, 3:].abs().max() < 2e-3


def test_dynamics_are_those_of_a_slow_loop() -> None:
    random = np.random.default_rng(3)
    x_BTF, mask_BT = torch.from_numpy(random.normal(size=(40, 11, 2))), torch.from_numpy(random.random((40, 11)) < 0.6)
    mask_BT[0] = False
    found_BS = dynamics(x_BTF, mask_BT, (1, 4))
    assert found_BS.shape == (40, 10)
    assert not found_BS[0].any()
    for frames_TF, mask_T, found_S in zip(x_BTF.numpy(), mask_BT.numpy(), found_BS.numpy(), strict=True):
        if not mask_T.any():
            continue
        mean_F = frames_TF[mask_T].mean(axis=0)
        expected = [mean_F]
        for scale in (1, 4):
            parts = [range(start, min(start + scale, 11)) for start in range(0, 11, scale)]
            averages = [
                np.mean([frames_TF[step] for step in part if mask_T[step]], axis=0) if mask_T[part].any() else None
                for part in parts
            ]
            there = [average for average in averages if average is not None]
            pairs = [(a, b) for a, b in itertools.pairwise(averages) if a is not None and b is not None]
            expected.append(np.sqrt(np.mean([(average - mean_F) ** 2 for average in there], axis=0) + 1e-6))
            expected.append(np.mean([abs(b - a) for a, b in pairs], axis=0) if pairs else np.zeros(2))
        np.testing.assert_allclose(found_S, np.concatenate(expected), atol=1e-12)


def test_frames_within_a_step_are_summarised_one_by_one() -> None:
    x_BTF = torch.randn(3, 12, 2, dtype=torch.float64)
    seen_BT = torch.arange(12) < torch.tensor([[12], [8], [4]])
    stacked = MaskedFrames(x_BTF.reshape(3, 3, 8), seen_BT[:, ::4])
    expected_BS = dynamics(x_BTF, seen_BT, (1, 4))
    how = Summarised(width=8, frames_per_step=4, scales=(1, 4))
    assert how.num_entries == expected_BS.shape[1]
    torch.testing.assert_close(how.summary(stacked), expected_BS)


def test_summaries_are_standardised_over_the_clips_that_have_them() -> None:
    model = toy_model()
    assert isinstance(model, TrimodalModel)
    clips = ToyClips(40)
    model.learn_summaries(each.inputs() for each in in_order(clips, batch_size=7))
    head = _linear_part(model)
    num_audio, num_frames = 7 * model.config.audio_features, sum(each.num_entries for each in head.modalities)
    audio_NS = torch.stack(
        [
            dynamics(
                model.normalised_audio(torch.from_numpy(clip.audio_TF[None]).float()),
                torch.ones(1, len(clip.audio_TF), dtype=torch.bool),
                (1, 4, 16),
            )[0]
            for clip in clips.clips
        ]
    )
    torch.testing.assert_close(head.mean_E[:num_audio], audio_NS.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.deviation_E[:num_audio], audio_NS.std(dim=0, correction=0), rtol=1e-3, atol=1e-4)
    without = toy_model()
    assert isinstance(without, TrimodalModel)
    halves = [
        part.inputs()
        for start in (0, 20)
        for part in (collate(clips, range(start, start + 20)).without(["video"] if start else []),)
    ]
    without.learn_summaries(halves)
    first_half = toy_model()
    assert isinstance(first_half, TrimodalModel)
    first_half.learn_summaries(halves[:1])
    of_video = slice(num_audio, num_frames)
    torch.testing.assert_close(_linear_part(without).mean_E[of_video], _linear_part(first_half).mean_E[of_video])


def test_frames_unlike_any_that_were_learned_from_count_as_lying_at_the_edge() -> None:
    model = toy_model()
    assert isinstance(model, TrimodalModel)
    clips = ToyClips(40)
    model.learn_summaries(each.inputs() for each in in_order(clips))
    [batch] = in_order(clips)
    num_audio, *_ = model.linear_bands
    far = {**batch.inputs(), "audio_BTF": batch.audio_BTF + 1e3}
    found_BI, farther_BI = (
        model.linear_inputs({**far, "audio_BTF": far["audio_BTF"] * factor})[:, :num_audio] for factor in (1, 10)
    )
    means_BF = found_BI[:, :NUM_AUDIO_FEATURES]
    torch.testing.assert_close(means_BF, torch.full_like(means_BF, 4.0))
    assert found_BI.abs().max() <= 4 + 1e-4
    torch.testing.assert_close(farther_BI[:, :NUM_AUDIO_FEATURES], means_BF)


def test_a_rare_word_weighs_no_more_than_the_root_of_what_it_would_at_deviation_one() -> None:
    model = toy_model()
    assert isinstance(model, TrimodalModel)
    clips = ToyClips(40)
    model.learn_summaries(each.inputs() for each in in_order(clips))
    head = _linear_part(model)
    num_frames = sum(each.num_entries for each in head.modalities)
    shares_NU = np.stack(
        [np.bincount(c.word_ids_T, minlength=VOCABULARY_SIZE) / len(c.word_ids_T) for c in clips.clips]
    )
    said_U = shares_NU.std(axis=0) > 0
    expected_U = torch.from_numpy(np.sqrt(shares_NU.std(axis=0))[said_U]).float()
    torch.testing.assert_close(head.deviation_E[num_frames:][said_U], expected_U, rtol=1e-4, atol=1e-5)


def test_each_word_counts_as_the_share_of_what_is_said_that_it_is(model: TrimodalModel) -> None:
    head = _linear_part(model)
    word_ids_BT = torch.tensor([[3, 5, 3, 0], [VOCABULARY_SIZE + 2, 4, 0, 0], [7, 7, 7, 7]])
    shares_BU = head.word_shares(word_ids_BT, torch.arange(4) < torch.tensor([[3], [2], [0]]))
    expected_BU = torch.zeros(3, VOCABULARY_SIZE)
    expected_BU[0, 3], expected_BU[0, 5], expected_BU[1, 4] = 2 / 3, 1 / 3, 1 / 2
    torch.testing.assert_close(shares_BU, expected_BU)


def test_the_linear_part_is_added_and_not_trained(model: TrimodalModel, batch: Batch) -> None:
    head = _linear_part(model)
    assert not list(head.parameters())
    assert sum(model.linear_bands) == len(head.weight_IC)
    with torch.inference_mode():
        both_BC = _run(model, batch).logits_BC
        linear_BC = model.linear_inputs(batch.inputs()) @ head.weight_IC + head.bias_C
        kept_IC, kept_C = head.weight_IC.clone(), head.bias_C.clone()
        model.set_linear_part(torch.zeros_like(kept_IC), torch.zeros_like(kept_C))
        transformer_BC = _run(model, batch).logits_BC
        model.set_linear_part(kept_IC, kept_C)
    torch.testing.assert_close(both_BC, transformer_BC + linear_BC, rtol=1e-4, atol=1e-5)


def test_a_saved_model_answers_the_same_to_the_bit(model: TrimodalModel, batch: Batch, tmp_path: Path) -> None:
    models.save(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = models.load(tmp_path)
    assert not loaded.training
    again = AutoModel.from_pretrained(tmp_path)
    for other in (loaded, again):
        assert isinstance(other, TrimodalModel)
        assert torch.equal(_run(other, batch).logits_BC, _run(model, batch).logits_BC)


def test_the_same_seed_saves_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        models.save(toy_model(seed=3), tmp_path / name)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_default_size_is_small() -> None:
    model = models.build("trimodal", video_features=288, vocabulary_size=500, num_classes=6)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_500_000


@pytest.mark.parametrize("name", models.system_names())
def test_every_system_has_a_configuration(name: str) -> None:
    assert models.config_of(name).system == name


def test_an_unknown_system_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean trimodal"):
        models.build("trimodel")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model"):
        models.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="does not describe a model"):
        models.load(tmp_path)
