"""Trials of a challenger beside the live model: what was tried when, on which share of the requests, what came of it.

`trials/NNNNNN.json` says that a trial began, `trials/NNNNNN-end.json` that it ended and how: each by exclusive create,
so the log only grows. `trials/observations/NNNNNN/` holds what replicas saw: figures of single requests, and no media.
A trial belongs to the release that was live when it began; with the next release it is over.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from components.metrics import Interval
from components.storage import AlreadyExists, Storage

Mode = Literal["shadow", "canary"]
Outcome = Literal["passed", "refused", "stopped"]

_FOLDER: Final = "trials"
_SEEN: Final = f"{_FOLDER}/observations"
_BEGAN: Final = re.compile(r"(\d{6})\.json")


class TrialRunning(AlreadyExists):
    """Another trial has begun and not ended: end it first."""


class TrialConfig(BaseModel):
    """What an endpoint is told of a trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(ge=1, description="Of the trial.")
    bundle: str = Field(min_length=1, description="Address of the challenger's bundle.")
    mode: Mode = Field(description="shadow: its answers are compared and not returned; canary: they are returned.")
    share: float = Field(gt=0, le=1, description="Of the requests that it judges.")


@dataclass(frozen=True)
class Trial:
    """A trial that began.

    Attributes:
        release: number of the release that it is held against.
        bundle: the challenger's name in the storage.
        share: of the requests.
    """

    release: int
    bundle: str
    version: str
    run: str
    mode: Mode
    share: float
    number: int = 0
    started_at: str = ""


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended, and why."""

    outcome: Outcome
    reason: str
    ended_at: str = ""


@dataclass(frozen=True)
class Observation:
    """One request during a trial; None for what a model was not asked.

    Attributes:
        champion_s, challenger_s: from the request's decoding to the model's answer.
        agrees: both say the same.
        distance: between their answers, from 0 to 1.
        failure: why the challenger has no answer to a request that the champion answered.
    """

    champion_s: float | None = None
    challenger_s: float | None = None
    agrees: bool | None = None
    distance: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Comparison:
    """The figures of a trial; None where nothing was compared.

    Attributes:
        num_clips: that the challenger was asked to judge.
        failed_share: of them, those to which it had no answer.
        agreement: share of both models' answers that are the same, with its 95 % interval over requests (Wilson).
        mean_distance: between their answers.
        champion_p95_s, challenger_p95_s: the time within which 95 of 100 were judged.
    """

    num_clips: int
    failed_share: float | None
    agreement: Interval | None
    mean_distance: float | None
    champion_p95_s: float | None
    challenger_p95_s: float | None


def compare(seen: Sequence[Observation]) -> Comparison:
    """The figures of what replicas saw."""
    # It takes a second to import, and a replica, which needs this module too, computes no figures.
    from scipy import stats

    tried = [each for each in seen if each.challenger_s is not None or each.failure]
    both = [each for each in seen if each.agrees is not None]
    agreement = None
    if both:
        same = sum(each.agrees is True for each in both)
        ends = stats.binomtest(same, len(both)).proportion_ci(method="wilson")
        agreement = Interval(same / len(both), float(ends.low), float(ends.high))
    return Comparison(
        len(tried),
        sum(bool(each.failure) for each in tried) / len(tried) if tried else None,
        agreement,
        float(np.mean([each.distance for each in both if each.distance is not None])) if both else None,
        _p95([each.champion_s for each in seen]),
        _p95([each.challenger_s for each in seen]),
    )


@dataclass(frozen=True)
class TrialLog:
    """The trials of one storage."""

    storage: Storage

    def begin(self, trial: Trial, *, live: int) -> Trial:
        """Add a trial, and return it with its number and time.

        Raises:
            TrialRunning: another one has not ended.
        """
        running = self.running(live=live)
        if running is not None:
            raise TrialRunning(
                f"trial {running.number} of version {running.version} goes on since {running.started_at}: "
                "end it first, with `affect trial end`"
            )
        numbered = replace(trial, number=self._last() + 1, started_at=_now())
        try:
            self.storage.create(f"{_FOLDER}/{numbered.number:06d}.json", _json(numbered))
        except AlreadyExists as error:
            raise TrialRunning(f"trial {numbered.number} was begun by somebody else in this moment") from error
        return numbered

    def end(self, number: int, end: TrialEnd) -> None:
        """Say that a trial is over; one that has ended already stays as it ended."""
        try:
            self.storage.create(_end(number), _json(replace(end, ended_at=_now())))
        except AlreadyExists:
            return

    def read(self, number: int) -> tuple[Trial, TrialEnd | None]:
        """A trial, and how it ended.

        Raises:
            ValueError: there is no such trial, or its record is damaged.
        """
        try:
            trial = TypeAdapter(Trial).validate_json(self.storage.read(f"{_FOLDER}/{number:06d}.json"))
            if not self.storage.exists(_end(number)):
                return trial, None
            return trial, TypeAdapter(TrialEnd).validate_json(self.storage.read(_end(number)))
        except FileNotFoundError as error:
            raise ValueError(f"there is no trial {number}; the last one is {self._last()}") from error
        except ValidationError as error:
            raise ValueError(f"the record of trial {number} in {self.storage.url} is damaged") from error

    def last(self) -> tuple[Trial, TrialEnd | None] | None:
        """The trial that began last; None before the first."""
        number = self._last()
        return self.read(number) if number else None

    def running(self, *, live: int) -> Trial | None:
        """The trial that goes on beside release `live`; None when there is none."""
        found = self.last()
        if found is None:
            return None
        trial, end = found
        return trial if end is None and trial.release == live else None

    def keep(self, number: int, seen: Sequence[Observation]) -> None:
        """Put what a replica saw into the storage."""
        self.storage.write(f"{_SEEN}/{number:06d}/{uuid.uuid4().hex}.json", _json(list(seen)))

    def observations(self, number: int) -> list[Observation]:
        """What all replicas saw during a trial so far."""
        folder = f"{_SEEN}/{number:06d}"
        found = [self.storage.read(f"{folder}/{name}") for name in self.storage.names(folder)]
        return [each for content in found for each in TypeAdapter(list[Observation]).validate_json(content)]

    def _last(self) -> int:
        found = (_BEGAN.fullmatch(name) for name in self.storage.names(_FOLDER))
        return max((int(match[1]) for match in found if match), default=0)


def _end(number: int) -> str:
    return f"{_FOLDER}/{number:06d}-end.json"


def _json(value: object) -> bytes:
    return to_json(value, indent=1) + b"\n"


def _p95(seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return float(np.percentile(known, 95)) if known else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
