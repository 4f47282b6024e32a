"""Golden requests: recordings that travel with a bundle, with the answers that it gave when it was made.

Wherever the bundle is loaded later, on another machine or in an image, the same requests must give the same
answers; if they do not, decoding, features or weights differ there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Base64Bytes, TypeAdapter, ValidationError

from components.bundle_files import GOLDEN_TOLERANCE
from components.media import MediaError

if TYPE_CHECKING:
    # PyTorch comes with it, and whoever sends the requests to an endpoint needs none.
    from components.features import ClipFeatures
    from components.predictor import Predictor

    Answers = Callable[[Sequence[ClipFeatures]], NDArray[np.float32]]


@dataclass(frozen=True)
class GoldenRequest:
    """One request and its answer.

    Attributes:
        audio, video: content of the files that would be posted.
        probabilities: in the order of the bundle's labels; of a task of values, these.
    """

    name: str
    audio: Base64Bytes | None
    video: Base64Bytes | None
    text: str | None
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True)
class Golden:
    """The content of `golden.json`."""

    tolerance: float
    requests: tuple[GoldenRequest, ...]

    def to_json(self) -> bytes:
        return TypeAdapter(Golden).dump_json(self, indent=2) + b"\n"

    def error(self, predictor: Predictor, answers: Answers | None = None) -> float:
        """Largest distance between a stored answer and what `predictor` answers now, at most 1.

        Where a server has its own way from features to `answers`, by that.
        Values are compared in units of the length of their scale. A request that can no longer be decoded, and an
        answer that is not a number, count as 1.
        """
        errors = [_distance(request, predictor, answers or predictor.answers) for request in self.requests]
        return max(errors, default=0.0)


def answer(requests: Sequence[GoldenRequest], predictor: Predictor) -> Golden:
    """The requests with the answers of `predictor`."""
    answered = [replace(each, probabilities=_answer(each, predictor, predictor.answers)) for each in requests]
    return Golden(GOLDEN_TOLERANCE, tuple(answered))


def parse(content: bytes) -> Golden:
    """Read what `Golden.to_json` wrote.

    Raises:
        ValueError: the content is damaged.
    """
    try:
        golden = TypeAdapter(Golden).validate_json(content)
    except ValidationError as error:
        raise ValueError(f"no golden requests: {error.errors()[0]['msg']}") from error
    if not golden.requests:
        raise ValueError("no golden requests: the list is empty")
    return golden


def _answer(request: GoldenRequest, predictor: Predictor, answers: Answers) -> tuple[float, ...]:
    features, _ = predictor.features_of(request.audio, request.video, request.text)
    return tuple(float(value) for value in answers([features])[0])


def _distance(request: GoldenRequest, predictor: Predictor, answers: Answers) -> float:
    if len(request.probabilities) != len(predictor.labels):
        return 1.0
    try:
        found_C = np.asarray(_answer(request, predictor, answers))
    except MediaError:
        return 1.0
    scale = predictor.task.scale
    unit = 1.0 if scale is None else scale[1] - scale[0]
    distance_C = np.abs(found_C - np.asarray(request.probabilities)) / unit
    return float(np.nan_to_num(distance_C, nan=1.0).clip(max=1).max())
