"""What an endpoint serves at one instant, and how its routes ask it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.prediction import RequestError

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime
    from serving.trial import Challenger


@dataclass(frozen=True)
class Live:
    """What is served at one instant.

    Attributes:
        runtime: the loaded model; None before the first one.
        release: its number in the release log; 0 outside of it.
        refused: why a newer bundle was not loaded; empty when there is none.
        challenger: the model on trial beside it.
    """

    runtime: Runtime | None = None
    release: int = 0
    refused: str = ""
    challenger: Challenger | None = None


Provider = Callable[[], Live]


def served(live: Live) -> Runtime:
    """The loaded model.

    Raises:
        RequestError: there is none.
    """
    if live.runtime is not None:
        return live.runtime
    if live.refused:
        raise RequestError("bundle-refused", live.refused)
    raise RequestError("no-model", "no model has been promoted yet: run `affect retrain`")
