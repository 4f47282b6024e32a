"""Probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

from components import metrics, metrics_by_label, metrics_calibration, params
from components.gates.evidence import Evidence, Gate
from components.gates.verdict import GateResult


@dataclass(frozen=True)
class Calibrated:
    """The expected calibration error on held-out speakers (of several labels their mean) is within a limit."""

    max_error: float
    num_resamples: int
    name: str = "calibration"

    def judge(self, evidence: Evidence) -> GateResult:
        assert evidence.calibration is not None
        drawn = metrics.resample(evidence.calibration, num_resamples=self.num_resamples)
        error = drawn.interval(metrics_by_label.mean_of(metrics_calibration.calibration_error_of))
        passed = error.value <= self.max_error
        side = "within" if passed else "over"
        message = f"expected calibration error {error} is {abs(error.value - self.max_error):.3f} {side} the limit"
        return GateResult(self.name, passed, error.value, self.max_error, error.low, error.high, message)


def gates(settings: params.Gates, evidence: Evidence) -> tuple[Gate, ...]:
    """One gate, where the task has probabilities."""
    if evidence.calibration is None:
        return ()
    return (Calibrated(settings.max_calibration_error, settings.num_resamples),)
