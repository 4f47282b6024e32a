"""A challenger beside the live model, on a share of the requests to `/v1/emotion`.

In a shadow trial the live model answers everybody, and the challenger judges the same request afterwards, unseen. In
a canary trial the challenger answers its share, and an answer names it with release 0. Either way one model alone
makes an answer, a request's id decides about its share, and where the challenger fails the live model answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from components.trials import Mode, Observation
from serving import answering
from serving.engine import Engine
from serving.live import Live, served
from serving.observation import Metrics
from serving.prediction import ClassPrediction, LabelPrediction, Prediction, Request, RequestError, ValuePrediction
from serving.schema import ModelName

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

logger = logging.getLogger("ray.serve")

# What a model that is broken raises; a server that stops is none of them.
_FAILURES: Final = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
_KEEP_AFTER_S: Final = 1.0
# Values that differ by less than this share of their scale count as the same.
_SAME_VALUE: Final = 0.1


class Observations:
    """What one replica sees, handed on in parts: `keep` is called in a thread, at most once a second."""

    def __init__(self, keep: Callable[[Sequence[Observation]], object]) -> None:
        self._keep, self._seen = keep, list[Observation]()
        self._keeping: asyncio.Task[None] | None = None

    def add(self, seen: Observation) -> None:
        self._seen.append(seen)
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.get_running_loop().create_task(self._keep_soon())

    async def _keep_soon(self) -> None:
        while self._seen:
            await asyncio.sleep(_KEEP_AFTER_S)
            part, self._seen = self._seen, []
            try:
                await asyncio.to_thread(self._keep, part)
            except OSError as error:
                # Callers must not notice: what was seen is lost.
                logger.warning("%d observations of a trial cannot be kept: %s", len(part), error)


@dataclass(frozen=True, eq=False)
class Challenger:
    """The model on trial.

    Attributes:
        number: of the trial.
        share: of the requests that it judges.
    """

    runtime: Runtime
    number: int
    mode: Mode
    share: float
    observations: Observations

    def is_chosen(self, request_id: str) -> bool:
        """Whether it judges this request: the same id is always decided alike, on every replica."""
        drawn = int.from_bytes(hashlib.sha256(f"{self.number} {request_id}".encode()).digest()[:8], "big")
        return drawn < self.share * 2**64


class Trials:
    """Judges the requests of one app, by the live model or the one on trial."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics
        self._shadow: asyncio.Task[None] | None = None

    async def judge(self, asked: Request, live: Live, request_id: str) -> tuple[Prediction, ModelName]:
        """What one of the models makes of a request, and its name. Hold `engine.admit` around it.

        Raises:
            RequestError: as `Engine.judge`.
        """
        runtime, challenger = served(live), live.challenger
        failure = ""
        if challenger is not None and challenger.mode == "canary" and challenger.is_chosen(request_id):
            try:
                judged, took_s = await self._timed(asked, challenger.runtime, "challenger")
            except _FAILURES as error:
                failure = _named(error)
            else:
                challenger.observations.add(Observation(challenger_s=took_s))
                return judged, answering.name_of(challenger.runtime.info(), 0)
        judged, took_s = await self._timed(asked, runtime, "champion" if challenger else "")
        if failure:
            self._metrics.trial_requests.labels("challenger", "failed").inc()
        if challenger is not None:
            if challenger.mode == "canary":
                challenger.observations.add(Observation(took_s, failure=failure))
            elif challenger.is_chosen(request_id):
                self._begin_shadow(asked, challenger, judged, took_s)
        return judged, answering.name_of(runtime.info(), live.release)

    async def _timed(self, asked: Request, runtime: Runtime, role: str) -> tuple[Prediction, float]:
        start_s = time.perf_counter()
        judged = await self._engine.judge(asked, runtime)
        took_s = time.perf_counter() - start_s
        if role:
            self._metrics.trial_requests.labels(role, "answered").inc()
            self._metrics.trial_seconds.labels(role).observe(took_s)
        return judged, took_s

    def _begin_shadow(self, asked: Request, challenger: Challenger, answer: Prediction, champion_s: float) -> None:
        """Judge it once more, unless callers would wait for that: one at a time, not while the endpoint is full."""
        if self._shadow is not None and not self._shadow.done():
            self._metrics.trial_requests.labels("challenger", "left-out").inc()
            return
        working = self._in_shadow(asked, challenger, answer, champion_s)
        self._shadow = asyncio.get_running_loop().create_task(working)

    async def _in_shadow(self, asked: Request, challenger: Challenger, answer: Prediction, champion_s: float) -> None:
        try:
            with self._engine.admit():
                other, took_s = await self._timed(asked, challenger.runtime, "challenger")
        except _FAILURES as error:
            if isinstance(error, RequestError) and error.code == "overloaded":
                self._metrics.trial_requests.labels("challenger", "left-out").inc()
                return
            self._metrics.trial_requests.labels("challenger", "failed").inc()
            challenger.observations.add(Observation(champion_s, failure=_named(error)))
            return
        agrees, distance = between(answer, other)
        challenger.observations.add(Observation(champion_s, took_s, agrees, distance))


def between(one: Prediction, other: Prediction) -> tuple[bool, float]:
    """Whether two answers say the same, and how far they are apart, from 0 to 1.

    The distance is the total variation of classes, and else the mean difference over labels (of values, as a share of
    their scale). A label that one of them does not know has no probability there; of another kind is as far as can be.
    """
    if isinstance(one, ClassPrediction) and isinstance(other, ClassPrediction):
        return one.label == other.label, sum(_differences(one.probabilities, other.probabilities)) / 2
    if isinstance(one, LabelPrediction) and isinstance(other, LabelPrediction):
        apart = _differences(one.probabilities, other.probabilities)
        return _present(one) == _present(other), sum(apart) / len(apart)
    if isinstance(one, ValuePrediction) and isinstance(other, ValuePrediction) and set(one.values) == set(other.values):
        width = one.scale[1] - one.scale[0]
        apart = [min(1.0, each / width) for each in _differences(one.values, other.values)]
        return max(apart) <= _SAME_VALUE, sum(apart) / len(apart)
    return False, 1.0


def _differences(one: dict[str, float], other: dict[str, float]) -> list[float]:
    return [abs(one.get(label, 0.0) - other.get(label, 0.0)) for label in one.keys() | other.keys()]


def _present(answer: LabelPrediction) -> set[str]:
    return {label for label, value in answer.probabilities.items() if value >= answer.thresholds[label]}


def _named(error: BaseException) -> str:
    """An error's kind, which tells nothing of the request."""
    return error.code if isinstance(error, RequestError) else type(error).__name__
