"""The linear part of a system: how a clip's frames lie and move, which words there are, and what the two share.

What a ridge regression on clip statistics knows, inside a system that is trained by gradients: on a few hundred
clips little beats it, and on more it does no harm. Its weights are solved (`components.linear_part`), not trained. What
sound and picture have in common with the words needs no labels to be found: pre-training finds it
(`SummaryHead.learn_shared`).

Shape suffixes: B batch, T steps, F features of a step, S entries of a summary of frames, U words of the vocabulary, E
entries of both, K directions that frames and words share, I inputs of the scores, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.layers import dynamics

# Added to the variance of each standardised entry, which is 1: a clip has few words, and most of what frames and words
# vary in, such as who speaks, they do not share.
_SHARED_RIDGE: Final = 4.5
# In deviations of the training clips: what lies further out, such as a dead microphone, counts as lying there, for what
# is linear in it would be sure of something that it has never seen.
_FURTHEST: Final = 4.0
# Below it a direction varies by rounding alone, and stays nought.
_LEAST_DEVIATION: Final = 1e-6


@dataclass(frozen=True)
class MaskedFrames:
    """Normalised frames of one modality, and which of their steps are there to be seen."""

    x_BTF: Tensor
    seen_BT: Tensor

    def windows(self, num_steps: int, num_windows: int) -> MaskedFrames:
        """The frames cut into (B * `num_windows`) clips of `num_steps`, in order; behind the end nothing is seen."""
        needed = num_steps * num_windows - self.x_BTF.shape[1]
        x_BTF = F.pad(self.x_BTF, (0, 0, 0, needed))
        seen_BT = F.pad(self.seen_BT, (0, needed))
        return MaskedFrames(x_BTF.reshape(-1, num_steps, x_BTF.shape[2]), seen_BT.reshape(-1, num_steps))


@dataclass(frozen=True)
class Summarised:
    """How the frames of one modality are summarised.

    Attributes:
        width: features of a step.
        frames_per_step: frames of which a step consists, one behind the other: what moves within a step counts too.
        scales: in frames; see `dynamics`.
    """

    width: int
    frames_per_step: int
    scales: tuple[int, ...]

    @property
    def num_entries(self) -> int:
        """Numbers that a clip is summarised in."""
        return (1 + 2 * len(self.scales)) * (self.width // self.frames_per_step)

    def summary(self, steps: MaskedFrames) -> Tensor:
        """(B, S) dynamics of the frames."""
        batch, num_steps, _ = steps.x_BTF.shape
        x_BTF = steps.x_BTF.reshape(batch, num_steps * self.frames_per_step, self.width // self.frames_per_step)
        return dynamics(x_BTF, steps.seen_BT.repeat_interleave(self.frames_per_step, dim=1), self.scales)


class SummaryHead(nn.Module):
    """Scores of the classes, linear in the standardised dynamics of audio and video and in how often each word is said.

    Beside them in up to `num_shared` directions each of frames and of words; nought until `learn_shared` finds them.
    The scores are nought until their weights are set.
    """

    mean_E: Tensor
    deviation_E: Tensor
    shared_mean_E: Tensor
    frames_to_shared_SK: Tensor
    words_to_shared_UK: Tensor
    weight_IC: Tensor
    bias_C: Tensor

    def __init__(self, modalities: Sequence[Summarised], num_words: int, num_classes: int, *, num_shared: int) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.num_words = num_words
        self._num_frames = num_frames = sum(each.num_entries for each in modalities)
        num_shared = min(num_shared, num_frames, num_words)
        self.register_buffer("mean_E", torch.zeros(num_frames + num_words))
        self.register_buffer("deviation_E", torch.ones(num_frames + num_words))
        self.register_buffer("shared_mean_E", torch.zeros(num_frames + num_words))
        self.register_buffer("frames_to_shared_SK", torch.zeros(num_frames, num_shared))
        self.register_buffer("words_to_shared_UK", torch.zeros(num_words, num_shared))
        self.register_buffer("weight_IC", torch.zeros(num_frames + num_words + 2 * num_shared, num_classes))
        self.register_buffer("bias_C", torch.zeros(num_classes))

    @property
    def bands(self) -> tuple[int, ...]:
        """Numbers of inputs of each kind: a modality's frames, the words, what is shared in frames and in words."""
        num_shared = self.frames_to_shared_SK.shape[1]
        return (*(each.num_entries for each in self.modalities), self.num_words, num_shared, num_shared)

    def forward(self, frames: Sequence[MaskedFrames], words_BU: Tensor) -> Tensor:
        """(B, C) scores; what a clip does not have, or nobody sees of it, adds nothing.

        Args:
            words_BU: see `word_shares`.
        """
        return self.scores(*self.entries(frames, words_BU))

    def scores(self, entries_BE: Tensor, there_BE: Tensor) -> Tensor:
        """(B, C) scores, from what `entries` gives; an entry that is not there adds nothing."""
        return self._standard(entries_BE, there_BE) @ self.weight_IC + self.bias_C

    def inputs(self, frames: Sequence[MaskedFrames], words_BU: Tensor) -> Tensor:
        """(B, I) what the scores are linear in, band by band; 0 for what a clip does not have."""
        return self._standard(*self.entries(frames, words_BU))

    def _standard(self, entries_BE: Tensor, there_BE: Tensor) -> Tensor:
        reach_E = _FURTHEST * self.deviation_E
        is_of_frames_E = torch.arange(reach_E.shape[0], device=reach_E.device) < self._num_frames
        reach_E = torch.where(is_of_frames_E, reach_E, torch.inf)
        entries_BE = torch.clamp(entries_BE, self.mean_E - reach_E, self.mean_E + reach_E)
        centred_BE = torch.where(there_BE, entries_BE - self.shared_mean_E, 0.0)
        standard_BE = torch.where(there_BE, (entries_BE - self.mean_E) / self.deviation_E, 0.0)
        shared_BK = centred_BE[:, : self._num_frames] @ self.frames_to_shared_SK
        said_BK = centred_BE[:, self._num_frames :] @ self.words_to_shared_UK
        return torch.cat([standard_BE, shared_BK, said_BK], dim=1)

    def word_shares(self, word_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, U) how much of what is said each word is; nought for a clip without words."""
        known_BT = mask_BT & (word_ids_BT < self.num_words)
        weight_BT = known_BT / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        shares_BU = torch.zeros(word_ids_BT.shape[0], self.num_words, device=word_ids_BT.device)
        return shares_BU.scatter_add_(1, torch.where(known_BT, word_ids_BT, 0), weight_BT)

    def learn(self, batches: Iterable[tuple[Sequence[MaskedFrames], Tensor]]) -> None:
        """Store the mean and deviation of each entry over the clips that have its modality.

        Of a word the root of its deviation: at deviation 1 the words that a single clip says would weigh most.
        """
        mean_E, deviation_E = self._moments(batches)
        deviation_E[self._num_frames :].sqrt_()
        self.mean_E.copy_(mean_E)
        self.deviation_E.copy_(deviation_E)

    def learn_shared(self, batches: Callable[[], Iterable[tuple[Sequence[MaskedFrames], Tensor]]]) -> None:
        """Find the directions in which frames and words vary together: canonical correlations (Hotelling 1936).

        Regularised as in ridge regression (Vinod 1976), and each weighed by its correlation; the values of all of them
        have a mean variance of 1. Of clips that have both; with fewer than two, or where all say the same, there is
        nothing to find.

        Args:
            batches: gives the clips, anew at each call; they are gone through twice.
        """
        mean_E, deviation_E = self._moments(batches())
        second_EE = torch.zeros(len(mean_E), len(mean_E), dtype=torch.float64, device=mean_E.device)
        num_clips = 0
        for frames, words_BU in batches():
            entries_BE, there_BE = self.entries(frames, words_BU)
            standard_BE = torch.where(there_BE, (entries_BE - mean_E) / deviation_E, 0.0).double()
            has_both_B = there_BE[:, : self._num_frames].any(dim=1) & there_BE[:, self._num_frames :].any(dim=1)
            standard_BE = standard_BE[has_both_B]
            second_EE += standard_BE.T @ standard_BE
            num_clips += len(standard_BE)
        if num_clips < 2:
            return
        frames_SK, words_UK = _canonical_directions(
            second_EE / num_clips, self._num_frames, self.frames_to_shared_SK.shape[1]
        )
        self.shared_mean_E.copy_(mean_E)
        self.frames_to_shared_SK.copy_(frames_SK / deviation_E[: self._num_frames, None])
        self.words_to_shared_UK.copy_(words_UK / deviation_E[self._num_frames :, None])

    def _moments(self, batches: Iterable[tuple[Sequence[MaskedFrames], Tensor]]) -> tuple[Tensor, Tensor]:
        """(E,) mean and deviation of each entry over the clips that have it; an entry that never changes gets 1."""
        sums_3E = torch.zeros(3, len(self.mean_E), dtype=torch.float64, device=self.mean_E.device)
        for frames, words_BU in batches:
            entries_BE, there_BE = self.entries(frames, words_BU)
            values_BE = torch.where(there_BE, entries_BE, 0.0).double()
            sums_3E += torch.stack([there_BE.sum(dim=0), values_BE.sum(dim=0), values_BE.square().sum(dim=0)])
        count_E, sum_E, square_E = sums_3E
        mean_E = sum_E / count_E.clamp(min=1)
        deviation_E = (square_E / count_E.clamp(min=1) - mean_E.square()).clamp(min=0).sqrt()
        # An entry that never changes stays 0 whatever it is divided by.
        return mean_E, torch.where(deviation_E < 1e-4, 1.0, deviation_E)

    def by_entry(self, present_BM: Tensor) -> Tensor:
        """(B, E) the modality's value in (B, M) for each entry, the words' last."""
        return torch.cat([present_BM[:, m, None].expand(-1, size) for m, size in enumerate(self.bands[:-2])], dim=1)

    def entries(self, frames: Sequence[MaskedFrames], words_BU: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E) dynamics of all modalities and shares of words, and which of them belong to what the clip has."""
        parts = [how.summary(each) for how, each in zip(self.modalities, frames, strict=True)]
        there = [
            each.seen_BT.any(dim=1, keepdim=True).expand_as(part) for each, part in zip(frames, parts, strict=True)
        ]
        there.append(words_BU.any(dim=1, keepdim=True).expand_as(words_BU))
        return torch.cat([*parts, words_BU], dim=1), torch.cat(there, dim=1)


def _canonical_directions(second_EE: Tensor, num_frames: int, num_directions: int) -> tuple[Tensor, Tensor]:
    """(S, K) and (U, K) directions, from the second moments of standardised entries, those of frames first."""
    whitened = []
    for block in (second_EE[:num_frames, :num_frames], second_EE[num_frames:, num_frames:]):
        values_E, vectors_EE = torch.linalg.eigh(block)
        whitened.append(vectors_EE * (values_E + _SHARED_RIDGE).rsqrt() @ vectors_EE.T)
    frames_SS, words_UU = whitened
    left_SK, correlation_K, right_KU = torch.linalg.svd(
        frames_SS @ second_EE[:num_frames, num_frames:] @ words_UU, full_matrices=False
    )
    found = []
    for vectors_EK, block in (
        (frames_SS @ left_SK[:, :num_directions], second_EE[:num_frames, :num_frames]),
        (words_UU @ right_KU[:num_directions].T, second_EE[num_frames:, num_frames:]),
    ):
        directions_EK = vectors_EK * correlation_K[:num_directions]
        variance_K = torch.einsum("ek,ef,fk->k", directions_EK, block, directions_EK)
        found.append(directions_EK / variance_K.mean().sqrt().clamp(min=_LEAST_DEVIATION))
    return found[0], found[1]
