"""What gates say: one line of a table each, and all of them together as `gates.json` holds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from components.metrics import Interval


@dataclass(frozen=True)
class GateResult:
    """One gate's verdict.

    Attributes:
        value, threshold: what was measured and what it was held against; None where there was nothing to measure.
        low, high: ends of the value's 95 % interval, where it has one.
        message: one line for people, with the distance from the threshold.
    """

    name: str
    passed: bool
    value: float | None
    threshold: float
    low: float | None
    high: float | None
    message: str

    @property
    def interval(self) -> str:
        """The ends of the interval, for people; nothing where there is none."""
        return "" if self.low is None or self.high is None else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Verdict:
    """What all gates said about one candidate."""

    candidate_version: str
    champion_version: str | None
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def failures(self) -> tuple[GateResult, ...]:
        return tuple(gate for gate in self.gates if not gate.passed)


def on_loss(name: str, words: str, difference: Interval, max_loss: float) -> GateResult:
    """The verdict on one of many comparisons: it fails when more is lost than may be, and that surely.

    Groups of clips are small and there are several of them, so some show a large difference by chance. What counts is
    a loss beyond `max_loss` whose interval leaves out that nothing was lost.
    """
    passed = difference.value >= -max_loss or difference.high >= 0
    told = f"{words} {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.value >= -max_loss:
        reach = f"within the {max_loss:.3f} that may be lost"
    elif passed:
        reach = f"beyond the {max_loss:.3f} that may be lost, but this may be chance"
    else:
        reach = f"{-max_loss - difference.value:.3f} more than the {max_loss:.3f} that may be lost"
    return GateResult(name, passed, difference.value, -max_loss, difference.low, difference.high, f"{told}: {reach}")


def to_json(verdict: Verdict) -> str:
    """The verdict as `gates.json` holds it."""
    return json.dumps({"passed": verdict.passed, **asdict(verdict)}, indent=2) + "\n"


def read_verdict(path: Path) -> Verdict:
    """Read `gates.json`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return TypeAdapter(Verdict).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no verdict of the gates: run `python -m components.gates` again") from error
