"""What frames and words are found to share, against a slow solver and on clips in which it is planted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.batches import in_order
from components.features import ClipFeatures
from components.finetune import with_new_heads
from components.models.summary import MaskedFrames, Summarised, SummaryHead
from components.models.trimodal import TrimodalModel
from tests.toy_clips import NUM_CLASSES, ToyClips, toy_model

RIDGE = 4.5


class Spoken(ToyClips):
    """Toy clips of which each class has three words of its own, said among others."""

    def __init__(self, num_clips: int, *, seed: int) -> None:
        super().__init__(num_clips, seed=seed)
        random = np.random.default_rng(seed + 1)
        for number, (clip, label) in enumerate(zip(self.clips, self.labels_NC.argmax(axis=1), strict=True)):
            own_T = 3 + 3 * label + random.integers(0, 3, 2)
            words_T = np.concatenate([own_T, random.integers(3, 20, 2)]).astype(np.int32)
            self.clips[number] = ClipFeatures(clip.audio_TF, clip.video_TF, words_T)
            self.num_steps_N3[number, 2] = len(words_T)


def _model() -> tuple[TrimodalModel, SummaryHead]:
    model = toy_model()
    assert isinstance(model, TrimodalModel)
    assert model.summary_head is not None
    return model, model.summary_head


def _batches(clips: ToyClips) -> Iterator[Mapping[str, Tensor]]:
    return (batch.inputs() for batch in in_order(clips, batch_size=32))


def test_the_directions_are_the_regularised_canonical_ones() -> None:
    random = np.random.default_rng(0)
    num_clips, num_words = 200, 5
    latent_N = random.normal(size=num_clips)
    frames_NTF = random.normal(size=(num_clips, 4, 3)) + latent_N[:, None, None] * [0.5, -0.3, 0.0]
    shares_NU = random.dirichlet(np.ones(num_words), num_clips) + 0.2 * np.outer(latent_N > 0, [1, 0, 0, 0, 0])
    how = Summarised(width=3, frames_per_step=1, scales=(1,))
    head = SummaryHead((how,), num_words, NUM_CLASSES, num_shared=2)
    frames = MaskedFrames(torch.tensor(frames_NTF, dtype=torch.float32), torch.ones(num_clips, 4, dtype=torch.bool))
    shares = torch.tensor(shares_NU, dtype=torch.float32)
    head.learn_shared(lambda: [([frames], shares)])

    entries_NE = np.concatenate([how.summary(frames).numpy(), shares.numpy()], axis=1, dtype=np.float64)
    deviation_E = entries_NE.std(axis=0)
    standard_NE = (entries_NE - entries_NE.mean(axis=0)) / deviation_E
    num_frames = how.num_entries
    second_EE = standard_NE.T @ standard_NE / num_clips
    across_EE, within_EE = second_EE.copy(), second_EE + RIDGE * np.eye(len(second_EE))
    of_frames, of_words = slice(None, num_frames), slice(num_frames, None)
    across_EE[of_frames, of_frames] = across_EE[of_words, of_words] = 0
    within_EE[of_frames, of_words] = within_EE[of_words, of_frames] = 0
    _, vectors_EE = scipy.linalg.eigh(across_EE, within_EE)
    found_EK = torch.cat([head.frames_to_shared_SK, head.words_to_shared_UK]).double().numpy() * deviation_E[:, None]
    for place in range(2):
        for part in (of_frames, of_words):
            expected, found = vectors_EE[part, -1 - place], found_EK[part, place]
            cosine = expected @ found / np.linalg.norm(expected) / np.linalg.norm(found)
            assert abs(cosine) > 1 - 1e-5
    values_NK = (standard_NE[:, of_frames] @ found_EK[of_frames]).std(axis=0)
    np.testing.assert_allclose(np.square(values_NK).mean(), 1.0, rtol=1e-4)


def test_what_is_felt_is_found_without_labels_and_survives_new_heads() -> None:
    """The first two directions tell the three planted classes apart in clips that were not looked at."""
    model, head = _model()
    assert not head.frames_to_shared_SK.any()
    model.learn_shared(lambda: _batches(Spoken(400, seed=0)))
    tuned = with_new_heads(model, NUM_CLASSES, seed=1)
    assert isinstance(tuned, TrimodalModel)
    kept = tuned.summary_head
    assert kept is not None
    assert torch.equal(kept.frames_to_shared_SK, head.frames_to_shared_SK)

    start = sum(kept.bands[:-2])

    def first_two(clips: ToyClips) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with torch.inference_mode():
            read = torch.cat([tuned.linear_inputs(batch.inputs()) for batch in in_order(clips)])
        return read[:, start : start + 2].numpy(), clips.labels_NC.argmax(axis=1)

    seen_N2, seen_labels_N = first_two(Spoken(60, seed=2))
    means_C2 = np.stack([seen_N2[seen_labels_N == label].mean(axis=0) for label in range(NUM_CLASSES)])
    unseen_N2, labels_N = first_two(Spoken(200, seed=3))
    nearest_N = np.linalg.norm(unseen_N2[:, None] - means_C2, axis=2).argmin(axis=1)
    assert (nearest_N == labels_N).mean() > 0.8


def test_clips_without_words_or_without_frames_teach_nothing_of_what_is_shared() -> None:
    model, head = _model()
    clips = Spoken(40, seed=0)
    silent = [batch.without(["text"]).inputs() for batch in in_order(clips)]
    unseen = [batch.without(["audio", "video"]).inputs() for batch in in_order(clips)]
    model.learn_shared(lambda: [*silent, *unseen])
    assert not head.frames_to_shared_SK.any()
    assert not head.words_to_shared_UK.any()


def test_the_same_words_in_every_clip_share_nothing() -> None:
    model, head = _model()
    clips = Spoken(40, seed=0)
    clips.clips = [ClipFeatures(clip.audio_TF, clip.video_TF, np.array([4, 7], np.int32)) for clip in clips.clips]
    model.learn_shared(lambda: _batches(clips))
    for directions in (head.frames_to_shared_SK, head.words_to_shared_UK):
        torch.testing.assert_close(directions, torch.zeros_like(directions))
