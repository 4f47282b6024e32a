"""What goes into a runtime and what comes out, as types; light to import, for servers and clients alike."""

from __future__ import annotations

from dataclasses import dataclass

from components.clip import Modality
from components.features import ClipFeatures


class RequestError(ValueError):
    """A request that cannot be answered, whatever carries it.

    Attributes:
        code: stable short name of the reason, such as no-modality, too-large, not-media.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class BundleError(ValueError):
    """A bundle that must not be served: it cannot be read, or answers its own golden requests wrongly."""


@dataclass(frozen=True)
class Limits:
    """What one request may carry.

    Attributes:
        max_bytes: of one file.
        max_duration_s: of one recording; the model looks at a shorter part, and the prediction says so.
        max_characters: of the words.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_duration_s: float = 600.0
    max_characters: int = 10_000


@dataclass(frozen=True)
class Request:
    """One clip to judge: any subset of a sound file, a video file (its own sound counts) and words."""

    audio: bytes | None = None
    video: bytes | None = None
    text: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A request after decoding: what the model sees, and what was odd about it (stable codes)."""

    features: ClipFeatures
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Moment:
    """The estimate for one second of a clip; times in seconds from its start."""

    start_s: float
    end_s: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one clip.

    Attributes:
        label: the most probable label.
        probabilities: by label, summing to 1.
        timeline: second by second; empty without sound and picture.
        contributions: by present modality, the fall of the label's log-probability (natural) when it is left out;
            for a modality on its own, against a uniform guess.
        warnings: stable codes, such as no-face, silence, truncated.
        version: of the bundle that answered.
    """

    label: str
    probabilities: dict[str, float]
    timeline: tuple[Moment, ...]
    contributions: dict[Modality, float]
    warnings: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Info:
    """The served model: for its card."""

    system: str
    version: str
    labels: tuple[str, ...]
    modalities: tuple[Modality, ...]
    provenance: dict[str, object]
    max_analysed_s: float
