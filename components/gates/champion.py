"""The candidate is not worse than what is live, on the same clips."""

from __future__ import annotations

from dataclasses import dataclass

from components import metrics, params
from components.gates.evidence import Evidence, Gate
from components.gates.verdict import GateResult


@dataclass(frozen=True)
class NotWorseThanChampion:
    """The interval of candidate - champion does not reach below the loss that is allowed."""

    max_loss: float
    num_resamples: int
    name: str = "not_worse_than_champion"

    def judge(self, evidence: Evidence) -> GateResult:
        threshold = -self.max_loss
        if evidence.champion is None:
            message = "there is no champion to beat: this is the first release"
            if evidence.champion_version is not None:
                message = f"the champion (version {evidence.champion_version}) knows none of these labels"
            if evidence.champion_version is not None and evidence.champion_kind != evidence.kind:
                message = (
                    f"the champion (version {evidence.champion_version}) answers {evidence.champion_kind}, "
                    f"this one {evidence.kind}: they cannot be compared"
                )
            return GateResult(self.name, True, None, threshold, None, None, message)
        if evidence.candidate_version == evidence.champion_version:
            message = f"candidate and champion are identical (version {evidence.champion_version})"
            return GateResult(self.name, True, 0.0, threshold, 0.0, 0.0, message)
        headline = evidence.headline
        figure = metrics.paired_bootstrap(
            evidence.candidate, evidence.champion, metric=headline.metric, num_resamples=self.num_resamples
        )
        passed = figure.low >= threshold
        reach = f"the low end is {abs(figure.low - threshold):.3f} {'above' if passed else 'below'} {threshold:+.3f}"
        ends = f"[{figure.low:+.3f}, {figure.high:+.3f}]"
        message = f"{headline.words} against the champion {figure.value:+.3f} {ends}: {reach}"
        if len(set(evidence.candidate.speaker_ids)) == 1:
            message += "; one test speaker only, so this says nothing about others"
        return GateResult(self.name, passed, figure.value, threshold, figure.low, figure.high, message)


def gates(settings: params.Gates, _evidence: Evidence) -> tuple[Gate, ...]:
    """The one comparison with the champion."""
    return (NotWorseThanChampion(settings.max_champion_loss, settings.num_resamples),)
