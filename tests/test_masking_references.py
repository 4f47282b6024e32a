"""Masks and augmentation against slow, obvious loops that take the same draws, on random shapes with padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.batches import Batch, collate
from components.features import ClipFeatures
from components.masking import (
    FIRST_WORD_ID,
    MASK_WORD_ID,
    AugmentSettings,
    MaskSettings,
    Moment,
    augment_batch,
    draw_positions,
    draw_spans,
    generator,
    mask_batch,
)
from components.masking_joint import JointMaskSettings, fill_bank, mask_jointly
from tests.toy_pairs import ClipsInMemory

FEW = settings(max_examples=40)
VOCABULARY = 9
LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=4)


def _clips(lengths: list[tuple[int, int, int]], seed: int) -> ClipsInMemory:
    """Clips of these numbers of steps; every frame is one of a kind."""
    random = np.random.default_rng(seed)
    clips = [
        ClipFeatures(
            random.normal(size=(audio, 3)).astype(np.float16),
            random.normal(size=(video, 2)).astype(np.float16),
            random.integers(FIRST_WORD_ID, VOCABULARY, words).astype(np.int32),
        )
        for audio, video, words in lengths
    ]
    return ClipsInMemory(clips, np.zeros((len(clips), 1), np.float32))


def _fate(chance: float) -> str:
    return "hidden" if chance < 0.8 else "replaced" if chance < 0.8 + 0.1 else "kept"


def _lost(random: np.random.Generator, lengths: tuple[int, ...], chance: float) -> set[int]:
    """One of all sets of present modalities that are neither empty nor everything, each as likely."""
    hit, choice = random.random() < chance, random.random()
    present = [modality for modality in range(3) if lengths[modality]]
    subsets = [set(s) for size in range(1, len(present)) for s in itertools.combinations(present, size)]
    subsets.sort(key=lambda subset: sum(2 ** present.index(modality) for modality in subset))
    return subsets[int(choice * len(subsets))] if hit and subsets else set()


def _batch(clips: ClipsInMemory) -> Batch:
    return collate(clips, range(len(clips)))


@FEW
@given(LENGTHS, st.floats(0.05, 0.9), st.integers(1, 4), st.floats(0, 0.9), st.integers(0, 2**20))
def test_masked_modelling_masks_as_the_slow_loop(
    lengths: list[tuple[int, int, int]], share: float, span: int, modality_share: float, seed: int
) -> None:
    clips = _clips(lengths, seed)
    batch, moment = _batch(clips), Moment(seed, 3)
    masked = mask_batch(MaskSettings(share, span, modality_share), batch, moment, vocabulary_size=VOCABULARY)
    seen, hidden = masked.seen, (masked.audio_hidden_BT, masked.video_hidden_BT)
    asked = (masked.audio_asked_BT, masked.video_asked_BT, masked.words_asked_BT)
    for row, (clip, steps) in enumerate(zip(clips.clips, lengths, strict=True)):
        random = generator(moment, row)
        lost = _lost(random, steps, modality_share)
        for modality, (frames_TF, found_BTF) in enumerate(
            ((clip.audio_TF, seen.audio_BTF), (clip.video_TF, seen.video_BTF))
        ):
            num = steps[modality]
            masked_T = draw_spans(random, num, share, span)
            chances, sources = random.random(num), random.integers(0, max(num, 1), num)
            for step in range(found_BTF.shape[1]):
                valid = step < num
                fate = _fate(chances[step]) if valid and masked_T[step] else "kept"
                assert bool(hidden[modality][row, step]) == (fate == "hidden")
                assert bool(asked[modality][row, step]) == (valid and (bool(masked_T[step]) or modality in lost))
                if valid:
                    expected_F = frames_TF[sources[step] if fate == "replaced" else step]
                    assert found_BTF[row, step].tolist() == expected_F.astype(np.float32).tolist()
        masked_T = draw_positions(random, steps[2], share)
        chances, others = random.random(steps[2]), random.integers(FIRST_WORD_ID, VOCABULARY, steps[2])
        for place in range(steps[2]):
            fate = _fate(chances[place]) if masked_T[place] else "kept"
            expected = {"hidden": MASK_WORD_ID, "replaced": others[place], "kept": clip.word_ids_T[place]}[fate]
            assert int(seen.word_ids_BT[row, place]) == expected
            assert bool(asked[2][row, place]) == (bool(masked_T[place]) or 2 in lost)
        found = [seen.audio_lengths_B[row], seen.video_lengths_B[row], seen.word_lengths_B[row]]
        assert [int(value) for value in found] == [0 if m in lost else steps[m] for m in range(3)]


@FEW
@given(LENGTHS, st.floats(0, 0.9), st.floats(0, 1), st.integers(0, 2**20))
def test_augmentation_hides_as_the_slow_loop(
    lengths: list[tuple[int, int, int]], dropout: float, share: float, seed: int
) -> None:
    batch, moment = _batch(_clips(lengths, seed)), Moment(seed, 1)
    augmented = augment_batch(AugmentSettings(dropout, share), batch, moment)
    for row, steps in enumerate(lengths):
        random = generator(moment, row)
        chances = random.random(3)
        present = [modality for modality in range(3) if steps[modality]]
        kept = {modality for modality in present if chances[modality] >= dropout}
        if present and not kept:
            kept = {max(present, key=lambda modality: chances[modality])}
        for modality, hidden_BT in enumerate((augmented.audio_hidden_BT, augmented.video_hidden_BT)):
            size = int(random.random() * share * steps[modality])
            start = int(random.random() * (steps[modality] - size + 1))
            expected = [start <= step < start + size for step in range(hidden_BT.shape[1])]
            assert hidden_BT[row].tolist() == expected
        found = augmented.batch.present_BM()[row].tolist()
        assert found == [modality in kept for modality in range(3)]


@FEW
@given(
    LENGTHS.filter(lambda each: sum(max(a, v) > 0 for a, v, _ in each) > 1),
    st.floats(0.01, 0.6),
    st.integers(1, 4),
    st.integers(0, 2**20),
)
def test_joint_masks_are_the_slow_loop(lengths: list[tuple[int, int, int]], share: float, span: int, seed: int) -> None:
    clips = _clips(lengths, seed)
    batch, moment, bank = _batch(clips), Moment(seed, 2), fill_bank(clips, num_frames=50, seed=seed)
    masked = mask_jointly(JointMaskSettings(share, span), batch, moment, bank)
    assert not masked.words_asked_BT.any()
    assert torch.equal(masked.seen.word_ids_BT, batch.word_ids_BT)
    for row, (clip, steps) in enumerate(zip(clips.clips, lengths, strict=True)):
        num = max(steps[:2])
        random = generator(moment, row)
        starts = random.integers(0, num, int(np.ceil(np.round(share * num, 9)))).tolist() if num else []
        chosen = {start + offset for start in starts for offset in range(span)}
        chances = random.random(num)
        others = [place for place in range(50) if bank.index_N[place] != row]
        sources = random.integers(0, len(others), num)
        for frames_TF, found_BTF, hidden_BT, asked_BT, of_bank in (
            (clip.audio_TF, masked.seen.audio_BTF, masked.audio_hidden_BT, masked.audio_asked_BT, bank.audio_NF),
            (clip.video_TF, masked.seen.video_BTF, masked.video_hidden_BT, masked.video_asked_BT, bank.video_NF),
        ):
            for step in range(found_BTF.shape[1]):
                there = step < len(frames_TF)
                fate = _fate(chances[step]) if there and step in chosen else "kept"
                assert bool(asked_BT[row, step]) == (there and step in chosen)
                assert bool(hidden_BT[row, step]) == (fate == "hidden")
                if there:
                    expected_F = of_bank[others[sources[step]]] if fate == "replaced" else frames_TF[step]
                    assert found_BTF[row, step].tolist() == expected_F.astype(np.float32).tolist()


@FEW
@given(LENGTHS.filter(lambda each: sum(max(a, v) > 0 for a, v, _ in each) > 1), st.integers(0, 2**20))
def test_the_bank_holds_frames_of_one_moment(lengths: list[tuple[int, int, int]], seed: int) -> None:
    clips = _clips(lengths, seed)
    bank = fill_bank(clips, num_frames=20, seed=seed)
    filled = [index for index, (audio, video, _) in enumerate(lengths) if max(audio, video)]
    assert set(bank.index_N.tolist()) == set(filled)
    for audio_F, video_F, index in zip(bank.audio_NF, bank.video_NF, bank.index_N, strict=True):
        clip = clips.clips[int(index)]
        moments = []
        for step in range(max(len(clip.audio_TF), len(clip.video_TF))):
            pair = [
                frames_TF[step].astype(np.float32) if step < len(frames_TF) else np.zeros(frames_TF.shape[1])
                for frames_TF in (clip.audio_TF, clip.video_TF)
            ]
            moments.append(pair)
        assert any(np.array_equal(a, audio_F) and np.array_equal(v, video_F) for a, v in moments)


def test_masks_do_not_depend_on_the_batch_a_clip_is_in() -> None:
    clips = _clips([(9, 9, 0)] * 12, 0)
    bank, settings_ = fill_bank(clips), JointMaskSettings(0.3, 3)
    whole = mask_jointly(settings_, _batch(clips), Moment(1, 1), bank)
    part = mask_jointly(settings_, collate(clips, [7, 2]), Moment(1, 1), bank)
    for row, index in enumerate((7, 2)):
        assert torch.equal(whole.seen.audio_BTF[index], part.seen.audio_BTF[row])
        assert torch.equal(whole.video_hidden_BT[index], part.video_hidden_BT[row])


def test_a_bank_of_one_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 clip\(s\) have audio or video"):
        fill_bank(_clips([(3, 3, 1), (0, 0, 2)], 0))
