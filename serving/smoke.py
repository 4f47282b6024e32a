"""Golden requests over HTTP: whether an endpoint answers as the bundle did when it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components import golden
from components.bundle_files import GOLDEN
from components.golden import Golden, GoldenRequest
from serving.client import Client
from serving.schema import ClassAnswer, MultilabelAnswer, ValuesAnswer


class SmokeError(RuntimeError):
    """The live endpoint does not answer as it should; the message says how far off it is."""


def check(client: Client, folder: Path, *, release: int) -> None:
    """Send an endpoint the golden requests of a bundle, which it should serve as this release.

    Raises:
        SmokeError: another release answers, or an answer is too far off.
        ServingError: a request is not answered.
    """
    requests = read(folder)
    for request in requests.requests:
        answer = ask(client, request)
        if answer.model.release != release:
            raise SmokeError(f"release {answer.model.release} answers the golden requests, not release {release}")
        error = distance(answer, request.probabilities)
        if not error <= requests.tolerance:
            raise SmokeError(
                f"release {release} answers its golden request {request.name} {error:.1e} off, more than "
                f"{requests.tolerance:.0e}"
            )


def read(folder: Path) -> Golden:
    """The golden requests of a bundle's folder.

    Raises:
        ValueError: they are damaged.
    """
    return golden.parse((folder / GOLDEN).read_bytes())


def ask(client: Client, request: GoldenRequest) -> ClassAnswer | MultilabelAnswer | ValuesAnswer:
    """What an endpoint answers to one of them."""
    return client.predict(request.video, audio=request.audio, text=request.text)


def distance(answer: ClassAnswer | MultilabelAnswer | ValuesAnswer, recorded: Sequence[float]) -> float:
    """As `components.golden` measures it: values in lengths of their scale. Labels come in the model's order."""
    unit = 1.0
    if isinstance(answer, ClassAnswer):
        found = list(answer.probabilities.values())
    elif isinstance(answer, MultilabelAnswer):
        found = [label.probability for label in answer.labels.values()]
    else:
        found, unit = list(answer.values.values()), answer.scale[1] - answer.scale[0]
    if len(found) != len(recorded):
        return 1.0
    return float(np.abs(np.subtract(found, recorded)).max() / unit)
