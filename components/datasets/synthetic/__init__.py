"""A generated corpus of talking faces: nobody in it exists, and its figures say nothing about people.

It is there to walk the whole platform without a download, and to show what fusing modalities and pre-training buy
where the truth is known. Each clip has an emotion. Voice, face and words show it, each with chance variation of its
own, and in most clips one of the three, drawn at random, shows another emotion instead. So each modality alone is a
weak witness, and the three together a strong one.

Everything is drawn from the corpus's seed and the clip's own number: a clip is the same bytes in any order and any
process.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from components import media, params
from components.clip import MODALITIES, Clip, Modality
from components.datasets import RecordingPlan
from components.datasets.synthetic import face, voice, words
from components.protocols import EvaluationProtocol
from components.task import Task

LABELS: Final = ("neutral", "happy", "sad", "angry", "fearful", "disgusted")
TASKS: Mapping[str, Task] | None = {
    "emotion": Task("classes", LABELS, source="drawn when the corpus was generated"),
}
PROTOCOLS: Mapping[str, EvaluationProtocol] = {}
SOURCE: str = "generated where it is used"

# Share of the clips in which one modality shows another emotion than the clip's: each alone is right in 72 %.
MASKED_SHARE: Final = 0.84
# Share of the speakers from whom there is nothing but labelled clips: enough to hold some out.
_LABELLED_ONLY_SHARE: Final = 0.42

_SPEAKER, _CLIP, _RENDER, _GOLDEN = range(4)


@dataclass(frozen=True)
class SyntheticPlan:
    """One recording to render.

    Attributes:
        clip_id: `synthetic-NNNNNN`.
        seed: of the corpus.
        number: of the clip; with the seed it fixes all that is drawn.
        speaker: number of the speaker.
        emotion: what the person feels; the label, where the clip has one.
        shown: the emotion that audio, video and text show.
        is_labelled: whether the label is given away.
        transcript: the words.
    """

    clip_id: str
    seed: int
    number: int
    speaker: int
    emotion: str
    shown: tuple[str, str, str]
    is_labelled: bool
    transcript: str

    @property
    def speaker_id(self) -> str:
        return f"speaker-{self.speaker:03d}"


def read(root: Path, task: Task | None) -> Iterator[Clip]:
    """Refuses: the corpus is generated, there is nothing to read.

    Raises:
        ValueError: always.
    """
    asked = f" for the task {task.name}" if task else ""
    raise ValueError(f"dataset synthetic is generated and has no root{asked}: leave root empty instead of {root}")


def plan(settings: params.Synthetic) -> Sequence[SyntheticPlan]:
    """The recordings of the corpus: the labelled ones over all speakers and emotions in turn, then the unlabelled.

    The unlabelled ones come from part of the speakers, so that holding out the others leaves them whole.
    """
    plans = []
    num_labelled_only = round(settings.num_speakers * _LABELLED_ONLY_SHARE)
    talkative = list(range(num_labelled_only, settings.num_speakers))
    for number in range(settings.num_labelled + settings.num_unlabelled):
        is_labelled = number < settings.num_labelled
        if is_labelled:
            speaker = number % settings.num_speakers
            # A speaker's clips go through the emotions, each speaker from another one on.
            emotion = LABELS[(number // settings.num_speakers + speaker) % len(LABELS)]
        else:
            speaker = talkative[number % len(talkative)]
            emotion = LABELS[int(_draw(settings.seed, _CLIP, number, 1).integers(len(LABELS)))]
        generator = _draw(settings.seed, _CLIP, number, 0)
        shown = _shown(emotion, generator)
        plans.append(
            SyntheticPlan(
                clip_id=f"synthetic-{number:06d}",
                seed=settings.seed,
                number=number,
                speaker=speaker,
                emotion=emotion,
                shown=shown,
                is_labelled=is_labelled,
                transcript=words.sentence(shown[2], generator),
            )
        )
    return plans


def render(plan: RecordingPlan, folder: Path) -> Clip:
    """Write the recording as `folder`/CLIP_ID.mp4 and describe it; its URIs are the file's name alone."""
    assert isinstance(plan, SyntheticPlan)
    # Drawn before anything else, so that a speaker is the same in every clip.
    own = _draw(plan.seed, _SPEAKER, plan.speaker)
    speaker_voice, speaker_face = voice.draw_voice(own), face.draw_face(own)
    generator = _draw(plan.seed, _RENDER, plan.number)
    num_syllables = int(np.clip(len(plan.transcript.split()) + generator.integers(-1, 2), 5, 8))
    utterance = voice.speak(speaker_voice, plan.shown[0], num_syllables, generator)
    samples_per_frame = int(voice.SAMPLE_RATE_HZ / face.FRAME_RATE_HZ)
    num_frames = -(-len(utterance.waveform_T) // samples_per_frame)
    loudness_T = utterance.loudness_T[np.arange(num_frames) * samples_per_frame]
    frames_THW3 = face.film(speaker_face, plan.shown[1], loudness_T, generator)
    name = f"{plan.clip_id}.mp4"
    media.write_mp4(
        folder / name,
        frames_THW3,
        frame_rate_hz=face.FRAME_RATE_HZ,
        waveform_T=utterance.waveform_T,
        sample_rate_hz=voice.SAMPLE_RATE_HZ,
    )
    return Clip(
        clip_id=plan.clip_id,
        speaker_id=plan.speaker_id,
        audio_uri=name,
        video_uri=name,
        transcript=plan.transcript,
        speaker_sex="female" if speaker_voice.is_high else "male",
        labels={plan.emotion: 1.0} if plan.is_labelled else {},
    )


@dataclass(frozen=True)
class GoldenMedia:
    """A small request for any model; what it does not have is None."""

    name: str
    audio: bytes | None
    video: bytes | None
    text: str | None


def golden_requests() -> tuple[GoldenMedia, ...]:
    """A wav file, an mp4 file and a sentence, the same bytes each time: smoke requests for any model."""
    plans = [
        SyntheticPlan(f"golden-{emotion}", 0, number, number, emotion, (emotion,) * 3, False, "we saw the door again")
        for number, emotion in enumerate(LABELS[1:3])
    ]
    with tempfile.TemporaryDirectory() as folder:
        for each in plans:
            render(each, Path(folder))
        sound = media.decode(
            Path(folder) / f"{plans[0].clip_id}.mp4", sample_rate_hz=8_000, frame_rate_hz=1, want=("audio",)
        )
        assert sound.waveform_T is not None
        wav = Path(folder) / "voice.wav"
        media.write_wav(wav, sound.waveform_T, sample_rate_hz=8_000)
        return (
            GoldenMedia("voice", wav.read_bytes(), None, None),
            GoldenMedia("talking-face", None, (Path(folder) / f"{plans[1].clip_id}.mp4").read_bytes(), None),
            GoldenMedia("words", None, None, words.sentence("angry", _draw(0, _GOLDEN, 0))),
        )


def shown_by(plan: SyntheticPlan, modality: Modality) -> str:
    """The emotion that one modality of a recording shows."""
    return plan.shown[MODALITIES.index(modality)]


def _shown(emotion: str, generator: np.random.Generator) -> tuple[str, str, str]:
    shown = [emotion] * len(MODALITIES)
    if generator.random() < MASKED_SHARE:
        others = [other for other in LABELS if other != emotion]
        shown[int(generator.integers(len(shown)))] = others[int(generator.integers(len(others)))]
    return (shown[0], shown[1], shown[2])


def _draw(seed: int, *path: int) -> np.random.Generator:
    """A generator of its own for each part of the corpus."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], np.uint32))
