"""From clips to padded batches: an epoch's plan, its split among workers, and the tensors of one step.

The plan of an epoch is a pure function of the seed and the epoch's number, so that a pair of numbers, the epoch
and the batch within it, is the whole position in the data: a resumed run needs nothing else.

Shape suffixes: B batch, T steps, F features of a step, C classes, N clips of a source, M modalities (audio,
video, text).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.clip import MODALITIES, Modality
from components.features import ClipFeatures
from components.task import Task

# Clips of so many batches are sorted by length together: the more, the less padding, and the less do batches differ by
# epoch. A quarter of the epoch, and not fewer or more than these.
_BATCHES_PER_WINDOW = (16, 64)
# Batches that are read before they are asked for.
_READ_AHEAD = 2


class ClipSource(Protocol):
    """Clips with features, by position. Implemented by `components.shards` over files.

    Attributes:
        clip_ids, speaker_ids: one a clip.
        labels_NC: share, intensity or value of each label, as the task has it; NaN where it is not known, no columns at
            all where no clip has any.
        num_steps_N3: steps of audio, video and text; 0 for a modality that the clip does not have.
    """

    @property
    def clip_ids(self) -> Sequence[str]: ...

    @property
    def speaker_ids(self) -> Sequence[str]: ...

    @property
    def labels_NC(self) -> NDArray[np.float32]: ...

    @property
    def num_steps_N3(self) -> NDArray[np.integer[Any]]: ...

    def __len__(self) -> int: ...

    def features(self, index: int) -> ClipFeatures: ...


@dataclass(frozen=True)
class Batch:
    """The tensors of one step. Steps beyond a clip's length are zero; a length of 0 is a missing modality.

    Attributes:
        word_ids_BT: tokenizer ids, 0 beyond the length.
        labels_BC: share, intensity or value of each label; NaN where it is not known.
        index_B: position of each clip in its source.
    """

    audio_BTF: Tensor
    audio_lengths_B: Tensor
    video_BTF: Tensor
    video_lengths_B: Tensor
    word_ids_BT: Tensor
    word_lengths_B: Tensor
    labels_BC: Tensor
    index_B: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def pinned(self) -> Batch:
        """The batch in memory that the system does not move."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))

    def inputs(self) -> dict[str, Tensor]:
        """The six arguments of a model's `forward`."""
        names = [field.name for field in fields(self)[:6]]
        return {name: getattr(self, name) for name in names}

    def present_BM(self) -> Tensor:
        """(B, M) bool: the modalities (audio, video, text) that each clip has."""
        return torch.stack([self.audio_lengths_B, self.video_lengths_B, self.word_lengths_B], dim=1) > 0

    def keep(self, present_BM: Tensor) -> Batch:
        """The batch without the modalities whose entry in the bool tensor (audio, video, text) is false."""
        lengths = (self.audio_lengths_B, self.video_lengths_B, self.word_lengths_B)
        audio_B, video_B, word_B = (length_B * present_BM[:, m] for m, length_B in enumerate(lengths))
        return replace(self, audio_lengths_B=audio_B, video_lengths_B=video_B, word_lengths_B=word_B)

    def without(self, drop: Collection[Modality]) -> Batch:
        """The batch with some modalities missing from every clip."""
        present_M = torch.tensor([modality not in drop for modality in MODALITIES], device=self.index_B.device)
        return self.keep(present_M.expand(len(self.index_B), -1))


@dataclass(frozen=True)
class FrameStatistics:
    """Mean and standard deviation of each feature over all frames of a source, as float32 tensors."""

    audio_mean_F: Tensor
    audio_deviation_F: Tensor
    video_mean_F: Tensor
    video_deviation_F: Tensor


class Subset:
    """Some clips of a source, as a source: position i is the clip that `indices` names at i."""

    def __init__(self, source: ClipSource, indices: NDArray[np.int64]) -> None:
        self.source, self.indices = source, indices
        self.clip_ids: Sequence[str] = [source.clip_ids[index] for index in indices]
        self.speaker_ids: Sequence[str] = [source.speaker_ids[index] for index in indices]
        self.labels_NC: NDArray[np.float32] = source.labels_NC[indices]
        self.num_steps_N3: NDArray[np.integer[Any]] = source.num_steps_N3[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def features(self, index: int) -> ClipFeatures:
        return self.source.features(int(self.indices[index]))


def draw_by_class(
    labels_NC: NDArray[np.float32], label_share: float, *, seed: int, task: Task | None = None
) -> NDArray[np.int64]:
    """Positions of a share of the labelled clips, drawn within each class (one clip of each at least), in order.

    Where a clip has several labels, its class is the rarest of them; where it has values, the quarter in which their
    mean lies.
    """
    kind = task.kind if task else "classes"
    finite_NC = np.isfinite(labels_NC)
    labelled_N = np.flatnonzero(finite_NC.all(axis=1) if kind == "classes" else finite_NC.any(axis=1))
    if kind == "classes":
        classes_N = labels_NC[labelled_N].argmax(axis=1)
    elif kind == "multilabel":
        present_NC = labels_NC[labelled_N] > (task.threshold if task else 0.0)
        rarity_NC = np.where(present_NC, present_NC.sum(axis=0), len(labelled_N) + 1)
        classes_N = np.where(present_NC.any(axis=1), rarity_NC.argmin(axis=1), labels_NC.shape[1])
    else:
        means_N = np.nanmean(labels_NC[labelled_N], axis=1) if len(labelled_N) else np.zeros(0)
        classes_N = np.searchsorted(np.quantile(means_N, (0.25, 0.5, 0.75)), means_N) if len(labelled_N) else means_N
    random = np.random.Generator(np.random.Philox(seed))
    drawn: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    for number in np.unique(classes_N):
        clips = labelled_N[classes_N == number]
        drawn.append(random.permutation(clips)[: max(1, round(label_share * len(clips)))])
    return np.sort(np.concatenate(drawn))


def frame_statistics(source: ClipSource) -> FrameStatistics:
    """Read all frames of a source once. A feature that never changes gets deviation 1: it stays what it is, 0."""
    sums = [np.zeros((2, width)) for width in (len(source.features(0).audio_TF.T), len(source.features(0).video_TF.T))]
    counts = [0, 0]
    for index in range(len(source)):
        clip = source.features(index)
        for modality, frames_TF in enumerate((clip.audio_TF, clip.video_TF)):
            values_TF = frames_TF.astype(np.float64)
            sums[modality] += [values_TF.sum(axis=0), np.square(values_TF).sum(axis=0)]
            counts[modality] += len(values_TF)
    found: list[Tensor] = []
    for (total_F, square_F), count in zip(sums, counts, strict=True):
        mean_F = total_F / max(count, 1)
        deviation_F = np.sqrt((square_F / max(count, 1) - mean_F**2).clip(min=0))
        deviation_F[deviation_F < 1e-4] = 1.0
        found += [torch.from_numpy(mean_F).float(), torch.from_numpy(deviation_F).float()]
    return FrameStatistics(*found)


def collate(source: ClipSource, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
    """Read the clips at `indices` and pad them to the longest of each modality (at least one step)."""
    clips = [source.features(int(index)) for index in indices]
    audio_BTF, audio_lengths_B = _pad_frames([clip.audio_TF for clip in clips])
    video_BTF, video_lengths_B = _pad_frames([clip.video_TF for clip in clips])
    word_lengths_B = np.array([len(clip.word_ids_T) for clip in clips], dtype=np.int64)
    word_ids_BT = np.zeros((len(clips), max(1, word_lengths_B.max())), dtype=np.int64)
    for row, clip in enumerate(clips):
        word_ids_BT[row, : len(clip.word_ids_T)] = clip.word_ids_T
    index_B = np.asarray(indices, dtype=np.int64)
    return Batch(
        audio_BTF=torch.from_numpy(audio_BTF),
        audio_lengths_B=torch.from_numpy(audio_lengths_B),
        video_BTF=torch.from_numpy(video_BTF),
        video_lengths_B=torch.from_numpy(video_lengths_B),
        word_ids_BT=torch.from_numpy(word_ids_BT),
        word_lengths_B=torch.from_numpy(word_lengths_B),
        labels_BC=torch.from_numpy(np.asarray(source.labels_NC, dtype=np.float32)[index_B]),
        index_B=torch.from_numpy(index_B),
    )


def in_advance(source: ClipSource, parts: Iterable[NDArray[np.int64]], *, pinned: bool = False) -> Iterator[Batch]:
    """The batches of these clips in their order, each read while the one before is worked on.

    Args:
        pinned: put them into memory from which a GPU fetches them by itself.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ready: deque[Future[Batch]] = deque()
        try:
            for part in parts:
                ready.append(thread.submit(_read, source, part, pinned))
                if len(ready) > _READ_AHEAD:
                    yield ready.popleft().result()
            while ready:
                yield ready.popleft().result()
        finally:
            for batch in ready:
                batch.cancel()


def in_order(source: ClipSource, *, batch_size: int = 64) -> Iterator[Batch]:
    """All clips of a source once, in its order."""
    for start in range(0, len(source), batch_size):
        yield collate(source, range(start, min(start + batch_size, len(source))))


def padding_waste(steps_N: NDArray[np.int64], plan: Sequence[NDArray[np.int64]]) -> float:
    """The share of the steps of a plan's batches that are padding, of clips with so many steps."""
    padded = sum(int(steps_N[batch_N].max()) * len(batch_N) for batch_N in plan)
    return 1 - sum(int(steps_N[batch_N].sum()) for batch_N in plan) / max(padded, 1)


def plan_epoch(costs_N: NDArray[np.int64], *, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The global batches of one epoch: every clip once, clips of like cost together, in a seeded order.

    The clips are spread evenly, so that no batch is much smaller than `batch_size` (none is larger). Workers
    play no part in it: `share` divides a batch among them.

    Raises:
        ValueError: there are no clips.
    """
    num_clips = len(costs_N)
    if num_clips == 0:
        raise ValueError("there are no clips to train on: look at build/clips/rejected.parquet for what was refused")
    random = np.random.Generator(np.random.Philox([seed, epoch]))
    order_N = random.permutation(num_clips)
    window = batch_size * int(np.clip(num_clips // (4 * batch_size), *_BATCHES_PER_WINDOW))
    for start in range(0, num_clips, window):
        clips = order_N[start : start + window]
        clips[:] = clips[np.argsort(costs_N[clips], kind="stable")]
    batches = np.array_split(order_N, -(-num_clips // batch_size))
    return [batches[position] for position in random.permutation(len(batches))]


def share(batch_N: NDArray[np.int64], *, rank: int, num_workers: int) -> NDArray[np.int64]:
    """The part of a global batch that one worker takes: sizes differ by one at most, and so do the costs' ranks."""
    assert len(batch_N) >= num_workers
    return batch_N[rank::num_workers]


def costs(source: ClipSource) -> NDArray[np.int64]:
    """What a clip costs a step, up to a factor: its longest modality, for video and words have fewer steps."""
    costs_N: NDArray[np.int64] = np.max(source.num_steps_N3, axis=1).astype(np.int64)
    return costs_N


def _read(source: ClipSource, part: NDArray[np.int64], pinned: bool) -> Batch:
    batch = collate(source, part)
    return batch.pinned() if pinned else batch


def _pad_frames(sequences: Sequence[NDArray[np.float16]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    lengths_B = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    padded_BTF = np.zeros((len(sequences), max(1, lengths_B.max()), sequences[0].shape[1]), dtype=np.float32)
    for row, sequence_TF in enumerate(sequences):
        padded_BTF[row, : len(sequence_TF)] = sequence_TF
    return padded_BTF, lengths_B
