"""What goes into a runtime and what comes out, as types; light to import, for servers and clients alike."""

from __future__ import annotations

from dataclasses import dataclass

from components.clip import Modality
from components.features import ClipFeatures
from components.task import Task


class RequestError(ValueError):
    """A request that cannot be answered, whatever carries it.

    Attributes:
        code: stable short name of the reason, such as no-modality, too-large, not-media.
        retry_after_s: when asking again makes sense; None where it makes none.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code
        self.retry_after_s = retry_after_s


class BundleError(ValueError):
    """A bundle that must not be served: it cannot be read, or answers its own golden requests wrongly."""


@dataclass(frozen=True)
class Limits:
    """What one request may carry.

    Attributes:
        max_bytes: of one file.
        max_duration_s: of one recording; the model looks at a shorter part, and the prediction says so.
        max_characters: of the words.
        max_clips: of one batch.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_duration_s: float = 600.0
    max_characters: int = 10_000
    max_clips: int = 16


@dataclass(frozen=True)
class Request:
    """One clip to judge: any subset of a sound file, a video file (its own sound counts) and words.

    Attributes:
        features: instead of these, what the caller made of them, as a file of `serving.feature_file`.
    """

    audio: bytes | None = None
    video: bytes | None = None
    text: str | None = None
    features: bytes | None = None


@dataclass(frozen=True)
class Prepared:
    """A request after decoding: what the model sees, and what was odd about it (stable codes)."""

    features: ClipFeatures
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Moment:
    """The estimate for one second of a clip; times in seconds from its start.

    Attributes:
        answers: by label its probability, or its value.
    """

    start_s: float
    end_s: float
    answers: dict[str, float]


@dataclass(frozen=True)
class _Prediction:
    """What the model makes of one clip.

    Attributes:
        timeline: second by second; empty without sound and picture.
        warnings: stable codes, such as no-face, silence, transcribed, truncated.
        version: of the bundle that answered.
    """

    timeline: tuple[Moment, ...]
    warnings: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class ClassPrediction(_Prediction):
    """One class of several.

    Attributes:
        label: the most probable label.
        probabilities: by label, summing to 1.
        contributions: by present modality, the fall of the label's log-probability (natural) when it is left out;
            for a modality on its own, against a uniform guess.
    """

    label: str
    probabilities: dict[str, float]
    contributions: dict[Modality, float]


@dataclass(frozen=True)
class LabelPrediction(_Prediction):
    """Any of several labels.

    Attributes:
        probabilities: of each label, on its own.
        thresholds: from which probability on each label counts as there.
        contributions: by present modality and label, the fall of the log-odds (natural) when the modality is left
            out; for a modality on its own, against even odds.
    """

    probabilities: dict[str, float]
    thresholds: dict[str, float]
    contributions: dict[Modality, dict[str, float]]


@dataclass(frozen=True)
class ValuePrediction(_Prediction):
    """Values on a scale.

    Attributes:
        values: by label, on the scale.
        scale: its ends.
        contributions: by present modality and label, the fall of the value when the modality is left out; for a
            modality on its own, against the middle of the scale.
    """

    values: dict[str, float]
    scale: tuple[float, float]
    contributions: dict[Modality, dict[str, float]]


Prediction = ClassPrediction | LabelPrediction | ValuePrediction


@dataclass(frozen=True)
class Info:
    """The served model: for its card.

    Attributes:
        features: name of how its features are made.
    """

    system: str
    version: str
    task: Task
    modalities: tuple[Modality, ...]
    provenance: dict[str, object]
    max_analysed_s: float
    features: str
