"""The models and clips of `affect bench train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from components import models
from components.features import ClipFeatures
from components.predictor import LoadedClips

_NUM_CLASSES: Final = 6
_OF_TRIMODAL: Final = {"audio_step_s": 0.05, "video_step_s": 0.05, "summary": False, "matching": False}


@dataclass(frozen=True)
class Sizes:
    """A model and its clips.

    Attributes:
        most_steps: of audio, video and words; clips of full length have as many.
    """

    system: str
    options: dict[str, object]
    most_steps: tuple[int, int, int]
    batch_size: int
    num_batches: int


def clips_of(sizes: Sizes, lengths: str) -> LoadedClips:
    """As many clips of random values as some batches hold."""
    random = np.random.default_rng(0)
    num_clips = sizes.batch_size * sizes.num_batches
    shares_N = np.ones(num_clips) if lengths == "full" else _shares(random, num_clips)
    audio, video, words = sizes.most_steps
    widths = (int(str(sizes.options.get("audio_features", 512))), int(str(sizes.options.get("video_features", 17))))
    clips = [
        ClipFeatures(
            random.normal(size=(_steps(audio, share), widths[0])).astype(np.float16),
            random.normal(size=(_steps(video, share), widths[1])).astype(np.float16),
            random.integers(1, 300, _steps(words, share)).astype(np.int32),
        )
        for share in shares_N
    ]
    names = [str(number) for number in range(num_clips)]
    labels_NC = np.eye(_NUM_CLASSES, dtype=np.float32)[random.integers(0, _NUM_CLASSES, num_clips)]
    return LoadedClips(clips, names, names, labels_NC)


def _steps(most: int, share: float) -> int:
    return min(most, max(1, round(most * share))) if most else 0


def _shares(random: np.random.Generator, num_clips: int) -> NDArray[np.float64]:
    """Lengths of utterances as shares of the longest that is looked at, 25 s."""
    most_s = 25.0
    shares_N: NDArray[np.float64] = np.minimum(lengths_s(random, num_clips), most_s) / most_s
    return shares_N


def lengths_s(random: np.random.Generator, num_clips: int) -> NDArray[np.float64]:
    """Log-normal lengths, of mean 7.3 s as CMU-MOSEI's and deviation 5.0 s; drawn, not the corpus's own."""
    mean_s, deviation_s = 7.3, 5.0
    variance = np.log1p((deviation_s / mean_s) ** 2)
    return random.lognormal(np.log(mean_s) - variance / 2, np.sqrt(variance), num_clips)


def model_of(sizes: Sizes) -> PreTrainedModel:
    """The model, always with the same weights."""
    torch.manual_seed(0)
    options = {**sizes.options, **(_OF_TRIMODAL if sizes.system == "trimodal" else {})}
    return models.build(sizes.system, num_classes=_NUM_CLASSES, **options)
