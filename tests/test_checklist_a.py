"""The checklist of paper A (Khare et al. 2021), box by box: reference section 6. Its recipe, at a small width."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from components import measuring, models, scoring
from components.answers import Judge
from components.batches import Batch, collate
from components.clip import MODALITIES
from components.datasets import cmu_mosei
from components.datasets.cmu_mosei import folds
from components.features import ClipFeatures
from components.features.text import fit_tokenizer
from components.finetune import new_objective
from components.masking import MASK_WORD_ID, MaskSettings, Moment, mask_batch
from components.metrics_multilabel import LabelOutcomes, mean_weighted_accuracy
from components.model_sizes import sizes
from components.models.layers import Attention
from components.models.trimodal import TrimodalModel, TrimodalOutput
from components.objectives import MaskedModelling, masked_frames_loss, masked_words_loss
from components.objectives_labels import MultiLabel
from components.params import Choices, Params, TextFeatures, resolve
from components.pretrain import new_objective as new_pretraining
from components.report import LabelReport
from components.task import Task
from components.training import FitSettings, TrainingState, Validation, fit
from tests.toy_clips import NUM_AUDIO_FEATURES, NUM_CLASSES, NUM_VIDEO_FEATURES, VOCABULARY_SIZE, ToyClips

EMOTIONS = Task("multilabel", ("happy", "sad", "anger"), name="emotions", threshold=0.0)
TOKENIZER = fit_tokenizer(["good morning"], TextFeatures())
SMALL = {"width": 16, "num_heads": 2, "num_layers": 2}
SHORT = FitSettings(num_epochs=2, batch_size=8, learning_rate=3e-3, seed=1, checkpoint_every_steps=2)


def recipe(**model: Any) -> Params:
    return resolve(Choices(recipe="khare2021", overrides={"model": {**SMALL, **model}}))


def small_model(*, seed: int = 0, **model: Any) -> TrimodalModel:
    """A model of the recipe at a small width, with heads for three emotions."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    found = sizes(recipe(**model), (NUM_AUDIO_FEATURES, NUM_VIDEO_FEATURES), vocabulary_size=VOCABULARY_SIZE)
    built = models.build("trimodal", **found, num_classes=NUM_CLASSES)
    assert isinstance(built, TrimodalModel)
    return built


def run(model: TrimodalModel, batch: Batch) -> TrimodalOutput:
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    with torch.inference_mode():
        output: TrimodalOutput = model(**batch.inputs())
    return output


class LongClips(ToyClips):
    """Clips long enough for shares to be what they are said to be."""

    def __init__(self, num_clips: int, num_steps: int = 300) -> None:
        super().__init__(num_clips)
        random = np.random.default_rng(5)
        self.clips = [
            ClipFeatures(
                random.normal(size=(num_steps, NUM_AUDIO_FEATURES)).astype(np.float16),
                random.normal(size=(num_steps // 2, NUM_VIDEO_FEATURES)).astype(np.float16),
                random.integers(3, VOCABULARY_SIZE, 60).astype(np.int32),
            )
            for _ in range(num_clips)
        ]
        self.num_steps_N3 = np.tile(np.array([num_steps, num_steps // 2, 60], np.int64), (num_clips, 1))


def test_three_inputs_have_their_own_rates_and_masks() -> None:
    """Box 1, with the padding masks; which values are recalled is told by tests/test_params.py."""
    model, clips = small_model(), ToyClips(6)
    config = model.config
    assert (config.audio_step_s, config.video_step_s) == (pytest.approx(0.04), pytest.approx(0.08))
    batch = collate(clips, range(6))
    assert len({batch.audio_BTF.shape[1], batch.video_BTF.shape[1], batch.word_ids_BT.shape[1]}) == 3
    output = run(model, batch)
    assert output.step_mask_BA.sum(dim=1).tolist() == batch.audio_lengths_B.tolist()
    for row in range(6):
        alone = run(model, collate(clips, [row]))
        torch.testing.assert_close(alone.logits_BC[0], output.logits_BC[row], rtol=1e-4, atol=1e-5)


def test_the_features_of_the_recipe_can_be_others() -> None:
    """Box 1: pluggable features."""
    overrides = {"features": {"audio": {"kind": "log_mel", "num_mels": 20}, "video": {"frame_rate_hz": 5.0}}}
    found = sizes(resolve(Choices(recipe="khare2021", overrides=overrides)), (80, 4096), vocabulary_size=9)
    assert (found["audio_features"], found["video_features"], found["video_step_s"]) == (80, 4096, 0.2)


@pytest.mark.parametrize("weights", [(0.4, 0.4, 0.2), (0.6, 0.1, 0.3)])
def test_the_fusion_is_the_weighted_sum_of_audio_and_what_it_finds_elsewhere(
    weights: tuple[float, float, float],
) -> None:
    """Box 2: an audio encoder, audio queries into video and words, and a weighted sum of the three."""
    model = small_model(modality_weights=list(weights)).double()
    if weights == (0.4, 0.4, 0.2):
        assert model.config.modality_weights == list(recipe().model.model_dump()["modality_weights"])
    seen: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}
    for name in ("audio_encoder", "video_to_audio", "words_to_audio"):
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs, output)})
        )
    batch = collate(ToyClips(5), range(5))
    batch = replace(batch, audio_BTF=batch.audio_BTF.double(), video_BTF=batch.video_BTF.double())
    output = run(model, batch)
    audio_BAD = seen["audio_encoder"][1]
    for name, memory_BSD in (("video_to_audio", output.video_BVD), ("words_to_audio", output.words_BWD)):
        (queries_BAD, keys_BSD, mask_BS), found_BAD = seen[name]
        assert torch.equal(queries_BAD, audio_BAD)
        assert torch.equal(keys_BSD, memory_BSD)
        assert mask_BS.shape == memory_BSD.shape[:2]
        assert found_BAD.shape == audio_BAD.shape
    parts = [audio_BAD, seen["video_to_audio"][1], seen["words_to_audio"][1]]
    expected = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(output.fused_BAD, torch.as_tensor(expected), rtol=1e-6, atol=1e-6)


def test_the_answer_is_the_transformers_alone_and_one_layer_deep() -> None:
    """The recipe leaves out what this project has added: the linear part on statistics, and the matching."""
    model = small_model()
    output = run(model, collate(ToyClips(4), range(4)))
    assert {name.split(".")[0] for name in model.state_dict()} & {"summary_head", "view_projections"} == set()
    steps_BAD, mask_BA = output.fused_BAD, output.step_mask_BA
    means_BD = torch.stack([steps_BAD[row, mask_BA[row]].mean(dim=0) for row in range(4)])
    head = model.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    with torch.inference_mode():
        torch.testing.assert_close(output.logits_BC, means_BD @ head.weight.T + head.bias, rtol=1e-4, atol=1e-5)
        windows_BKC, _ = model.window_logits(output, window_s=100.0)
    torch.testing.assert_close(windows_BKC[:, 0], output.logits_BC, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(0, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_attention_is_the_slow_loop(num_queries: int, num_keys: int, num_heads: int, seed: int) -> None:
    """Box 2: scaled dot products over the valid keys and a learned null key, head by head, in float64."""
    torch.manual_seed(seed % 2**31)
    width, share = 4 * num_heads, 4
    block = Attention(width, num_heads).double()
    with torch.no_grad():
        block.null_key_value.normal_()
    x_TD = torch.randn(num_queries, width, dtype=torch.float64)
    memory_SD = torch.randn(num_keys, width, dtype=torch.float64)
    there_S = torch.rand(num_keys) < 0.6
    with torch.no_grad():
        found_TD = block(x_TD[None], memory_SD[None], there_S[None])[0]
        queries, pairs = block.query(x_TD), block.key_value(memory_SD)
        null_key, null_value = block.null_key_value.detach()
    keys = [null_key, *(pairs[s, :width] for s in range(num_keys) if there_S[s])]
    values = [null_value, *(pairs[s, width:] for s in range(num_keys) if there_S[s])]
    mixed = torch.zeros(num_queries, width, dtype=torch.float64)
    for t in range(num_queries):
        for head in range(num_heads):
            part = slice(head * share, (head + 1) * share)
            scores = [float(queries[t, part] @ key[part]) / math.sqrt(share) for key in keys]
            total = sum(math.exp(score) for score in scores)
            for score, value in zip(scores, values, strict=True):
                mixed[t, part] += math.exp(score) / total * value[part]
    with torch.no_grad():
        torch.testing.assert_close(found_TD, block.output(mixed), rtol=1e-9, atol=1e-9)


def test_fifteen_in_a_hundred_are_masked_as_in_bert_and_in_spans() -> None:
    """Box 3: 15 % of the positions of each modality, 80/10/10, in spans for audio and video."""
    objective = new_pretraining(recipe(), ToyClips(), TOKENIZER)
    assert isinstance(objective, MaskedModelling)
    masks = replace(objective.masks, modality_share=0.0)
    batch = collate(LongClips(40), range(40))
    masked = mask_batch(masks, batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    for asked_BT, hidden_BT, seen_BTF, actual_BTF in (
        (masked.audio_asked_BT, masked.audio_hidden_BT, masked.seen.audio_BTF, batch.audio_BTF),
        (masked.video_asked_BT, masked.video_hidden_BT, masked.seen.video_BTF, batch.video_BTF),
    ):
        # Spans may overlap, and their number is rounded.
        assert 0.13 < float(asked_BT.float().mean()) < 0.16
        assert _mean_run(asked_BT.numpy()) > 2.8
        assert 0.76 < float(hidden_BT.sum() / asked_BT.sum()) < 0.84
        other_BT = (seen_BTF != actual_BTF).any(dim=2)
        assert not (other_BT & ~asked_BT).any()
        assert 0.06 < float(other_BT.sum() / asked_BT.sum()) < 0.14
    words, asked = masked.seen.word_ids_BT, masked.words_asked_BT
    assert 0.13 < float(asked.float().mean()) < 0.17
    assert 0.76 < float((words[asked] == MASK_WORD_ID).float().mean()) < 0.84
    kept = float((words[asked] == batch.word_ids_BT[asked]).float().mean())
    assert 0.06 < kept < 0.16  # one in ten, and a replacement that is by chance the same


def test_frames_are_rebuilt_by_regression_and_words_by_choice_with_weights() -> None:
    """Box 3: losses on masked positions alone, weighted as the settings say."""
    weighted = resolve(Choices(recipe="khare2021", overrides={"pretrain": {"loss_weights": [1, 2, 3]}}))
    objective = new_pretraining(weighted, ToyClips(), TOKENIZER)
    assert dict(zip(objective.names, objective.weights, strict=True)) == {"audio": 1, "video": 2, "text": 3}
    model, batch = small_model(), collate(ToyClips(12), range(12))
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    assert isinstance(objective, MaskedModelling)
    terms = objective(model, batch, Moment(0, 0))
    masked = mask_batch(objective.masks, batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    seen = model(**masked.seen.inputs(), audio_masked_BT=masked.audio_hidden_BT, video_masked_BT=masked.video_hidden_BT)
    shapes = batch.audio_BTF.shape[1], batch.video_BTF.shape[1], batch.word_ids_BT.shape[1]
    rebuilt = model.reconstruct(seen, num_audio=shapes[0], num_video=shapes[1], num_words=shapes[2])
    expected = [
        masked_frames_loss(rebuilt.audio_BTF, batch.audio_BTF, masked.audio_asked_BT)[0],
        masked_frames_loss(rebuilt.video_BTF, batch.video_BTF, masked.video_asked_BT)[0],
        masked_words_loss(rebuilt.words_BTV, batch.word_ids_BT, masked.words_asked_BT)[0],
    ]
    torch.testing.assert_close(terms.sums_L, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_pretraining_needs_no_words_and_no_labels_and_resumes() -> None:
    """Box 4: a corpus without transcripts; stopped in the middle, it ends in the same weights."""
    objective = new_pretraining(recipe(), ToyClips(), TOKENIZER)
    whole, kept = _pretrained(objective, Wordless(labelled=False)), []

    def keep(state: TrainingState) -> None:
        if state.step == 4:
            kept.append(copy.deepcopy(state))

    fit(small_model(), Wordless(labelled=False), objective, SHORT, on_checkpoint=keep)
    resumed = fit(small_model(), Wordless(labelled=False), objective, SHORT, state=kept[0])
    assert all(torch.equal(resumed.weights[name], value) for name, value in whole.weights.items())
    counts = dict(zip(objective.names, objective(small_model(), _wordless_batch(), Moment(0, 0)).counts_L, strict=True))
    assert counts["text"] == 0
    assert counts["audio"] > 0
    assert counts["video"] > 0


def test_emotions_are_learned_one_by_one_from_what_is_there_at_all() -> None:
    """Box 5: sigmoid and binary cross-entropy on intensities above zero."""
    objective = new_objective(recipe().finetune, EMOTIONS)
    assert isinstance(objective, MultiLabel)
    train, validation = _intensities(ToyClips(120)), _intensities(ToyClips(40, seed=9))
    model = small_model()
    schedule = FitSettings(num_epochs=8, batch_size=16, learning_rate=1e-2, seed=0)
    state = fit(model, train, objective, schedule, validation=Validation(validation, Judge(EMOTIONS)))
    assert state.best_score > 0.8


def test_the_task_is_six_binary_emotions_in_folds_of_videos(tmp_path: Path) -> None:
    """Box 5: present over 0, official folds by video id; a video in two folds is refused."""
    task = (cmu_mosei.TASKS or {})["emotions"]
    assert (task.kind, len(task.labels), task.threshold) == ("multilabel", 6, 0.0)
    path = tmp_path / folds.FILE
    lists = {"standard_train_fold": ["a", "b"], "standard_valid_fold": ["c"], "standard_test_fold": ["d"]}
    path.write_text("\n".join(f"{name} = {videos!r}" for name, videos in lists.items()))
    assert folds.read(path) == {"a": "train", "b": "train", "c": "validation", "d": "test"}
    path.write_text("\n".join(f"{name} = {[*videos, 'a']!r}" for name, videos in lists.items()))
    with pytest.raises(ValueError, match="video a is in train and in validation"):
        folds.read(path)


def test_the_threshold_is_chosen_on_other_clips_than_the_figures() -> None:
    """Box 5: what the test clips' labels are does not move it."""
    model, validation = small_model(), _intensities(ToyClips(40, seed=9))
    thresholds = scoring.thresholds_on(model, validation, task=EMOTIONS)
    for seed in (1, 2):
        answers = scoring.score(model, _intensities(ToyClips(30, seed=seed)), task=EMOTIONS, thresholds=thresholds)
        assert answers.thresholds == thresholds
        found = answers.answers_NC > np.array(thresholds)
        assert isinstance(answers.outcomes, LabelOutcomes)
        assert (answers.outcomes.predicted_NL == found).mean() > 0.98  # equal but for ties


def test_the_report_has_every_figure_of_each_emotion_and_seven_subsets() -> None:
    """Box 6: weighted accuracy, weighted and positive F1 and accuracy, by emotion and as means."""
    model, clips = small_model(), _intensities(ToyClips(40))
    answers = scoring.score(model, clips, task=EMOTIONS, thresholds=(0.5, 0.5, 0.5))
    subsets = scoring.by_subset(model, clips, task=EMOTIONS, thresholds=(0.5, 0.5, 0.5))
    found = measuring.measure(answers, subsets, origin=measuring.Origin("synthetic"), num_resamples=100)
    assert isinstance(found, LabelReport)
    figures = {"weighted_accuracy", "weighted_f1", "positive_f1", "accuracy"}
    for label in EMOTIONS.labels:
        assert figures <= found.by_label[label].keys()
    assert {f"mean_{name}" for name in figures} <= found.figures.keys()
    assert len(subsets) == 7


@pytest.mark.parametrize("always", [False, True])
def test_a_constant_has_a_weighted_accuracy_of_one_half(always: bool) -> None:
    """Box 7."""
    actual_NL = np.random.default_rng(0).integers(0, 2, (50, 6)).astype(np.float64)
    assert mean_weighted_accuracy(actual_NL, np.full((50, 6), always)) == 0.5


def test_the_loss_does_not_see_what_is_not_masked() -> None:
    """Box 7: altered targets outside of the mask change nothing."""
    batch = collate(ToyClips(12), range(12))
    masked = mask_batch(MaskSettings(), batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    rebuilt_BTF, asked_BT = torch.randn(batch.audio_BTF.shape), masked.audio_asked_BT
    altered_BTF = torch.where(asked_BT[:, :, None], batch.audio_BTF, batch.audio_BTF + 100)
    assert torch.equal(
        masked_frames_loss(rebuilt_BTF, batch.audio_BTF, asked_BT)[0],
        masked_frames_loss(rebuilt_BTF, altered_BTF, asked_BT)[0],
    )
    scores_BTV = torch.randn(*batch.word_ids_BT.shape, VOCABULARY_SIZE)
    other_BT = torch.where(masked.words_asked_BT, batch.word_ids_BT, (batch.word_ids_BT + 1) % VOCABULARY_SIZE)
    assert torch.equal(
        masked_words_loss(scores_BTV, batch.word_ids_BT, masked.words_asked_BT)[0],
        masked_words_loss(scores_BTV, other_BT, masked.words_asked_BT)[0],
    )


def test_attention_ignores_padding() -> None:
    """Box 7: rubbish behind a clip's end reaches nothing."""
    model, batch = small_model(), collate(ToyClips(6), range(6))
    padded = replace(
        batch,
        audio_BTF=torch.nn.functional.pad(batch.audio_BTF, (0, 0, 0, 9), value=50.0),
        video_BTF=torch.nn.functional.pad(batch.video_BTF, (0, 0, 0, 4), value=-50.0),
        word_ids_BT=torch.nn.functional.pad(batch.word_ids_BT, (0, 5), value=7),
    )
    torch.testing.assert_close(run(model, padded).logits_BC, run(model, batch).logits_BC, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left_out", [[one] for one in MODALITIES] + [["audio", "video"], ["audio", "text"]])
def test_removing_modalities_does_not_change_shapes(left_out: list[Any]) -> None:
    """Box 7, and the learned handling of what is missing: the weights of the rest add up to one."""
    model, batch = small_model(), collate(ToyClips(6), range(6))
    whole, part = run(model, batch), run(model, batch.without(left_out))
    assert part.logits_BC.shape == whole.logits_BC.shape
    assert part.pooled_BD.shape == whole.pooled_BD.shape
    assert part.logits_BC.isfinite().all()
    if "audio" in left_out:
        # The learned frame stands where the sound would be.
        with torch.no_grad():
            model.audio_mask_frame.add_(5 * torch.randn(NUM_AUDIO_FEATURES))
        assert not torch.allclose(run(model, batch.without(left_out)).logits_BC, part.logits_BC, atol=1e-5)
        assert torch.equal(run(model, batch).logits_BC, whole.logits_BC)


class Wordless(ToyClips):
    """Clips of which nobody knows the words, as of VoxCeleb2."""

    def __init__(self, *, labelled: bool) -> None:
        super().__init__(24, labelled=labelled)
        nothing = np.zeros(0, np.int32)
        self.clips = [ClipFeatures(clip.audio_TF, clip.video_TF, nothing) for clip in self.clips]
        self.num_steps_N3[:, 2] = 0


def _wordless_batch() -> Batch:
    return collate(Wordless(labelled=False), range(12))


def _pretrained(objective: Any, clips: ToyClips) -> TrainingState:
    return fit(small_model(), clips, objective, SHORT)


def _intensities(clips: ToyClips) -> ToyClips:
    """Labels as annotated: how strong an emotion is, from 0 to 3."""
    clips.labels_NC = clips.labels_NC * np.random.default_rng(3).uniform(0.3, 3, clips.labels_NC.shape).astype("f4")
    return clips


def _mean_run(asked_BT: NDArray[np.bool_]) -> float:
    """Mean number of steps in a row that are masked."""
    starts = asked_BT[:, 1:] & ~asked_BT[:, :-1]
    return float(asked_BT.sum() / (starts.sum() + asked_BT[:, 0].sum()))
