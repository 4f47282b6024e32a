"""Clips of drawn speakers as a day of requests would leave them: real recordings, through the real features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from components import drift, media, params
from components.datasets import synthetic
from components.datasets.synthetic import face, voice
from components.drift import DriftReference, summary_of
from components.drift_samples import Sample
from components.features import clip_features, text
from components.media import Recording

LABELS = synthetic.LABELS
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NUM_TRAINING, NUM_HELD_OUT = 12, 6
CONFIG = params.Features()


@dataclass(frozen=True, eq=False)
class Talker:
    """One clip.

    Attributes:
        emotion: what is felt, its label.
    """

    speaker: str
    emotion: str
    words: str
    recording: Recording


def talkers(folder: Path, clips_per_speaker: int) -> list[Talker]:
    """Clips of the generated corpus, of all its speakers in turn."""
    num_speakers = NUM_TRAINING + NUM_HELD_OUT
    size = params.Synthetic(num_speakers=num_speakers, num_labelled=num_speakers * clips_per_speaker, num_unlabelled=0)
    found = []
    for plan in synthetic.plan(size):
        path = folder / str(synthetic.render(plan, folder).video_uri)
        recording = clip_features.record(audio=path, video=path, config=CONFIG)
        found.append(Talker(plan.speaker_id, plan.emotion, plan.transcript, recording))
        path.unlink()
    return found


def children(folder: Path, num_speakers: int, clips_per_speaker: int) -> list[Talker]:
    """Clips of smaller people than any of the corpus: higher voices, shorter vocal tracts, rounder faces."""
    generator, found = np.random.default_rng(5), []
    for number in range(num_speakers):
        drawn, looks = voice.draw_voice(generator), face.draw_face(generator)
        high = replace(drawn, pitch_hz=float(generator.uniform(290, 360)), tract=float(generator.uniform(1.25, 1.35)))
        small = replace(looks, length=looks.length * 0.85, eye_size=looks.eye_size * 1.2, scale=looks.scale * 0.85)
        for _ in range(clips_per_speaker):
            emotion = LABELS[int(generator.integers(len(LABELS)))]
            said = voice.speak(high, emotion, 6, generator)
            num_frames = round(len(said.waveform_T) / voice.SAMPLE_RATE_HZ * face.FRAME_RATE_HZ)
            places = np.linspace(0, len(said.loudness_T) - 1, num_frames).astype(int)
            frames_THW3 = face.film(small, emotion, said.loudness_T[places], generator)
            path = folder / "child.mp4"
            media.write_mp4(
                path,
                frames_THW3,
                frame_rate_hz=face.FRAME_RATE_HZ,
                waveform_T=said.waveform_T,
                sample_rate_hz=voice.SAMPLE_RATE_HZ,
            )
            recording = clip_features.record(audio=path, video=path, config=CONFIG)
            found.append(Talker(f"child-{number}", emotion, "we saw the door again", recording))
    return found


def noisy(clip: Talker, generator: np.random.Generator) -> Talker:
    """The clip with noise 15 dB below its voice."""
    return replace(clip, recording=replace(clip.recording, waveform_T=_with_noise(clip, generator)))


def _with_noise(clip: Talker, generator: np.random.Generator) -> NDArray[np.float32]:
    waveform_T = clip.recording.waveform_T
    assert waveform_T is not None
    level = float(np.sqrt(np.square(waveform_T).mean())) * 10 ** (-15 / 20)
    return (waveform_T + level * generator.standard_normal(len(waveform_T))).astype(np.float32)


def unheard(clip: Talker) -> Talker:
    """The clip as a microphone records it that is off."""
    waveform_T = clip.recording.waveform_T
    assert waveform_T is not None
    return replace(clip, recording=replace(clip.recording, waveform_T=np.zeros_like(waveform_T)))


def frozen(clip: Talker) -> Talker:
    """The clip as a camera records it that stands still."""
    frames_THW = clip.recording.frames_THW
    assert frames_THW is not None
    return replace(clip, recording=replace(clip.recording, frames_THW=np.repeat(frames_THW[:1], len(frames_THW), 0)))


class Observer:
    """What a bundle and its endpoint make of clips: a reference of some of them, samples of others.

    The model is a logistic regression on the clips' own numbers, which makes mistakes as a model does.
    """

    def __init__(self, training: Sequence[Talker], validation: Sequence[Talker]) -> None:
        self.tokenizer: Tokenizer = text.fit_tokenizer([clip.words for clip in training], CONFIG.text)
        known = [clip_features.compute(each.recording, each.words, CONFIG, self.tokenizer)[0] for each in training]
        speakers = [clip.speaker for clip in training]
        inputs = np.stack([self._inputs(summary_of(each)) for each in known])
        self.model = LogisticRegression(max_iter=300).fit(inputs, [clip.emotion for clip in training])
        samples = [self.sample(each) for each in validation]
        answers = [np.array(list(each.answers.values()), np.float32) for each in samples]
        self.reference: DriftReference = drift.describe(
            known,
            np.mean(answers, axis=0),
            speakers=speakers,
            answers=drift.spoken_rows(answers, [clip.speaker for clip in validation]),
        )

    def sample(self, clip: Talker) -> Sample:
        """What the endpoint keeps of a request with this clip."""
        features, warnings = clip_features.compute(clip.recording, clip.words, CONFIG, self.tokenizer)
        summary = summary_of(features)
        [shares] = self.model.predict_proba(self._inputs(summary)[None])
        named = dict(zip(self.model.classes_.tolist(), shares.tolist(), strict=True))
        return Sample(NOW, 1, "v1", summary, warnings, {label: named[label] for label in LABELS})

    @staticmethod
    def _inputs(summary: drift.Summary) -> NDArray[np.float32]:
        return np.concatenate([summary.rows.get("audio", np.zeros(160, np.float32)) / 4])
