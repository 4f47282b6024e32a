"""All features of one clip, by the same two calls in extraction and in serving: `record`, then `compute`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from components.features import ClipFeatures, speech
from components.features.audio import audio_width, describe_sound
from components.features.precomputed import Given
from components.features.text import encode
from components.features.video import describe, video_width
from components.media import Limits, Recording, decode
from components.params import Features

FeatureWarning = Literal["no-face", "no-features", "silence", "transcribed", "truncated"]


@dataclass(frozen=True, eq=False)
class Frames:
    """The audio and video of one clip as features, and what should be told about them."""

    audio_TF: NDArray[np.float16]
    video_TF: NDArray[np.float16]
    warnings: tuple[FeatureWarning, ...]


class Decode(Protocol):
    """A way to decode a clip's files: `record` here, or one in a process apart, which may go on to their frames."""

    def __call__(
        self, *, audio: Path | bytes | None, video: Path | bytes | None, config: Features, limits: Limits | None
    ) -> Recording | Frames: ...


# Root mean square where full scale is 1: -60 dB, below the noise of a quiet room at an open microphone.
SILENCE_LEVEL: Final = 1e-3

# Decoded beyond what is kept, so that a cut is noticed.
_MARGIN_S: Final = 1.0


def record(
    *,
    audio: Path | bytes | None,
    video: Path | bytes | None,
    config: Features,
    start_s: float = 0.0,
    end_s: float | None = None,
    limits: Limits | None = None,
) -> Recording:
    """Decode what the features need of a clip's files; equal sources are one file and are decoded once.

    What `config.modalities` leaves out, and what is precomputed, is not decoded, but for a sound whose words are to
    be recognized.

    No more is decoded than `compute` uses and a second, however long the file. Without any source the recording
    is empty, as for a clip of words alone.

    Raises:
        MediaError: a file is broken, or holds nothing that was asked of it.
    """
    audio = audio if _describes_sound(config) or _transcribes(config) else None
    video = video if "video" in config.modalities and config.video.precomputed is None else None
    last_s = start_s + config.max_duration_s + _MARGIN_S

    def read(source: Path | bytes, *streams: Literal["audio", "video"]) -> Recording:
        return decode(
            source,
            sample_rate_hz=config.audio.sample_rate_hz,
            frame_rate_hz=config.video.frame_rate_hz,
            start_s=start_s,
            end_s=last_s if end_s is None else min(end_s, last_s),
            limits=limits,
            want=streams,
        )

    if audio is not None and video is not None and audio == video:
        return read(audio, "audio", "video")
    sound = None if audio is None else read(audio, "audio")
    picture = None if video is None else read(video, "video")
    return Recording(
        waveform_T=sound.waveform_T if sound else None,
        frames_THW=picture.frames_THW if picture else None,
        frame_times_s=picture.frame_times_s if picture else np.zeros(0),
        duration_s=max((part.duration_s for part in (sound, picture) if part), default=0.0),
    )


def compute(
    recording: Recording, transcript: str | None, config: Features, tokenizer: Tokenizer, *, given: Given | None = None
) -> tuple[ClipFeatures, tuple[FeatureWarning, ...]]:
    """The features of one clip, and what should be told about it.

    What the recording lacks has no steps; so has the picture when no face is in it ("no-face"), and the sound when it
    is silent from end to end ("silence"): nobody is heard, which a model that goes by loudness takes for a mood. What
    lies behind `max_duration_s`, and words behind `max_words`, is left out and told ("truncated"). What is precomputed
    is taken from `given`; where nothing is given, as in serving, the modality is missing and told ("no-features").
    Where the settings say so, the words of a sound without a transcript are recognized, and told ("transcribed").
    """
    waveform_T = heard(recording, config)
    if transcript is None and waveform_T is not None and _transcribes(config):
        assert config.text.transcribe is not None
        [words] = speech.transcribe([waveform_T], config.text.transcribe, sample_rate_hz=config.audio.sample_rate_hz)
        features, warnings = with_words(compute_frames(recording, config), words, config, tokenizer, given=given)
        return features, (*warnings, "transcribed")
    return with_words(compute_frames(recording, config), transcript, config, tokenizer, given=given)


def heard(recording: Recording, config: Features) -> NDArray[np.float32] | None:
    """The part of a recording's sound that is looked at; None without sound."""
    if recording.waveform_T is None:
        return None
    return recording.waveform_T[: round(config.max_duration_s * config.audio.sample_rate_hz)]


def is_silent(waveform_T: NDArray[np.float32]) -> bool:
    """Whether nothing is heard from end to end, as of a microphone that is switched off."""
    return not len(waveform_T) or bool(np.sqrt(np.square(waveform_T).mean()) < SILENCE_LEVEL)


def compute_frames(recording: Recording, config: Features) -> Frames:
    """What of a clip's features follows from its files alone."""
    warnings: list[FeatureWarning] = []
    audio_TF = np.zeros((0, audio_width(config.audio)), np.float16)
    waveform_T = heard(recording, config)
    if waveform_T is not None and _describes_sound(config):
        if is_silent(waveform_T):
            warnings.append("silence")
        else:
            audio_TF = describe_sound(waveform_T, config.audio)
    video_TF = np.zeros((0, video_width(config.video)), np.float16)
    if recording.frames_THW is not None:
        num_kept = int(np.searchsorted(recording.frame_times_s, config.max_duration_s))
        video_TF, _ = describe(recording.frames_THW[:num_kept], recording.frame_times_s[:num_kept], config.video)
        if not len(video_TF):
            warnings.append("no-face")
    if recording.duration_s > config.max_duration_s:
        warnings.append("truncated")
    return Frames(audio_TF, video_TF, tuple(warnings))


def with_words(
    frames: Frames, transcript: str | None, config: Features, tokenizer: Tokenizer, *, given: Given | None = None
) -> tuple[ClipFeatures, tuple[FeatureWarning, ...]]:
    """The frames of a clip with the numbers of its words and what is precomputed, and what should be told about it."""
    audio_TF, video_TF, warnings = frames.audio_TF, frames.video_TF, list(frames.warnings)
    if given is not None and given.audio_TF is not None:
        audio_TF = given.audio_TF
    if given is not None and given.video_TF is not None:
        video_TF = given.video_TF
    sources = (("audio", config.audio.precomputed, audio_TF), ("video", config.video.precomputed, video_TF))
    if any(name in config.modalities and made is not None and not len(steps_TF) for name, made, steps_TF in sources):
        warnings.append("no-features")
    words = transcript if "text" in config.modalities else None
    word_ids_T, is_cut = encode(tokenizer, words, config.text)
    if is_cut and "truncated" not in warnings:
        warnings.append("truncated")
    return ClipFeatures(audio_TF, video_TF, word_ids_T), tuple(warnings)


def needs_network(config: Features) -> bool:
    """Whether a neural network has to see or hear the recordings themselves, an encoder or a speech recognizer."""
    return "encoder" in (config.audio.kind, config.video.kind) or _transcribes(config)


def _describes_sound(config: Features) -> bool:
    return "audio" in config.modalities and config.audio.precomputed is None


def _transcribes(config: Features) -> bool:
    return "text" in config.modalities and config.text.transcribe is not None
