"""A clip: one recording of one person, with what is known about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Split = Literal["train", "validation", "test", "unlabelled"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test", "unlabelled")

Modality = Literal["audio", "video", "text"]
MODALITIES: Final[tuple[Modality, ...]] = ("audio", "video", "text")

_OLDEST: Final = 130


@dataclass(frozen=True)
class Clip:
    """One recording with labels. An invalid one cannot be built.

    Attributes:
        clip_id: unique within the corpus; also the name in predictions and reports.
        speaker_id: whose face and voice it is; splits keep speakers apart.
        session_id: recording session, empty when the corpus has none.
        split: fixed by the corpus, or None to have `ingest` draw one by speaker.
        audio_uri: file with the sound (may be the video file), or None.
        video_uri: file with the picture, or None.
        start_s, end_s: the part of the file that is meant, in seconds; end_s None: to the end.
        transcript: the words, or None when they are not known (silence is the empty string).
        speaker_sex: as the corpus names it, such as female or male, or None when it does not say.
        speaker_age: in years, or None when the corpus does not say.
        labels: value by label name (1.0 for the one emotion of a class label, shares for soft labels); empty
            for an unlabelled clip.

    Raises:
        ValueError: a field is empty, a span is reversed, an age is impossible, a label is not finite, or there is no
            modality at all.
    """

    clip_id: str
    speaker_id: str
    session_id: str = ""
    split: Split | None = None
    audio_uri: str | None = None
    video_uri: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    transcript: str | None = None
    speaker_sex: str | None = None
    speaker_age: float | None = None
    labels: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.clip_id:
            raise ValueError("clip_id is empty: every clip needs a name of its own")
        if not self.speaker_id:
            raise ValueError(f"clip {self.clip_id}: speaker_id is empty; splits are drawn by speaker, so name one")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"clip {self.clip_id}: split {self.split!r} is none of {', '.join(SPLITS)}")
        if self.audio_uri is None and self.video_uri is None and self.transcript is None:
            raise ValueError(f"clip {self.clip_id}: no audio_uri, video_uri or transcript; name at least one")
        if not math.isfinite(self.start_s) or self.start_s < 0:
            raise ValueError(f"clip {self.clip_id}: start_s {self.start_s} is not a time in the file")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ValueError(f"clip {self.clip_id}: end_s {self.end_s} is not after start_s {self.start_s}")
        if self.speaker_sex == "":
            raise ValueError(f"clip {self.clip_id}: speaker_sex is empty: leave it out where it is not known")
        if self.speaker_age is not None and not 0 <= self.speaker_age <= _OLDEST:
            raise ValueError(f"clip {self.clip_id}: speaker_age {self.speaker_age} is no age in years")
        bad = [name for name, value in self.labels.items() if not name or not math.isfinite(value)]
        if bad:
            raise ValueError(f"clip {self.clip_id}: label {bad[0]!r} has no finite value")
