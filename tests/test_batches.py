"""Epoch plans, the split among workers, padding, statistics and subsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.batches import (
    Subset,
    collate,
    costs,
    draw_by_class,
    frame_statistics,
    in_advance,
    padding_waste,
    plan_epoch,
    share,
)
from components.features import ClipFeatures
from tests.toy_clips import NUM_CLASSES, ToyClips

LENGTHS = st.lists(st.integers(0, 500), min_size=1, max_size=300).map(np.array)


@given(LENGTHS, st.integers(2, 64), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_every_clip_once(costs_N: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    plan = plan_epoch(costs_N, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(costs_N)))
    sizes = [len(batch) for batch in plan]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@given(LENGTHS, st.integers(2, 64), st.integers(1, 5))
def test_workers_share_a_batch_evenly(costs_N: np.ndarray, batch_size: int, num_workers: int) -> None:
    for batch_N in plan_epoch(costs_N, batch_size=batch_size, seed=0, epoch=0):
        if len(batch_N) < num_workers:
            continue
        parts = [share(batch_N, rank=rank, num_workers=num_workers) for rank in range(num_workers)]
        assert sorted(np.concatenate(parts).tolist()) == sorted(batch_N.tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    costs_N = np.arange(200)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan_epoch(costs_N, batch_size=16, seed=seed, epoch=epoch)]

    assert plan(0, 0) == plan(0, 0)
    assert plan(0, 0) != plan(0, 1)
    assert plan(0, 0) != plan(1, 0)


def test_batches_hold_clips_of_like_length() -> None:
    lengths_N = np.random.default_rng(0).lognormal(4, 0.7, 4000).astype(np.int64)
    plan = plan_epoch(lengths_N, batch_size=32, seed=0, epoch=0)
    padded = sum(int(lengths_N[batch].max()) * len(batch) for batch in plan)
    random = np.random.default_rng(0).permutation(4000).reshape(-1, 32)
    unsorted = sum(int(lengths_N[batch].max()) * len(batch) for batch in random)
    assert padded < 1.25 * lengths_N.sum()
    assert padded < 0.5 * unsorted


def test_no_clips_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(ValueError, match=r"rejected\.parquet"):
        plan_epoch(np.zeros(0, np.int64), batch_size=4, seed=0, epoch=0)


def test_collate_pads_with_zeros_and_keeps_lengths() -> None:
    clips = ToyClips(5)
    batch = collate(clips, [3, 1])
    for row, index in enumerate((3, 1)):
        clip = clips.features(index)
        for padded, length, actual in (
            (batch.audio_BTF[row], batch.audio_lengths_B[row], clip.audio_TF),
            (batch.video_BTF[row], batch.video_lengths_B[row], clip.video_TF),
            (batch.word_ids_BT[row], batch.word_lengths_B[row], clip.word_ids_T),
        ):
            assert int(length) == len(actual)
            np.testing.assert_array_equal(padded[: len(actual)].numpy(), actual)
            assert not padded[len(actual) :].any()
    np.testing.assert_array_equal(batch.labels_BC.numpy(), clips.labels_NC[[3, 1]])


def test_left_out_modalities_have_no_length() -> None:
    batch = collate(ToyClips(4), [0, 1, 2, 3])
    without = batch.without(["audio", "text"])
    assert without.audio_lengths_B.tolist() == [0] * 4
    assert without.word_lengths_B.tolist() == [0] * 4
    assert torch.equal(without.video_lengths_B, batch.video_lengths_B)
    assert without.audio_BTF.shape == batch.audio_BTF.shape


def test_statistics_are_those_of_all_frames() -> None:
    clips = ToyClips(20)
    found = frame_statistics(clips)
    frames_TF = np.concatenate([clip.audio_TF for clip in clips.clips]).astype(np.float64)
    np.testing.assert_allclose(found.audio_mean_F.numpy(), frames_TF.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.audio_deviation_F.numpy(), frames_TF.std(axis=0), rtol=1e-5)


def test_a_constant_feature_keeps_deviation_one() -> None:
    clips = ToyClips(3)
    for clip in clips.clips:
        clip.audio_TF[:, 0] = 4.0
    assert frame_statistics(clips).audio_deviation_F[0] == 1.0


def test_a_subset_is_a_source_of_its_own() -> None:
    clips = ToyClips(10)
    some = Subset(clips, np.array([7, 2]))
    assert some.clip_ids == ["clip007", "clip002"]
    assert some.features(1) is clips.features(2)
    assert costs(some).tolist() == costs(clips)[[7, 2]].tolist()


@given(st.floats(0.01, 1.0), st.integers(0, 20))
def test_a_share_of_labels_is_drawn_from_each_class(label_share: float, seed: int) -> None:
    labels_NC = ToyClips(60).labels_NC.copy()
    labels_NC[:5] = np.nan
    drawn = draw_by_class(labels_NC, label_share, seed=seed)
    assert (drawn >= 5).all()
    assert len(set(drawn.tolist())) == len(drawn)
    for label in range(NUM_CLASSES):
        of_class = np.flatnonzero(labels_NC[:, label] == 1)
        assert len(set(drawn.tolist()) & set(of_class.tolist())) == max(1, round(label_share * len(of_class)))


def test_batches_read_in_advance_are_those_that_were_asked_for() -> None:
    clips = ToyClips(30)
    plan = plan_epoch(costs(clips), batch_size=4, seed=0, epoch=0)
    found = list(in_advance(clips, plan))
    assert len(found) == len(plan)
    for batch, batch_N in zip(found, plan, strict=True):
        expected = collate(clips, batch_N)
        assert torch.equal(batch.index_B, expected.index_B)
        assert torch.equal(batch.audio_BTF, expected.audio_BTF)


def test_no_more_is_read_than_two_batches_ahead_and_nothing_after_the_end() -> None:
    class Watched(ToyClips):
        def features(self, index: int) -> ClipFeatures:
            read.add(index)
            return super().features(index)

    read: set[int] = set()
    batches = in_advance(Watched(40), np.arange(40).reshape(10, 4))
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator is typed as an iterator
    assert read <= set(range(12))


def test_an_error_comes_with_its_own_batch() -> None:
    class Broken(ToyClips):
        def features(self, index: int) -> ClipFeatures:
            if index == 9:
                raise OSError("clip009 is gone")
            return super().features(index)

    batches = in_advance(Broken(16), np.arange(16).reshape(4, 4))
    assert [len(next(batches).index_B) for _ in range(2)] == [4, 4]
    with pytest.raises(OSError, match="clip009"):
        next(batches)


def test_padding_is_what_batches_have_beyond_their_clips() -> None:
    steps_N = np.array([10, 8, 3, 3])
    assert padding_waste(steps_N, [np.array([0, 1]), np.array([2, 3])]) == pytest.approx(2 / 26)
    assert padding_waste(steps_N, [np.array([0, 2]), np.array([1, 3])]) == pytest.approx(12 / 36)


def test_padding_of_a_plan_is_small() -> None:
    lengths_N = np.ceil(np.random.default_rng(0).lognormal(5, 0.6, 10_000)).astype(np.int64)
    assert padding_waste(lengths_N, plan_epoch(lengths_N, batch_size=32, seed=0, epoch=0)) < 0.08
