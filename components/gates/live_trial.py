"""A challenger beside the champion on live requests: it answers, in time, and says nothing wildly different.

Unlike the other gates these judge after a trial, when all others have let the model pass: nobody knows what is right
for a live request, so they tell a broken model from a sound one, and not a better from a worse.
"""

from __future__ import annotations

from components import params
from components.gates.verdict import GateResult
from components.trials import Comparison, Trial


def judge(settings: params.Gates, trial: Trial, found: Comparison) -> tuple[GateResult, ...]:
    """The verdicts on a trial; without enough requests it is not passed."""
    results = [_clips(settings, found), _failures(settings, found), _slowdown(settings, found)]
    if trial.mode == "shadow":
        results.append(_agreement(settings, found))
    return tuple(results)


def _clips(settings: params.Gates, found: Comparison) -> GateResult:
    message = f"it judged {found.num_clips} live requests of the {settings.trial_clips} that are wanted"
    passed = found.num_clips >= settings.trial_clips
    return GateResult("live_trial/requests", passed, found.num_clips, settings.trial_clips, None, None, message)


def _failures(settings: params.Gates, found: Comparison) -> GateResult:
    name, limit, share = "live_trial/failures", settings.max_trial_failed_share, found.failed_share
    if share is None:
        return GateResult(name, False, None, limit, None, None, "it was asked nothing")
    message = f"it had no answer to {100 * share:.1f} % of the requests that the champion answered"
    return GateResult(name, share <= limit, share, limit, None, None, message)


def _slowdown(settings: params.Gates, found: Comparison) -> GateResult:
    name, limit = "live_trial/slowdown", settings.max_trial_slowdown
    if not found.champion_p95_s or found.challenger_p95_s is None:
        return GateResult(name, False, None, limit, None, None, "one of the models judged nothing")
    times = found.challenger_p95_s / found.champion_p95_s
    message = (
        f"95 of 100 requests took it {found.challenger_p95_s:.3f} s, and the champion {found.champion_p95_s:.3f} s: "
        f"{times:.2f} times as long"
    )
    return GateResult(name, times <= limit, times, limit, None, None, message)


def _agreement(settings: params.Gates, found: Comparison) -> GateResult:
    name, floor, same = "live_trial/agreement", settings.min_trial_agreement, found.agreement
    if same is None or found.mean_distance is None:
        return GateResult(name, False, None, floor, None, None, "no answers were compared")
    passed = same.high >= floor
    message = f"it says what the champion says in {same}, at a mean distance of {found.mean_distance:.3f}"
    return GateResult(name, passed, same.value, floor, same.low, same.high, message)
