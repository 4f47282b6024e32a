"""Masks that lie at the same steps of audio and video (Tran and Soleymani 2022), drawn anew each epoch.

As in `components.masking`, everything drawn for a clip comes from the seed, the epoch and the clip alone. Frames
that stand in for masked ones come from other clips; so that they do not depend on which clips share a batch or a
worker, they are taken from a bank that is filled once.

Shape suffixes: B batch, T steps, F features, N frames of the bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from components.batches import Batch, ClipSource
from components.masking import MaskedBatch, Moment, generator

# What happens to a masked step (Devlin et al. 2018): most are zero, some replaced, the rest left as they are.
_ZERO_SHARE: Final = 0.8
_REPLACED_SHARE: Final = 0.1


@dataclass(frozen=True)
class JointMaskSettings:
    """How much is masked.

    Attributes:
        start_share: spans begin at this share of a clip's steps, rounded up; drawn with replacement, so spans overlap.
        span: steps of a span; what lies beyond the clip's end is cut off.
    """

    start_share: float = 0.05
    span: int = 3


@dataclass(frozen=True, eq=False)
class FrameBank:
    """Frames to stand in for masked ones: audio and video of the same moment, and the clip they come from."""

    audio_NF: NDArray[np.float32]
    video_NF: NDArray[np.float32]
    index_N: NDArray[np.int64]

    def others(self, index: int) -> NDArray[np.int64]:
        """Positions of the frames that come from other clips."""
        return np.flatnonzero(self.index_N != index)


def fill_bank(source: ClipSource, *, num_frames: int = 2048, seed: int = 0) -> FrameBank:
    """Draw frames of clips that have audio or video, of as many clips as can be. A missing modality is zero frames.

    Raises:
        ValueError: there are fewer than two such clips.
    """
    num_steps_N = np.max(source.num_steps_N3[:, :2], axis=1)
    clips = np.flatnonzero(num_steps_N)
    if len(clips) < 2:
        raise ValueError(
            f"masked frames are replaced by those of another clip, and {len(clips)} clip(s) have audio or video: "
            "add clips, or look at build/clips/rejected.parquet for what was refused"
        )
    random = np.random.Generator(np.random.Philox(seed))
    index_N = np.resize(random.permutation(clips), num_frames)
    frames: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for index in index_N:
        clip = source.features(int(index))
        step = int(random.integers(0, num_steps_N[index]))
        for found, frames_TF in zip(frames, (clip.audio_TF, clip.video_TF), strict=True):
            there = step < len(frames_TF)
            found.append(frames_TF[step].astype(np.float32) if there else np.zeros(frames_TF.shape[1], np.float32))
    return FrameBank(np.stack(frames[0]), np.stack(frames[1]), index_N)


def mask_jointly(settings: JointMaskSettings, batch: Batch, moment: Moment, bank: FrameBank) -> MaskedBatch:
    """Draw one mask a clip, and apply it to its audio and its video; words stay as they are, and are not asked for."""
    frames = (batch.audio_BTF.clone(), batch.video_BTF.clone())
    lengths = (batch.audio_lengths_B.tolist(), batch.video_lengths_B.tolist())
    bank_frames = (torch.from_numpy(bank.audio_NF), torch.from_numpy(bank.video_NF))
    hidden = [np.zeros(sequence.shape[:2], dtype=bool) for sequence in frames]
    asked = [np.zeros(sequence.shape[:2], dtype=bool) for sequence in frames]
    for row, index in enumerate(batch.index_B.tolist()):
        random = generator(moment, index)
        num_steps = max(lengths[0][row], lengths[1][row])
        masked_T = draw_joint_spans(random, num_steps, settings)
        fate_T, others = random.random(num_steps), bank.others(index)
        source_T = others[random.integers(0, len(others), num_steps)]
        for modality, frames_BTF in enumerate(frames):
            there = slice(0, lengths[modality][row])
            asked[modality][row, there] = masked_T[there]
            hidden[modality][row, there] = (masked_T & (fate_T < _ZERO_SHARE))[there]
            replaced = np.flatnonzero((masked_T & _is_replaced(fate_T))[there])
            frames_BTF[row, replaced] = bank_frames[modality][source_T[replaced]].to(frames_BTF)
    device = batch.audio_BTF.device
    asked.append(np.zeros(batch.word_ids_BT.shape, dtype=bool))
    return MaskedBatch(
        replace(batch, audio_BTF=frames[0], video_BTF=frames[1]),
        *(torch.from_numpy(mask).to(device) for mask in (*hidden, *asked)),
    )


def draw_joint_spans(random: np.random.Generator, num_steps: int, settings: JointMaskSettings) -> NDArray[np.bool_]:
    """(T,) steps to mask, one at least."""
    masked_T = np.zeros(num_steps, dtype=bool)
    if num_steps == 0:
        return masked_T
    # Rounded first: 0.05 * 140 is a little more than 7 for a computer.
    num_starts = max(1, math.ceil(round(settings.start_share * num_steps, 9)))
    starts = random.integers(0, num_steps, num_starts)
    for offset in range(settings.span):
        masked_T[(starts + offset)[starts + offset < num_steps]] = True
    return masked_T


def _is_replaced(fate_T: NDArray[np.float64]) -> NDArray[np.bool_]:
    replaced_T: NDArray[np.bool_] = (fate_T >= _ZERO_SHARE) & (fate_T < _ZERO_SHARE + _REPLACED_SHARE)
    return replaced_T
