"""Recordings made worse, as poor microphones and cameras make them, and what a bundle answers on them.

Shape suffixes: T samples or frames, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components import scoring
from components.clip import Clip, Modality
from components.features import ClipFeatures, clip_features
from components.gates.evidence import Disturbed
from components.media import Recording, source_of
from components.predictor import LoadedClips, Predictor
from components.scoring import Answers

_NOISE_DB: Final = 20
_GAINS_DB: Final = (-12, 12)
_DROPPED_SHARE: Final = 0.5

Disturb = Callable[[Recording, np.random.Generator], Recording]


@dataclass(frozen=True)
class Disturbance:
    """One way in which recordings get worse.

    Attributes:
        modality: what it changes; the other one stays as it was.
        like_missing: it takes the modality away, so that nothing is lost but what its absence costs.
    """

    name: str
    modality: Modality
    apply: Disturb
    like_missing: bool = False


def noise(recording: Recording, generator: np.random.Generator, *, level_db: float) -> Recording:
    """White noise so far below the sound."""
    assert recording.waveform_T is not None
    power = float(np.square(recording.waveform_T, dtype=np.float64).mean()) / 10 ** (level_db / 10)
    added_T = generator.normal(0, np.sqrt(power), len(recording.waveform_T))
    return _sounding(recording, recording.waveform_T + added_T)


def gain(recording: Recording, _generator: np.random.Generator, *, level_db: float) -> Recording:
    """A sound that is so much louder; what goes beyond full scale is clipped."""
    assert recording.waveform_T is not None
    return _sounding(recording, recording.waveform_T * 10 ** (level_db / 20))


def silence(recording: Recording, _generator: np.random.Generator) -> Recording:
    """A microphone that is switched off."""
    assert recording.waveform_T is not None
    return _sounding(recording, np.zeros_like(recording.waveform_T))


def dropped_frames(recording: Recording, generator: np.random.Generator, *, share: float) -> Recording:
    """A picture that stands still in place of this share of its frames, never of the first."""
    assert recording.frames_THW is not None
    is_kept_T = generator.random(len(recording.frames_THW)) >= share
    is_kept_T[:1] = True
    shown_T = np.maximum.accumulate(np.where(is_kept_T, np.arange(len(is_kept_T)), 0))
    return replace(recording, frames_THW=recording.frames_THW[shown_T])


DISTURBANCES: Final = (
    Disturbance(f"noise_{_NOISE_DB}_db", "audio", partial(noise, level_db=_NOISE_DB)),
    *(Disturbance(f"gain_{level:+d}_db", "audio", partial(gain, level_db=level)) for level in _GAINS_DB),
    Disturbance("dropped_frames", "video", partial(dropped_frames, share=_DROPPED_SHARE)),
    Disturbance("silence", "audio", silence, like_missing=True),
)


def answers_on_disturbed(predictor: Predictor, clips: Sequence[Clip], known: Answers) -> Iterator[Disturbed]:
    """What a predictor answers on clips when their recordings are made worse, and when they are not.

    Args:
        clips: of `known`, whose labels count.

    Raises:
        MediaError: a recording cannot be read any more.
    """
    places = {name: number for number, name in enumerate(known.clip_ids)}
    tracks = [_Track.of(clip, predictor) for clip in clips]
    for disturbance in DISTURBANCES:
        disturbed = [track.disturbed(disturbance, predictor) for track in tracks]
        index_N = np.array([number for number, found in enumerate(disturbed) if found is not None], dtype=np.int64)
        if not len(index_N):
            continue
        rows = [places[clips[number].clip_id] for number in index_N]
        drop: tuple[Modality, ...] = (disturbance.modality,) if disturbance.like_missing else ()
        answers, reference = (
            scoring.score(
                predictor.model,
                _source([features for features in of_clips if features is not None], rows, known),
                task=known.task,
                thresholds=known.thresholds,
                drop=left_out,
            )
            for of_clips, left_out in ((disturbed, ()), ([tracks[number].features for number in index_N], drop))
        )
        against = f"no {disturbance.modality} at all" if disturbance.like_missing else "the recordings as they are"
        yield Disturbed(disturbance.name, answers.outcomes, reference.outcomes, against)


@dataclass(frozen=True, eq=False)
class _Track:
    """One clip, decoded and described."""

    clip: Clip
    recording: Recording
    features: ClipFeatures

    @classmethod
    def of(cls, clip: Clip, predictor: Predictor) -> _Track:
        audio, video = (None if uri is None else source_of(uri) for uri in (clip.audio_uri, clip.video_uri))
        recording = clip_features.record(
            audio=audio, video=video, config=predictor.features, start_s=clip.start_s, end_s=clip.end_s
        )
        return cls(clip, recording, _described(recording, clip, predictor))

    def disturbed(self, disturbance: Disturbance, predictor: Predictor) -> ClipFeatures | None:
        """What is seen of the disturbed recording; None where there is nothing to disturb, or nothing else left."""
        audio_TF, video_TF, words_T = self.features.audio_TF, self.features.video_TF, self.features.word_ids_T
        present = {"audio": len(audio_TF) > 0, "video": len(video_TF) > 0, "text": len(words_T) > 0}
        others = any(there for modality, there in present.items() if modality != disturbance.modality)
        if not present[disturbance.modality] or (disturbance.like_missing and not others):
            return None
        # The same for a clip whatever other clips there are.
        generator = np.random.default_rng(list(f"{disturbance.name} {self.clip.clip_id}".encode()))
        changed = disturbance.apply(self.recording, generator)
        if disturbance.modality == "audio":
            found = _described(replace(changed, frames_THW=None), self.clip, predictor)
            return ClipFeatures(found.audio_TF, video_TF, found.word_ids_T)
        found = _described(replace(changed, waveform_T=None), self.clip, predictor)
        return ClipFeatures(audio_TF, found.video_TF, words_T)


def _described(recording: Recording, clip: Clip, predictor: Predictor) -> ClipFeatures:
    features, _ = clip_features.compute(recording, clip.transcript, predictor.features, predictor.tokenizer)
    return features


def _source(features: list[ClipFeatures], rows: list[int], known: Answers) -> LoadedClips:
    return LoadedClips(
        features,
        [known.clip_ids[row] for row in rows],
        [known.speaker_ids[row] for row in rows],
        known.annotated_NC[rows].astype(np.float32),
    )


def _sounding(recording: Recording, waveform_T: NDArray[np.floating]) -> Recording:
    return replace(recording, waveform_T=np.clip(waveform_T, -1, 1).astype(np.float32))
