"""Masks and losses, against slow, obvious loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.batches import Batch, collate
from components.masking import (
    FIRST_WORD_ID,
    MASK_WORD_ID,
    AugmentSettings,
    MaskSettings,
    Moment,
    augment_batch,
    draw_positions,
    draw_present,
    draw_spans,
    generator,
    mask_batch,
)
from components.objectives import (
    Classification,
    MaskedModelling,
    MatchedModelling,
    classification_loss,
    masked_frames_loss,
    masked_words_loss,
    matching_loss,
)
from tests.toy_clips import VOCABULARY_SIZE, ToyClips, toy_model

EVERYTHING = MaskSettings(share=0.5, span=2, modality_share=0.5)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return collate(ToyClips(40), list(range(40)))


@given(st.integers(0, 200), st.floats(0.01, 0.9), st.integers(1, 10), st.integers(0, 99))
def test_spans_mask_about_the_share(num_steps: int, share: float, span: int, seed: int) -> None:
    masked_T = draw_spans(np.random.default_rng(seed), num_steps, share, span)
    assert masked_T.shape == (num_steps,)
    if num_steps:
        assert 1 <= masked_T.sum() <= max(1, round(share * num_steps / span)) * span


@given(st.integers(0, 60), st.floats(0.01, 0.9), st.integers(0, 99))
def test_one_word_at_least_is_masked(num_words: int, share: float, seed: int) -> None:
    assert draw_positions(np.random.default_rng(seed), num_words, share).any() == (num_words > 0)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.floats(0, 0.99), st.integers(0, 99))
def test_a_clip_never_loses_all_it_has(lengths_M: list[int], chance: float, seed: int) -> None:
    kept_M = draw_present(np.random.default_rng(seed), lengths_M, chance)
    present_M = np.array(lengths_M) > 0
    assert not present_M.any() or (kept_M & present_M).any()


def test_masks_belong_to_the_clip_and_not_to_the_batch(batch: Batch) -> None:
    whole = mask_batch(EVERYTHING, batch, Moment(3, 1), vocabulary_size=VOCABULARY_SIZE)
    part = mask_batch(EVERYTHING, collate(ToyClips(40), [31, 4]), Moment(3, 1), vocabulary_size=VOCABULARY_SIZE)
    for row, index in enumerate((31, 4)):
        num_steps = int(batch.audio_lengths_B[index])
        assert torch.equal(whole.audio_asked_BT[index, :num_steps], part.audio_asked_BT[row, :num_steps])
        assert torch.equal(whole.seen.audio_BTF[index, :num_steps], part.seen.audio_BTF[row, :num_steps])
        assert whole.seen.word_lengths_B[index] == part.seen.word_lengths_B[row]
        num_words = int(batch.word_lengths_B[index])
        assert torch.equal(whole.seen.word_ids_BT[index, :num_words], part.seen.word_ids_BT[row, :num_words])


def test_masks_differ_by_epoch_and_seed(batch: Batch) -> None:
    def asked(moment: Moment) -> torch.Tensor:
        return mask_batch(EVERYTHING, batch, moment, vocabulary_size=VOCABULARY_SIZE).audio_asked_BT

    assert torch.equal(asked(Moment(0, 0)), asked(Moment(0, 0)))
    assert not torch.equal(asked(Moment(0, 0)), asked(Moment(0, 1)))
    assert not torch.equal(asked(Moment(0, 0)), asked(Moment(1, 0)))


def test_generators_of_neighbouring_clips_are_unlike() -> None:
    draws = [generator(Moment(0, epoch), index).random() for epoch in range(20) for index in range(20)]
    assert len(set(draws)) == 400
    assert abs(float(np.mean(draws)) - 0.5) < 0.05


def test_masking_leaves_the_batch_as_it_was_and_asks_within_lengths(batch: Batch) -> None:
    before = batch.audio_BTF.clone(), batch.word_ids_BT.clone()
    masked = mask_batch(EVERYTHING, batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    assert torch.equal(batch.audio_BTF, before[0])
    assert torch.equal(batch.word_ids_BT, before[1])
    for asked_BT, lengths_B in (
        (masked.audio_asked_BT, batch.audio_lengths_B),
        (masked.video_asked_BT, batch.video_lengths_B),
        (masked.words_asked_BT, batch.word_lengths_B),
    ):
        for row in range(40):
            assert not asked_BT[row, int(lengths_B[row]) :].any()
    assert not (masked.audio_hidden_BT & ~masked.audio_asked_BT).any()


def test_words_are_hidden_replaced_or_left_in_bert_shares() -> None:
    clips = ToyClips(600)
    batch = collate(clips, list(range(600)))
    masked = mask_batch(MaskSettings(0.9, 1, 0.0), batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    seen, asked, actual = masked.seen.word_ids_BT, masked.words_asked_BT, batch.word_ids_BT
    assert torch.equal(seen[~asked], actual[~asked])
    hidden = (seen[asked] == MASK_WORD_ID).float().mean().item()
    left = (seen[asked] == actual[asked]).float().mean().item()
    assert 0.76 < hidden < 0.84
    assert 0.07 < left < 0.14
    assert (seen[asked][seen[asked] != MASK_WORD_ID] >= FIRST_WORD_ID).all()
    of_frames = masked.audio_hidden_BT.sum() / masked.audio_asked_BT.sum()
    assert 0.77 < float(of_frames) < 0.83


def test_a_modality_masked_as_a_whole_is_left_out_and_asked_for(batch: Batch) -> None:
    masked = mask_batch(EVERYTHING, batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    lost = torch.flatten(((masked.seen.video_lengths_B == 0) & (batch.video_lengths_B > 0)).nonzero())
    assert len(lost) > 0
    for row in lost.tolist():
        assert int(masked.video_asked_BT[row].sum()) == int(batch.video_lengths_B[row])
        assert masked.seen.audio_lengths_B[row] + masked.seen.word_lengths_B[row] > 0


def test_augmentation_off_changes_nothing(batch: Batch) -> None:
    augmented = augment_batch(AugmentSettings(), batch, Moment(0, 0))
    assert not augmented.audio_hidden_BT.any()
    assert all(torch.equal(a, b) for a, b in zip(vars(augmented.batch).values(), vars(batch).values(), strict=True))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_frame_loss_is_the_slow_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    rebuilt, actual = random.normal(size=(2, 3, 5, 4))
    asked = random.random((3, 5)) < 0.4
    total, count = masked_frames_loss(torch.tensor(rebuilt), torch.tensor(actual), torch.tensor(asked))
    slow = 0.0
    for clip in range(3):
        for step in range(5):
            if asked[clip, step]:
                slow += sum(abs(rebuilt[clip, step, f] - actual[clip, step, f]) for f in range(4)) / 4
    assert float(total) == pytest.approx(slow, rel=1e-12, abs=1e-12)
    assert int(count) == int(asked.sum())


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_word_loss_is_the_slow_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, words = random.normal(size=(2, 4, 7)), random.integers(0, 7, (2, 4))
    asked = random.random((2, 4)) < 0.5
    total, count = masked_words_loss(torch.tensor(scores), torch.tensor(words), torch.tensor(asked))
    slow = 0.0
    for clip in range(2):
        for position in range(4):
            if asked[clip, position]:
                chances = [math.exp(score) for score in scores[clip, position]]
                slow -= math.log(chances[words[clip, position]] / sum(chances))
    assert float(total) == pytest.approx(slow, rel=1e-10, abs=1e-12)
    assert int(count) == int(asked.sum())


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5))
def test_classification_loss_is_the_slow_loop(seed: int, smoothing: float) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(5, 3)), random.random((5, 3)) + 0.01
    labels[2] = np.nan
    total, count = classification_loss(torch.tensor(logits), torch.tensor(labels), smoothing)
    slow = 0.0
    for clip in (0, 1, 3, 4):
        norm = sum(math.exp(score) for score in logits[clip])
        for label in range(3):
            share = labels[clip, label] / labels[clip].sum() * (1 - smoothing) + smoothing / 3
            slow -= share * (logits[clip, label] - math.log(norm))
    assert float(total) == pytest.approx(slow, rel=1e-10)
    assert int(count) == 4


def test_what_is_not_asked_for_does_not_count() -> None:
    rebuilt_BTF, actual_BTF = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    asked_BT = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]]).bool()
    changed_BTF = torch.where(asked_BT[:, :, None], actual_BTF, torch.nan)
    before, _ = masked_frames_loss(rebuilt_BTF, actual_BTF, asked_BT)
    after, _ = masked_frames_loss(rebuilt_BTF, changed_BTF, asked_BT)
    assert torch.equal(before, after)


def test_parts_of_a_batch_add_up_to_the_whole(batch: Batch) -> None:
    model = toy_model(dropout=0.0)
    for objective in (MaskedModelling(EVERYTHING), Classification(AugmentSettings(0.3, 0.3), 0.1)):
        whole = objective(model, batch, Moment(0, 0))
        parts = [objective(model, collate(ToyClips(40), range(start, 40, 2)), Moment(0, 0)) for start in (0, 1)]
        sums_L = parts[0].sums_L + parts[1].sums_L
        torch.testing.assert_close(sums_L, whole.sums_L, rtol=1e-4, atol=1e-4)
        assert torch.equal(parts[0].counts_L + parts[1].counts_L, whole.counts_L)


def test_clips_without_a_modality_are_no_trouble(batch: Batch) -> None:
    model = toy_model()
    silent = replace(batch, audio_lengths_B=torch.zeros_like(batch.audio_lengths_B))
    terms = MaskedModelling(EVERYTHING)(model, silent, Moment(0, 0))
    assert terms.sums_L.isfinite().all()
    assert terms.counts_L[0] == 0


@given(st.integers(1, 9), st.integers(0, 99))
def test_matching_is_finding_the_other_view_among_all(num_clips: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    one_BD, other_BD = (torch.from_numpy(random.normal(size=(num_clips, 4))) for _ in range(2))
    there_B = random.random(num_clips) < 0.7
    loss, count = matching_loss(one_BD, other_BD, torch.from_numpy(there_B))
    expected, rows = 0.0, np.flatnonzero(there_B)
    for row in rows:
        right = float(one_BD[row] @ other_BD[row])
        among_others = math.log(sum(math.exp(float(one_BD[row] @ other_BD[column])) for column in rows))
        among_ones = math.log(sum(math.exp(float(one_BD[column] @ other_BD[row])) for column in rows))
        expected += (among_others + among_ones) / 2 - right
    assert float(count) == len(rows)
    assert float(loss) == pytest.approx(expected, abs=1e-9)


def test_words_are_hidden_from_what_is_to_be_matched_with_them(batch: Batch) -> None:
    masked = mask_batch(MaskSettings(apart=True), batch, Moment(0, 0), vocabulary_size=VOCABULARY_SIZE)
    kept = {tuple(row) for row in masked.seen.present_BM().tolist()}
    assert kept == {(True, True, False), (True, False, False), (False, True, False)}
    wordless = mask_batch(
        MaskSettings(apart=True), batch.without(["text"]), Moment(0, 0), vocabulary_size=VOCABULARY_SIZE
    )
    assert {tuple(row) for row in wordless.seen.present_BM().tolist()} == {(True, False, False), (False, True, False)}
    alone = mask_batch(
        MaskSettings(apart=True), batch.without(["audio", "video"]), Moment(0, 0), vocabulary_size=VOCABULARY_SIZE
    )
    assert alone.seen.present_BM().tolist() == [[False, False, True]] * 40


def test_matching_counts_the_clips_that_have_two_views(batch: Batch) -> None:
    model = toy_model()
    objective = MatchedModelling(MaskSettings(apart=True), (0.1, 0.1, 0.1, 1.0))
    keep_BM = torch.ones(40, 3, dtype=torch.bool)
    keep_BM[:5, :2] = False
    keep_BM[5:8, 2] = False
    terms = objective(model, batch.keep(keep_BM), Moment(0, 0))
    assert terms.counts_L[objective.names.index("match")] == 35
    assert terms.sums_L.isfinite().all()
    (terms.sums_L / terms.counts_L).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    projections = [value for name, value in model.named_parameters() if name.startswith("view_projections.")]
    assert len(projections) == 4
    assert all(each.grad is not None for each in projections)
