"""Small clips in memory for the systems of two modalities: audio and video at one rate, or a waveform and words."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from components import models
from components.features import ClipFeatures

Value = TypeVar("Value")

AUDIO_FEATURES, VIDEO_FEATURES, WORDS = 6, 4, 40

# The architecture of wav2vec2-base and of bert-base, small.
SMALL_SPEECH: dict[str, Any] = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
}
SMALL_WORDS: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def there(value: Value | None) -> Value:
    """A part of a system that this test knows to be built."""
    assert value is not None
    return value


class ClipsInMemory:
    """A clip source of given features and labels."""

    def __init__(self, clips: list[ClipFeatures], labels_NC: NDArray[np.float32]) -> None:
        self.clips, self.labels_NC = clips, labels_NC
        self.clip_ids = [f"clip{number:03d}" for number in range(len(clips))]
        self.speaker_ids = [f"speaker{number % 4}" for number in range(len(clips))]
        self.num_steps_N3: NDArray[np.int64] = np.array(
            [[len(clip.audio_TF), len(clip.video_TF), len(clip.word_ids_T)] for clip in clips], dtype=np.int64
        )

    def __len__(self) -> int:
        return len(self.clips)

    def features(self, index: int) -> ClipFeatures:
        return self.clips[index]


def paired_clips(num_clips: int = 24, *, seed: int = 0) -> ClipsInMemory:
    """Audio and video of equal length that move together, in one of two ways: the class."""
    random = np.random.default_rng(seed)
    classes_N = random.integers(0, 2, num_clips)
    clips = []
    for label in classes_N:
        num_steps = int(random.integers(3, 30))
        course_T1 = np.sin(np.arange(num_steps)[:, None] * (0.4 + label))
        audio_TF = course_T1 + 0.1 * random.normal(size=(num_steps, AUDIO_FEATURES))
        video_TF = -course_T1 + 0.1 * random.normal(size=(num_steps, VIDEO_FEATURES))
        clips.append(ClipFeatures(audio_TF.astype(np.float16), video_TF.astype(np.float16), np.zeros(0, np.int32)))
    return ClipsInMemory(clips, np.eye(2, dtype=np.float32)[classes_N])


def waves_and_words(num_clips: int = 8, *, seed: int = 0) -> ClipsInMemory:
    """Tones of two pitches, and a word that goes with each: the class."""
    random = np.random.default_rng(seed)
    classes_N = np.arange(num_clips) % 2
    clips = []
    for label in classes_N:
        num_samples, num_words = int(random.integers(200, 700)), int(random.integers(2, 9))
        wave_S = np.sin(np.arange(num_samples) * (0.2 + 0.4 * label)) + 0.1 * random.normal(size=num_samples)
        word_ids_T = random.integers(5, WORDS, num_words).astype(np.int32)
        word_ids_T[1] = 3 + label
        clips.append(ClipFeatures(wave_S[:, None].astype(np.float16), np.zeros((0, 1), np.float16), word_ids_T))
    return ClipsInMemory(clips, np.eye(2, dtype=np.float32)[classes_N])


def audiovisual_model(**options: Any) -> PreTrainedModel:
    """A small audiovisual system for `paired_clips`."""
    sizes = {"audio_features": AUDIO_FEATURES, "video_features": VIDEO_FEATURES, "num_classes": 2}
    return models.build("audiovisual", **sizes, width=16, num_heads=2, **options)


def speech_text_model(**options: Any) -> PreTrainedModel:
    """A small system of speech and text for `waves_and_words`."""
    architectures = {"audio_architecture": SMALL_SPEECH, "text_architecture": SMALL_WORDS, "vocabulary_size": WORDS}
    sizes = {"audio_features": 1, "num_classes": 2, "width": 16, "num_heads": 2}
    return models.build("speech_text", **{**architectures, **sizes, **options})
