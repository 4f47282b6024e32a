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
from components.gates.evidence import DisturbanceKind as Kind
from components.gates.evidence import Disturbed
from components.media import Recording, source_of
from components.predictor import LoadedClips, Predictor
from components.scoring import Answers

_NOISE_DB: Final = 20
_GAINS_DB: Final = (-12, 12)
_DROPPED_SHARE: Final = 0.5
_AS_IT_IS: Final = ""

Disturb = Callable[[Recording, np.random.Generator], Recording]


@dataclass(frozen=True)
class Disturbance:
    """One way in which recordings get worse.

    Attributes:
        kind: what there is a limit for.
        modality: what it changes; the other one stays as it was.
        like_missing: it takes the modality away, so that nothing is lost but what its absence costs.
    """

    name: str
    kind: Kind
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
    Disturbance(f"noise_{_NOISE_DB}_db", "noise", "audio", partial(noise, level_db=_NOISE_DB)),
    *(Disturbance(f"gain_{level:+d}_db", "gain", "audio", partial(gain, level_db=level)) for level in _GAINS_DB),
    Disturbance("dropped_frames", "dropped_frames", "video", partial(dropped_frames, share=_DROPPED_SHARE)),
    Disturbance("silence", "silence", "audio", silence, like_missing=True),
)


def answers_on_disturbed(predictor: Predictor, clips: Sequence[Clip], known: Answers) -> Iterator[Disturbed]:
    """What a predictor answers on clips when their recordings are made worse, and when they are not.

    Args:
        clips: some of `known`, in its order.
        known: what it answered on the recordings as they are, and the labels.

    Raises:
        MediaError: a recording cannot be read any more.
    """
    features = {clip.clip_id: _with_variants(clip, predictor) for clip in clips}

    def scored(variant: str, like: Answers, drop: Sequence[Modality] = ()) -> Answers:
        labels_NC = like.annotated_NC.astype(np.float32)
        of_clips = [features[name][variant] for name in like.clip_ids]
        source = LoadedClips(of_clips, like.clip_ids, like.speaker_ids, labels_NC)
        return scoring.score(predictor.model, source, task=like.task, thresholds=like.thresholds, drop=drop)

    for each in DISTURBANCES:
        is_disturbed_N = np.array([each.name in features.get(name, {}) for name in known.clip_ids])
        if not is_disturbed_N.any():
            continue
        reference, against = known.only(is_disturbed_N), "the recordings as they are"
        answers = scored(each.name, reference)
        if each.like_missing:
            reference, against = scored(_AS_IT_IS, reference, (each.modality,)), f"no {each.modality} at all"
        yield Disturbed(each.name, each.kind, answers.outcomes, reference.outcomes, against)


def _with_variants(clip: Clip, predictor: Predictor) -> dict[str, ClipFeatures]:
    """What is seen of a clip as it is, and of its recording by the names of what can be done to it.

    Left out is what changes nothing that is there, or would leave nothing else to go by.
    """
    audio, video = (None if uri is None else source_of(uri) for uri in (clip.audio_uri, clip.video_uri))
    recording = clip_features.record(
        audio=audio, video=video, config=predictor.features, start_s=clip.start_s, end_s=clip.end_s
    )
    whole = _described(recording, clip, predictor)
    found = {_AS_IT_IS: whole}
    present = {"audio": len(whole.audio_TF) > 0, "video": len(whole.video_TF) > 0, "text": len(whole.word_ids_T) > 0}
    for each in DISTURBANCES:
        others = any(there for modality, there in present.items() if modality != each.modality)
        if not present[each.modality] or (each.like_missing and not others):
            continue
        # The same for a clip whatever other clips there are.
        changed = each.apply(recording, np.random.default_rng(list(f"{each.name} {clip.clip_id}".encode())))
        if each.modality == "audio":
            seen = _described(replace(changed, frames_THW=None), clip, predictor)
            found[each.name] = ClipFeatures(seen.audio_TF, whole.video_TF, seen.word_ids_T)
        else:
            seen = _described(replace(changed, waveform_T=None), clip, predictor)
            found[each.name] = ClipFeatures(whole.audio_TF, seen.video_TF, whole.word_ids_T)
    return found


def _described(recording: Recording, clip: Clip, predictor: Predictor) -> ClipFeatures:
    features, _ = clip_features.compute(recording, clip.transcript, predictor.features, predictor.tokenizer)
    return features


def _sounding(recording: Recording, waveform_T: NDArray[np.floating]) -> Recording:
    return replace(recording, waveform_T=np.clip(waveform_T, -1, 1).astype(np.float32))
