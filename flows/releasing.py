"""What makes a release, as one transaction: claim, swap, wait until ready, ask the live endpoint, write the record.

Whatever fails on the way, the endpoint serves again what the release log names, and the error says so. A process that
is killed on the way leaves the log as it was: the next `affect up` puts the endpoint back, and its claim runs out.
"""

from __future__ import annotations

from collections.abc import Callable

from components.claims import claimed
from components.registry import Registry, Release
from components.settings import Settings
from components.stage import one_line
from components.storage import Storage
from components.trials import TrialEnd, TrialLog
from serving import keys, smoke
from serving.client import Client, ServingError
from serving.deploy import DeployError, deploy

Tell = Callable[[str], object]


class ReleaseFailed(RuntimeError):
    """A release was not made; the message says why, and what is served instead."""


def registry_of(settings: Settings) -> Registry:
    """The release log of this platform."""
    return Registry(Storage(settings.storage_url))


def make(candidate: Release, *, after: int, holder: str, settings: Settings, tell: Tell) -> Release:
    """Serve the candidate's bundle and write its record, or leave everything as it was.

    Args:
        candidate: names a bundle in the storage.
        after: number of the release that the decision was made against, 0 for none.
        holder: who makes it, in words.

    Raises:
        ReleaseConflict: somebody else makes a release now, or has made one since; nothing was touched, or it is back.
        ReleaseFailed: the endpoint did not come up with the bundle, or does not answer as it should; it is back.
    """
    registry, number = registry_of(settings), after + 1
    with claimed(registry.storage, number, holder=holder):
        registry.require_last(after)
        folder = registry.fetch_bundle(candidate.bundle, settings.home / "bundles")
        try:
            _serve(registry.bundle_uri(candidate.bundle), number, settings)
            key = keys.own_key(settings, settings.endpoint_url)
            with Client(settings.endpoint_url, key=key) as client:
                smoke.check(client, folder, release=number)
            return registry.append(candidate, after=after)
        except BaseException as error:
            tell(f"release {number} is not made: putting back what the release log names")
            served = restore(settings)
            if isinstance(error, DeployError | ServingError | smoke.SmokeError):
                raise ReleaseFailed(f"{one_line(error)}; {served} is served again") from error
            raise


def roll_back(number: int | None, *, note: str, holder: str, settings: Settings, tell: Tell) -> Release:
    """Make the bundle of an older release the champion again, with a record of its own.

    Args:
        number: of that release; None: the last one whose bundle is another than the live one.
        note: a person's reason.

    Raises:
        ValueError: there is no such release, or it is what is live.
        ReleaseConflict, ReleaseFailed: as for `make`.
    """
    registry = registry_of(settings)
    log = registry.releases()
    if not log:
        raise ValueError("nothing has been released: there is nothing to roll back")
    live = log[-1]
    if number is None:
        others = [release.number for release in log if release.bundle != live.bundle]
        if not others:
            raise ValueError(f"all {len(log)} releases are of the bundle that is live: there is none to go back to")
        number = others[-1]
    candidate = registry.rollback_to(number, note=note)
    if candidate.bundle == live.bundle:
        raise ValueError(f"release {number} is of the bundle that is live: there is nothing to roll back")
    return make(candidate, after=live.number, holder=holder, settings=settings, tell=tell)


def restore(settings: Settings, *, sample_share: float | None = None) -> str:
    """Make the endpoint serve what the release log says, and say in words what that is.

    It keeps samples of this share of requests from then on; without one, as before.

    Raises:
        DeployError: it does not come up with that either.
    """
    bundle, number = last_release(settings)
    _serve(bundle, number, settings, sample_share=sample_share)
    log = TrialLog(Storage(settings.storage_url))
    if (running := log.running(live=number)) is not None:
        log.end(running.number, TrialEnd("stopped", "what is live was put back, without a trial"))
    return f"release {number}" if bundle else "no model"


def last_release(settings: Settings) -> tuple[str, int]:
    """Address and number of what the release log says is live; an empty address and 0 before the first release."""
    registry = registry_of(settings)
    live = registry.champion()
    return (registry.bundle_uri(live.bundle), live.number) if live else ("", 0)


def _serve(bundle: str, release: int, settings: Settings, *, sample_share: float | None = None) -> None:
    """Have the endpoint serve a bundle, wherever it runs."""
    if settings.rayservice:
        # The client of Kubernetes takes a second to import.
        from flows import rayservice

        rayservice.deploy(bundle, release, here=settings)
    else:
        deploy(bundle, release, here=settings, sample_share=sample_share)
