"""The headline figure reaches a floor."""

from __future__ import annotations

from dataclasses import dataclass

from components import metrics, params
from components.gates.evidence import Evidence, Gate
from components.gates.verdict import GateResult
from components.report import HEADLINES
from components.task import Kind


@dataclass(frozen=True)
class HeadlineFloor:
    """The headline figure on held-out speakers, such as the macro-F1 of classes, reaches a floor.

    A figure on clips that the epoch was chosen on is none on held-out speakers, and never passes.
    """

    floor: float
    num_resamples: int
    kind: Kind = "classes"

    @property
    def name(self) -> str:
        return f"{HEADLINES[self.kind].name}_floor"

    def judge(self, evidence: Evidence) -> GateResult:
        assert evidence.kind == self.kind
        headline = evidence.headline
        figure = metrics.bootstrap_by_speaker(
            evidence.candidate, metric=headline.metric, num_resamples=self.num_resamples
        )
        passed = figure.value >= self.floor
        distance = abs(figure.value - self.floor)
        side = "above" if passed else "below"
        message = f"{headline.words} {figure} is {distance:.3f} {side} the floor of {self.floor:.3f}"
        if evidence.selected_on == "test":
            passed = False
            message += "; but the epoch was chosen on these clips: train with finetune.select_on_test=false"
        return GateResult(self.name, passed, figure.value, self.floor, figure.low, figure.high, message)


def gates(settings: params.Gates, evidence: Evidence) -> tuple[Gate, ...]:
    """The floor of the task's kind."""
    floors: dict[Kind, float] = {
        "classes": settings.min_macro_f1,
        "multilabel": settings.min_mean_weighted_accuracy,
        "values": settings.min_mean_ccc,
    }
    return (HeadlineFloor(floors[evidence.kind], settings.num_resamples, evidence.kind),)
