"""What the two trainings ask of a model: masked modelling without labels, classification with them.

An objective gives each term of its loss as a sum and a count, so that several workers, whatever part of a batch
each holds, arrive at the same mean over the global batch.

Shape suffixes: B batch, T steps, F features, V vocabulary, C classes, L terms of a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.batches import Batch
from components.masking import AugmentSettings, MaskedBatch, MaskSettings, Moment, augment_batch, mask_batch
from components.models.trimodal import TrimodalModel, TrimodalOutput

_IGNORED_WORD: Final = -100


@dataclass(frozen=True)
class Terms:
    """Terms of a loss over a part of a batch: `sums_L / counts_L`, weighted and added, is the loss."""

    sums_L: Tensor
    counts_L: Tensor


class Objective(Protocol):
    """A loss with named, weighted terms."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> tuple[float, ...]: ...

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms: ...


@dataclass(frozen=True)
class MaskedModelling:
    """Rebuild what is hidden from what is left, over three modalities (Khare et al. 2021, section 2).

    `weights` are those of the audio, video and word terms.
    """

    masks: MaskSettings = field(default_factory=MaskSettings)
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    names: tuple[str, ...] = ("audio", "video", "text")

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        system = cast(TrimodalModel, model)
        masked = mask_batch(self.masks, batch, moment, vocabulary_size=system.config.vocabulary_size)
        return _to_terms(_rebuilding_losses(system, _see(system, masked), batch, masked))


@dataclass(frozen=True)
class MatchedModelling:
    """Masked modelling without the words, and telling which words of the batch go with what is heard and seen.

    Rebuilding alone spends itself on whose voice and face it is. What a clip's words have in common with its voice
    and face, and not with those of other clips, is what is felt and not who feels it (van den Oord et al. 2018 for
    the loss). A clip without words matches sound with picture; a clip of one modality is only rebuilt. Negatives come
    from the worker's own part of a batch.

    `weights` are those of the audio, video, word and matching terms.
    """

    masks: MaskSettings
    weights: tuple[float, ...]
    names: tuple[str, ...] = ("audio", "video", "text", "match")

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        system = cast(TrimodalModel, model)
        masked = mask_batch(self.masks, batch, moment, vocabulary_size=system.config.vocabulary_size)
        output = _see(system, masked)
        had_BM, seen_BM = batch.present_BM(), masked.seen.present_BM()
        # The words alone where there are any, or else what was hidden.
        words_M = torch.tensor([False, False, True], device=had_BM.device)
        other_BM = had_BM & ~seen_BM
        other_BM = torch.where(other_BM[:, 2:], words_M, other_BM)
        other = system(**batch.keep(other_BM).inputs())
        match = matching_loss(*system.views(output, other), other_BM.any(dim=1))
        return _to_terms((*_rebuilding_losses(system, output, batch, masked), match))


@dataclass(frozen=True)
class Classification:
    """Cross-entropy with labels, hard or soft.

    `label_smoothing` is the share of a label that is spread evenly over all classes.
    """

    augment: AugmentSettings = field(default_factory=AugmentSettings)
    label_smoothing: float = 0.0
    weights: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] = ("classification",)

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        logits_BC = augmented_logits(self.augment, model, batch, moment)
        loss, count = classification_loss(logits_BC, batch.labels_BC, self.label_smoothing)
        return Terms(loss[None], count[None])


def augmented_logits(augment: AugmentSettings, model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
    """(B, C) what the model says of clips of which a part is hidden from it."""
    seen = augment_batch(augment, batch, moment)
    output = model(**seen.batch.inputs(), audio_masked_BT=seen.audio_hidden_BT, video_masked_BT=seen.video_hidden_BT)
    logits_BC: Tensor = output.logits_BC
    return logits_BC


def _see(system: TrimodalModel, masked: MaskedBatch) -> TrimodalOutput:
    output: TrimodalOutput = system(
        **masked.seen.inputs(), audio_masked_BT=masked.audio_hidden_BT, video_masked_BT=masked.video_hidden_BT
    )
    return output


def _rebuilding_losses(
    system: TrimodalModel, output: TrimodalOutput, batch: Batch, masked: MaskedBatch
) -> tuple[tuple[Tensor, Tensor], ...]:
    rebuilt = system.reconstruct(
        output,
        num_audio=batch.audio_BTF.shape[1],
        num_video=batch.video_BTF.shape[1],
        num_words=batch.word_ids_BT.shape[1],
    )
    audio_BTF, video_BTF = system.normalised_audio(batch.audio_BTF), system.normalised_video(batch.video_BTF)
    return (
        masked_frames_loss(rebuilt.audio_BTF, audio_BTF, masked.audio_asked_BT),
        masked_frames_loss(rebuilt.video_BTF, video_BTF, masked.video_asked_BT),
        masked_words_loss(rebuilt.words_BTV, batch.word_ids_BT, masked.words_asked_BT),
    )


def _to_terms(losses: Sequence[tuple[Tensor, Tensor]]) -> Terms:
    return Terms(torch.stack([loss for loss, _ in losses]), torch.stack([count for _, count in losses]))


def matching_loss(one_BD: Tensor, other_BD: Tensor, there_B: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over clips of the cross-entropy of finding a clip's other view among all, and their number.

    Both ways, and the mean of the two; `there_B` says which clips have two views, and so take part.
    """
    scores_BB = one_BD @ other_BD.T
    scores_BB = scores_BB.masked_fill(~(there_B[:, None] & there_B[None, :]), torch.finfo(scores_BB.dtype).min)
    right_B = torch.arange(len(one_BD), device=one_BD.device)
    both_B = F.cross_entropy(scores_BB, right_B, reduction="none") + F.cross_entropy(
        scores_BB.T, right_B, reduction="none"
    )
    return torch.where(there_B, both_B / 2, 0.0).sum(), there_B.sum().to(one_BD.dtype)


def masked_frames_loss(rebuilt_BTF: Tensor, actual_BTF: Tensor, asked_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the asked steps of the mean absolute error over features, and the number of those steps."""
    error_BT = (rebuilt_BTF - actual_BTF).abs().mean(dim=2)
    # Not a product with the mask: a frame that is not asked for may hold anything, also no number.
    return torch.where(asked_BT, error_BT, 0.0).sum(), asked_BT.sum().to(error_BT.dtype)


def masked_words_loss(scores_BTV: Tensor, word_ids_BT: Tensor, asked_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the asked positions of the cross-entropy of the word, and the number of those positions."""
    targets_BT = word_ids_BT.masked_fill(~asked_BT, _IGNORED_WORD)
    loss = F.cross_entropy(scores_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=_IGNORED_WORD, reduction="sum")
    return loss, asked_BT.sum().to(loss.dtype)


def classification_loss(logits_BC: Tensor, labels_BC: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Sum over clips of the cross-entropy with the (smoothed) label shares, and the number of those clips.

    A row of labels is scaled to sum 1; a clip without labels (NaN) counts nothing.
    """
    known_B = labels_BC.isfinite().all(dim=1) & (labels_BC.sum(dim=1) > 0)
    shares_BC = torch.where(known_B[:, None], labels_BC, 1.0)
    shares_BC = shares_BC / shares_BC.sum(dim=1, keepdim=True)
    weight_B = known_B.to(logits_BC.dtype)
    shares_BC = shares_BC * (1 - label_smoothing) + label_smoothing / labels_BC.shape[1]
    loss_B = -(shares_BC * logits_BC.log_softmax(dim=1)).sum(dim=1)
    return (loss_B * weight_B).sum(), weight_B.sum()
