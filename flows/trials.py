"""A challenger beside the champion on live requests: begun, looked at, ended; by a person or before a release.

A trial changes what the endpoint is configured to do, as a release does, so it holds the claim on the next release
while it changes that. Whatever fails, the champion stays and no trial goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from components import params
from components.bundle_files import version_of
from components.claims import claimed
from components.gates import GateResult
from components.gates.live_trial import judge
from components.params import load_params
from components.registry import Release, ReleaseConflict
from components.settings import Settings
from components.storage import Storage
from components.trials import Comparison, Mode, Trial, TrialConfig, TrialEnd, TrialLog, compare
from flows.records import find_record
from flows.releasing import registry_of
from flows.workspace import Workspace, find, reopen
from serving.deploy import DeployError, set_trial

_POLL_S = 2.0


@dataclass(frozen=True)
class TrialStatus:
    """The last trial: how it ended, if it has; what it was to be judged by; and its figures and verdicts so far."""

    trial: Trial
    end: TrialEnd | None
    is_running: bool
    figures: Comparison
    gates: tuple[GateResult, ...]


def start(run: str, mode: Mode, share: float, *, settings: Settings) -> Trial:
    """Begin a trial of a finished run's model: its id or digest, or last.

    Raises:
        ValueError: there is no such run, nothing is live, or the model is what is live.
        TrialRunning: another trial goes on.
        ReleaseConflict: somebody makes a release now.
        DeployError: the endpoint does not come up with it.
    """
    return begin(reopen(find_record(settings, run).digest, settings), mode, share, settings=settings)


def begin(workspace: Workspace, mode: Mode, share: float, *, settings: Settings) -> Trial:
    """As `start`, of the model in a workspace."""
    registry, log = registry_of(settings), _log(settings)
    live = registry.champion()
    version = version_of(workspace.folder / "build/bundle")
    if live is None:
        raise ValueError("nothing is live that a model could be tried beside: release one first")
    if live.version == version:
        raise ValueError(f"run {workspace.digest} is of the model that is live: there is nothing to try")
    with claimed(registry.storage, live.number + 1, holder=f"the start of a trial of run {workspace.digest}"):
        registry.require_last(live.number)
        bundle = registry.store_bundle(workspace.folder / "build/bundle")
        begun = log.begin(Trial(live.number, bundle, version, workspace.digest, mode, share), live=live.number)
        try:
            config = TrialConfig(number=begun.number, bundle=registry.bundle_uri(bundle), mode=mode, share=share)
            _set(config, settings)
        except DeployError as error:
            log.end(begun.number, TrialEnd("refused", str(error)))
            raise
    return begun


def status(settings: Settings) -> TrialStatus | None:
    """The last trial; None before the first."""
    found = _log(settings).last()
    if found is None:
        return None
    trial, end = found
    live = registry_of(settings).champion()
    figures = compare(_log(settings).observations(trial.number))
    is_running = end is None and live is not None and live.number == trial.release
    return TrialStatus(trial, end, is_running, figures, judge(_settings_of(trial, settings), trial, figures))


def stop(reason: str, *, settings: Settings) -> TrialStatus:
    """End the trial that goes on: the champion answers everybody.

    Raises:
        ValueError: none goes on.
        DeployError: the endpoint does not say that it is over.
    """
    now = status(settings)
    if now is None or not now.is_running:
        raise ValueError("no trial goes on: `affect trial start` begins one")
    end(now.trial, TrialEnd("stopped", reason), settings=settings)
    ended = status(settings)
    assert ended is not None
    return ended


def end(trial: Trial, how: TrialEnd, *, settings: Settings) -> None:
    """Let the champion answer everybody again, unless there is a new one, and say that a trial is over."""
    registry = registry_of(settings)
    live = registry.champion()
    if live is not None and live.number == trial.release:
        with claimed(registry.storage, live.number + 1, holder=f"the end of trial {trial.number}"):
            _set(None, settings)
    _log(settings).end(trial.number, how)


def hold(
    workspace: Workspace, champion: Release, wanted: params.Gates, *, settings: Settings, tell: Callable[[str], object]
) -> tuple[GateResult, ...]:
    """Try a model beside the champion until enough requests were judged or the time is over; the verdicts.

    Raises:
        ReleaseConflict: another release was made in the meantime.
        TrialRunning, DeployError: as for `start`.
    """
    assert wanted.trial != "none"
    trial = begin(workspace, wanted.trial, wanted.trial_share, settings=settings)
    tell(f"trial {trial.number}: {trial.mode} on {100 * trial.share:g} % of the requests to {settings.endpoint_url}")
    how = TrialEnd("stopped", "the run ended before its trial")
    try:
        found = _wait(trial, champion, wanted, settings)
        results = judge(wanted, trial, found)
        failed = [each.name for each in results if not each.passed]
        how = TrialEnd("refused", f"gates {', '.join(failed)}") if failed else TrialEnd("passed", "all gates")
    finally:
        end(trial, how, settings=settings)
    return results


def _wait(trial: Trial, champion: Release, wanted: params.Gates, settings: Settings) -> Comparison:
    deadline = time.monotonic() + 3600 * wanted.trial_timeout_h
    while True:
        found = compare(_log(settings).observations(trial.number))
        if found.num_clips >= wanted.trial_clips or time.monotonic() > deadline:
            return found
        live = registry_of(settings).champion()
        if live is None or live.number != champion.number:
            raise ReleaseConflict(f"trial {trial.number} ended with a release by somebody else: judge against that")
        time.sleep(_POLL_S)


def _settings_of(trial: Trial, settings: Settings) -> params.Gates:
    """The limits of the run that is tried, or the usual ones where it is not to be found."""
    folder = find(trial.run, settings)
    path = folder / "build/params.yaml" if folder else None
    return load_params(path).gates if path and path.exists() else params.Gates()


def _log(settings: Settings) -> TrialLog:
    return TrialLog(Storage(settings.storage_url))


def _set(trial: TrialConfig | None, settings: Settings) -> None:
    """Have the endpoint begin or end a trial, wherever it runs."""
    if settings.rayservice:
        # The client of Kubernetes takes a second to import.
        from flows import rayservice

        rayservice.set_trial(trial, here=settings)
    else:
        set_trial(trial, here=settings)
