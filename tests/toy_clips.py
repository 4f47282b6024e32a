"""Small clips in memory whose emotion can be learned in a second, and a model of their size."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from components import models
from components.features import ClipFeatures

NUM_AUDIO_FEATURES, NUM_VIDEO_FEATURES, VOCABULARY_SIZE, NUM_CLASSES = 8, 6, 20, 3


class ToyClips:
    """A clip source in memory. The class moves the mean of the audio, of the video, and one word."""

    def __init__(self, num_clips: int = 48, *, seed: int = 0, labelled: bool = True) -> None:
        random = np.random.default_rng(seed)
        classes_N = random.integers(0, NUM_CLASSES, num_clips)
        self.clip_ids = [f"clip{number:03d}" for number in range(num_clips)]
        self.speaker_ids = [f"speaker{number % 4}" for number in range(num_clips)]
        self.labels_NC: NDArray[np.float32] = np.eye(NUM_CLASSES, dtype=np.float32)[classes_N]
        if not labelled:
            self.labels_NC = np.full_like(self.labels_NC, np.nan)
        self.clips = [self._clip(random, int(label)) for label in classes_N]
        self.num_steps_N3: NDArray[np.int64] = np.array(
            [[len(clip.audio_TF), len(clip.video_TF), len(clip.word_ids_T)] for clip in self.clips], dtype=np.int64
        )

    @staticmethod
    def _clip(random: np.random.Generator, label: int) -> ClipFeatures:
        num_audio, num_words = int(random.integers(8, 24)), int(random.integers(1, 6))
        audio_TF = random.normal(size=(num_audio, NUM_AUDIO_FEATURES)) + 1.5 * (label == 1)
        video_TF = random.normal(size=(num_audio // 2, NUM_VIDEO_FEATURES)) + 1.5 * (label == 2)
        word_ids_T = random.integers(3, VOCABULARY_SIZE, num_words)
        return ClipFeatures(audio_TF.astype(np.float16), video_TF.astype(np.float16), word_ids_T.astype(np.int32))

    def __len__(self) -> int:
        return len(self.clips)

    def features(self, index: int) -> ClipFeatures:
        return self.clips[index]


class BrokenClips(ToyClips):
    """Clips of which one holds no numbers."""

    def features(self, index: int) -> ClipFeatures:
        clip = super().features(index)
        return ClipFeatures(clip.audio_TF * np.float16(np.nan), clip.video_TF, clip.word_ids_T) if index == 7 else clip


class SlowClips(ToyClips):
    """Clips that take time to read and leave their readers' process numbers in a folder."""

    def __init__(self, folder: Path, *, read_s: float, num_clips: int = 48) -> None:
        super().__init__(num_clips)
        self.folder, self.read_s = folder, read_s

    def features(self, index: int) -> ClipFeatures:
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(self.read_s)
        return super().features(index)


def toy_model(*, seed: int = 0, dropout: float = 0.1, num_layers: int = 1, summary: bool = True) -> PreTrainedModel:
    """A trimodal model for toy clips; torch is set to one thread, for on such sizes several only wait."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return models.build(
        "trimodal",
        audio_features=NUM_AUDIO_FEATURES,
        video_features=NUM_VIDEO_FEATURES,
        vocabulary_size=VOCABULARY_SIZE,
        num_classes=NUM_CLASSES,
        width=16,
        num_heads=2,
        num_layers=num_layers,
        dropout=dropout,
        summary=summary,
    )
