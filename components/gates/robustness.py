"""Recordings from worse microphones and cameras are answered about as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components import metrics, params
from components.gates.evidence import DisturbanceKind, Disturbed, Evidence, Gate
from components.gates.verdict import GateResult, on_loss


@dataclass(frozen=True)
class WithstandsDisturbance:
    """The headline figure on disturbed recordings against that on the same clips without the disturbance."""

    disturbed: Disturbed
    max_loss: float
    num_resamples: int

    @property
    def name(self) -> str:
        return f"robustness/{self.disturbed.name}"

    def judge(self, evidence: Evidence) -> GateResult:
        headline = evidence.headline
        difference = metrics.paired_bootstrap(
            self.disturbed.answers,
            self.disturbed.reference,
            metric=headline.metric,
            num_resamples=self.num_resamples,
        )
        num_clips = len(self.disturbed.answers.speaker_ids)
        words = f"{headline.words} on {num_clips} clips against {self.disturbed.against}"
        return on_loss(self.name, words, difference, self.max_loss)


def gates(settings: params.Gates, evidence: Evidence) -> tuple[Gate, ...]:
    """One gate a disturbance whose clips allow the headline figure."""
    metric = evidence.headline.metric
    limits: dict[DisturbanceKind, float] = {
        "noise": settings.max_noise_loss,
        "gain": settings.max_gain_loss,
        "dropped_frames": settings.max_dropped_frames_loss,
        "silence": settings.max_silence_loss,
    }
    return tuple(
        WithstandsDisturbance(each, limits[each.kind], settings.num_resamples)
        for each in evidence.disturbed
        if all(np.isfinite(metrics.figure(answers, metric)) for answers in (each.answers, each.reference))
    )
