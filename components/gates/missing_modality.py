"""What callers leave out costs some accuracy, and not all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components import metrics, params
from components.gates.evidence import Evidence, Gate
from components.gates.verdict import GateResult
from components.metrics import Scored


@dataclass(frozen=True)
class ModalitiesFloor:
    """With these modalities alone the headline figure is above a floor of their own.

    The floor lies a share of the way from what a constant answer reaches to what the candidate reaches with all that
    the clips have: a floor in figures would have to be set anew for each corpus.
    """

    modalities: str
    answers: Scored
    min_share: float
    num_resamples: int

    @property
    def name(self) -> str:
        return f"modalities/{self.modalities}"

    def judge(self, evidence: Evidence) -> GateResult:
        headline = evidence.headline
        whole = metrics.figure(evidence.candidate, headline.metric)
        floor = evidence.constant + self.min_share * (whole - evidence.constant)
        figure = metrics.bootstrap_by_speaker(self.answers, metric=headline.metric, num_resamples=self.num_resamples)
        passed = figure.value >= floor
        side = "above" if passed else "below"
        message = (
            f"{headline.words} {figure} with {self.modalities} alone is {abs(figure.value - floor):.3f} {side} "
            f"{floor:.3f}, which is {self.min_share:.0%} of the way from {evidence.constant:.3f}, a constant answer, "
            f"to {whole:.3f}"
        )
        return GateResult(self.name, passed, figure.value, floor, figure.low, figure.high, message)


def gates(settings: params.Gates, evidence: Evidence) -> tuple[Gate, ...]:
    """One gate a subset of the modalities whose clips allow the headline figure; the last is all of them."""
    metric = evidence.headline.metric
    missing = list(evidence.by_modalities.items())[:-1]
    return tuple(
        ModalitiesFloor(name, answers, settings.min_modality_share, settings.num_resamples)
        for name, answers in missing
        if np.isfinite(metrics.figure(answers, metric))
    )
