"""The bundle as it is served: how soon it answers, and what it takes of the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from components import params
from components.gates.evidence import MEASURE, Evidence, Gate, Package
from components.gates.verdict import GateResult
from components.metrics import Interval

# From here on three digits would be written with an exponent.
_MANY_DIGITS: Final = 1000
_MIB: Final = 2**20
_PERCENTILE: Final = 95


@dataclass(frozen=True)
class WithinLimit:
    """One measure of the packaged bundle, asked over HTTP, is within its limit. What was not measured fails."""

    name: str
    limit: float
    unit: str
    measure: Callable[[Package], Interval]

    def judge(self, evidence: Evidence) -> GateResult:
        package = evidence.package
        if package is None:
            return self._unmeasured(f"{self.name} was not measured: run `{MEASURE}`, and give its output as --package")
        if package.failure:
            return self._unmeasured(f"{self.name} could not be measured: {package.failure}")
        found = self.measure(package)
        passed = found.value <= self.limit
        side = "within" if passed else "over"
        message = f"{self.name} {_short(found.value)} {self.unit} is {side} the limit of {_short(self.limit)}"
        low, high = (None, None) if found.low == found.high else (found.low, found.high)
        return GateResult(self.name, passed, found.value, self.limit, low, high, message)

    def _unmeasured(self, message: str) -> GateResult:
        return GateResult(self.name, False, None, self.limit, None, None, message)


def _short(number: float) -> str:
    return f"{number:.3g}" if number < _MANY_DIGITS else f"{number:.0f}"


def gates(settings: params.Gates, _evidence: Evidence) -> tuple[Gate, ...]:
    """Latency, memory and size."""
    return (
        WithinLimit("latency_p95", settings.max_latency_s, "s", _latency_s),
        WithinLimit("memory", settings.max_memory_mib, "MiB", lambda package: _sure(package.memory_bytes / _MIB)),
        WithinLimit("size", settings.max_size_mib, "MiB", lambda package: _sure(package.size_bytes / _MIB)),
    )


def _latency_s(package: Package) -> Interval:
    """Within which 95 of 100 requests are answered, with the interval that so few requests allow."""
    latencies_s = np.asarray(package.latencies_s)
    drawn_s = np.random.default_rng(0).choice(latencies_s, (1000, len(latencies_s)))
    low, high = np.percentile(np.percentile(drawn_s, _PERCENTILE, axis=1), [2.5, 97.5])
    return Interval(float(np.percentile(latencies_s, _PERCENTILE)), float(low), float(high))


def _sure(value: float) -> Interval:
    return Interval(value, value, value)
