"""What is hidden from a model in training: masks for pre-training, augmentation for fine-tuning.

Everything drawn for a clip comes from a counter generator keyed by the seed, the epoch and the clip: it does not
depend on the batch, on the worker, or on what was drawn before.

Shape suffixes: B batch, T steps, F features, M modalities (audio, video, text).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.batches import Batch

MASK_WORD_ID: Final = 2
FIRST_WORD_ID: Final = 3

# What happens to a masked position (Devlin et al. 2018): most are hidden, some replaced, the rest left as they are.
_HIDDEN_SHARE, _REPLACED_SHARE = 0.8, 0.1


@dataclass(frozen=True)
class Moment:
    """When in a training a batch is seen: with the clip, the key of everything drawn for it."""

    seed: int
    epoch: int


@dataclass(frozen=True)
class MaskSettings:
    """How much is masked in pre-training.

    Attributes:
        share: share of each modality's positions that is masked.
        span: neighbouring audio and video steps masked together, for one frame is easily interpolated.
        modality_share: share of clips that lose one or two modalities as a whole, to be rebuilt from the rest.
        mask_word_id: what stands for a masked word.
        first_word_id: from here on the vocabulary's ids may replace a masked word.
        apart: hide the words of every clip that has sound or picture, and often one of these too, so that what is
            left can be matched with the words; `modality_share` then says nothing.
    """

    share: float = 0.15
    span: int = 3
    modality_share: float = 0.2
    apart: bool = False
    mask_word_id: int = MASK_WORD_ID
    first_word_id: int = FIRST_WORD_ID


@dataclass(frozen=True)
class AugmentSettings:
    """How much is hidden in fine-tuning.

    Attributes:
        modality_dropout: chance that a clip loses a modality it has; one always stays.
        time_share: largest share of a clip's audio and video steps hidden in one block (Park et al. 2019).
    """

    modality_dropout: float = 0.0
    time_share: float = 0.0


@dataclass(frozen=True)
class MaskedBatch:
    """A batch as the model sees it, the steps it must replace by its learned frame, and those it is asked for."""

    seen: Batch
    audio_hidden_BT: Tensor
    video_hidden_BT: Tensor
    audio_asked_BT: Tensor
    video_asked_BT: Tensor
    words_asked_BT: Tensor


@dataclass(frozen=True)
class AugmentedBatch:
    """A batch with modalities left out, and the steps that the model must replace by its learned frame."""

    batch: Batch
    audio_hidden_BT: Tensor
    video_hidden_BT: Tensor


def generator(moment: Moment, index: int) -> np.random.Generator:
    """The random numbers of one clip at one moment."""
    return np.random.Generator(np.random.Philox(key=[moment.seed, (moment.epoch << 32) | index]))


def mask_batch(settings: MaskSettings, batch: Batch, moment: Moment, *, vocabulary_size: int) -> MaskedBatch:
    """Draw masks for every clip of a batch (BERT's 80/10/10, in spans for frames) and apply them."""
    audio_BTF, video_BTF, word_ids_BT = batch.audio_BTF.clone(), batch.video_BTF.clone(), batch.word_ids_BT.clone()
    device = audio_BTF.device
    hidden = [np.zeros(sequence.shape[:2], dtype=bool) for sequence in (audio_BTF, video_BTF)]
    asked = [np.zeros(sequence.shape[:2], dtype=bool) for sequence in (audio_BTF, video_BTF, word_ids_BT)]
    present_BM = np.ones((len(batch.index_B), 3), dtype=bool)
    lengths_BM = torch.stack([batch.audio_lengths_B, batch.video_lengths_B, batch.word_lengths_B], dim=1).tolist()
    for row, index in enumerate(batch.index_B.tolist()):
        random = generator(moment, index)
        draw = _draw_apart if settings.apart else _draw_lost
        lost = draw(random, lengths_BM[row], settings.modality_share)
        for modality, frames_BTF in enumerate((audio_BTF, video_BTF)):
            num_steps = lengths_BM[row][modality]
            masked_T = draw_spans(random, num_steps, settings.share, settings.span)
            fate_T, source_T = random.random(num_steps), random.integers(0, max(num_steps, 1), num_steps)
            asked[modality][row, :num_steps] = masked_T
            hidden[modality][row, :num_steps] = masked_T & (fate_T < _HIDDEN_SHARE)
            replaced = np.flatnonzero(masked_T & _is_replaced(fate_T))
            frames_BTF[row, replaced] = frames_BTF[row, source_T[replaced]]
        num_words = lengths_BM[row][2]
        masked_T = draw_positions(random, num_words, settings.share)
        fate_T = random.random(num_words)
        other_T = random.integers(settings.first_word_id, vocabulary_size, num_words)
        asked[2][row, :num_words] = masked_T
        word_ids_BT[row, np.flatnonzero(masked_T & (fate_T < _HIDDEN_SHARE))] = settings.mask_word_id
        replaced = np.flatnonzero(masked_T & _is_replaced(fate_T))
        word_ids_BT[row, replaced] = torch.from_numpy(other_T[replaced]).to(device)
        present_BM[row, lost] = False
        for modality in lost:
            asked[modality][row, : lengths_BM[row][modality]] = True
    seen = replace(batch, audio_BTF=audio_BTF, video_BTF=video_BTF, word_ids_BT=word_ids_BT)
    return MaskedBatch(
        seen.keep(torch.from_numpy(present_BM).to(device)),
        *(torch.from_numpy(mask).to(device) for mask in (*hidden, *asked)),
    )


def augment_batch(settings: AugmentSettings, batch: Batch, moment: Moment) -> AugmentedBatch:
    """Leave out modalities and blank blocks of time and of audio bands, drawn for every clip."""
    hidden = [np.zeros(sequence.shape[:2], dtype=bool) for sequence in (batch.audio_BTF, batch.video_BTF)]
    present_BM = np.ones((len(batch.index_B), 3), dtype=bool)
    lengths_BM = torch.stack([batch.audio_lengths_B, batch.video_lengths_B, batch.word_lengths_B], dim=1).tolist()
    for row, index in enumerate(batch.index_B.tolist()):
        random = generator(moment, index)
        present_BM[row] = draw_present(random, lengths_BM[row], settings.modality_dropout)
        for modality in (0, 1):
            start, stop = _draw_block(random, lengths_BM[row][modality], settings.time_share)
            hidden[modality][row, start:stop] = True
    device = batch.audio_BTF.device
    kept = batch.keep(torch.from_numpy(present_BM).to(device))
    return AugmentedBatch(kept, *(torch.from_numpy(mask).to(device) for mask in hidden))


def draw_spans(random: np.random.Generator, num_steps: int, mask_share: float, span: int) -> NDArray[np.bool_]:
    """(T,) steps to mask: spans at starts drawn without replacement, about `mask_share` of all, one at least."""
    masked_T = np.zeros(num_steps, dtype=bool)
    if num_steps == 0:
        return masked_T
    num_starts = max(1, round(mask_share * num_steps / span))
    starts = random.choice(num_steps, size=min(num_starts, num_steps), replace=False)
    for offset in range(span):
        masked_T[np.minimum(starts + offset, num_steps - 1)] = True
    return masked_T


def draw_positions(random: np.random.Generator, num_steps: int, mask_share: float) -> NDArray[np.bool_]:
    """(T,) positions to mask one by one, each with chance `mask_share`, one at least."""
    chance_T = random.random(num_steps)
    masked_T: NDArray[np.bool_] = chance_T < mask_share
    if num_steps and not masked_T.any():
        masked_T[int(chance_T.argmin())] = True
    return masked_T


def draw_present(random: np.random.Generator, lengths_M: list[int], chance: float) -> NDArray[np.bool_]:
    """(M,) modalities to keep: each present one is left out with `chance`, but never the last."""
    chance_M = np.where(np.array(lengths_M) > 0, random.random(len(lengths_M)), -1.0)
    kept_M: NDArray[np.bool_] = chance_M >= chance
    if not kept_M.any():
        kept_M[int(chance_M.argmax())] = True
    return kept_M


def _is_replaced(fate_T: NDArray[np.float64]) -> NDArray[np.bool_]:
    replaced_T: NDArray[np.bool_] = (fate_T >= _HIDDEN_SHARE) & (fate_T < _HIDDEN_SHARE + _REPLACED_SHARE)
    return replaced_T


def _draw_lost(random: np.random.Generator, lengths_M: list[int], chance: float) -> list[int]:
    """The modalities that a clip loses as a whole, with `chance`: one or more of those it has, but never all.

    Every such choice is equally likely, so that each modality is sometimes all there is: words alone must then
    tell how voice and face are, which they would leave to the face if it were there.
    """
    present = [modality for modality, length in enumerate(lengths_M) if length > 0]
    lost, choice = random.random() < chance, random.random()
    num_choices = 2 ** len(present) - 2
    if not lost or num_choices <= 0:
        return []
    bits = 1 + int(choice * num_choices)
    return [modality for place, modality in enumerate(present) if bits >> place & 1]


def _draw_apart(random: np.random.Generator, lengths_M: list[int], _chance: float) -> list[int]:
    """The modalities to hide so that the rest can be matched with them: the words first, where there are any."""
    choice = int(random.random() * 3)
    audio, video, text = (length > 0 for length in lengths_M)
    if not (audio and video):
        return [2] if text and (audio or video) else []
    if text:
        return [[2], [0, 2], [1, 2]][choice]
    return [choice % 2]


def _draw_block(random: np.random.Generator, num_steps: int, share: float) -> tuple[int, int]:
    size = int(random.random() * share * num_steps)
    start = int(random.random() * (num_steps - size + 1))
    return start, start + size
