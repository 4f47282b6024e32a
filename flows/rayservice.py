"""The endpoint as a RayService: KubeRay hands a new `user_config` in its serveConfigV2 to the running replicas.

What else stands in the RayService belongs to whoever applied it: a promotion changes bundle and release alone, and
against the version that was read, so that nobody's change is lost. Run as a module it writes all but these two, as a
worker does when it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import yaml
from prefect_kubernetes.credentials import KubernetesCredentials

from components.settings import Settings, load
from components.stage import one_line
from components.trials import TrialConfig
from flows.kubernetes import Conflict, CustomObject, RequestRefused
from flows.releasing import last_release
from serving.deploy import APPLICATION, DEPLOYMENT, DeployError, ask, refuse_unknown
from serving.ray_app import UserConfig
from serving.schema import ModelCard

_POLL_S: Final = 1.0
# KubeRay brings its status up to date now and then: a failure that it tells of may be that of the former configuration.
_FAILED_LOOKS: Final = 30
# The service chooses a replica by chance: of two, one that has the old model is missed once in four thousand times.
_ANSWERS_A_REPLICA: Final = 6


class _Served(NamedTuple):
    """What a RayService is told to serve, and by how many replicas."""

    user_config: UserConfig
    num_replicas: int


def deploy(
    bundle: str,
    release: int,
    *,
    here: Settings,
    cluster: KubernetesCredentials | None = None,
    deadline_s: float = 900.0,
    poll_s: float = _POLL_S,
) -> ModelCard | None:
    """Serve `bundle` as `release` and wait until every replica answers with it; the card of what is now served.

    An empty `bundle` serves no model; then there is no card.

    Raises:
        DeployError: the RayService is not there or may not be changed, the bundle was refused, or the deadline passed.
            What was served before is put back.
    """
    service = _service(here, cluster)
    deadline = time.monotonic() + deadline_s
    wanted = UserConfig(bundle=bundle, release=release, sample_share=here.sample_share)
    before = _change(service, lambda _present: wanted, deadline, poll_s)
    try:
        return _wait(service, here, _Served(wanted, before.num_replicas), deadline, poll_s)
    except DeployError:
        # Whether or not this succeeds, the first failure is the one to tell.
        with contextlib.suppress(DeployError):
            _change(service, lambda _present: before.user_config, time.monotonic() + deadline_s, poll_s)
        raise


def set_trial(
    trial: TrialConfig | None,
    *,
    here: Settings,
    cluster: KubernetesCredentials | None = None,
    deadline_s: float = 900.0,
    poll_s: float = _POLL_S,
) -> None:
    """Begin a trial beside what is served, or end the present one, and wait until every replica says so.

    Raises:
        DeployError: as for `deploy`; then no trial goes on.
    """
    service = _service(here, cluster)
    deadline = time.monotonic() + deadline_s

    def changed(present: UserConfig) -> UserConfig:
        return present.model_copy(update={"trial": trial})

    before = _change(service, changed, deadline, poll_s)
    try:
        _wait(service, here, _Served(changed(before.user_config), before.num_replicas), deadline, poll_s)
    except DeployError:
        without = before.user_config.model_copy(update={"trial": None})
        with contextlib.suppress(DeployError):
            _change(service, lambda _present: without, time.monotonic() + deadline_s, poll_s)
        raise


def configure(
    config: dict[str, Any], here: Settings, *, cluster: KubernetesCredentials | None = None, deadline_s: float = 300.0
) -> None:
    """Write a Serve configuration into the RayService; it is not waited for.

    What is served stays. A RayService that is new serves what the release log says is live.

    Raises:
        ValueError: Ray Serve would not take it.
        DeployError: the RayService is not there or may not be changed.
    """
    bundle, release = last_release(here)
    live = UserConfig(bundle=bundle, release=release).model_dump(exclude_none=True)
    refuse_unknown(config)

    def changed(present: dict[str, Any]) -> dict[str, Any]:
        made = copy.deepcopy(config)
        served = _deployment(present).get("user_config", live) if present else live
        _deployment(made)["user_config"] = {**served, "sample_share": here.sample_share}
        return made

    _write(_service(here, cluster), changed, time.monotonic() + deadline_s, _POLL_S)


def _service(here: Settings, cluster: KubernetesCredentials | None) -> CustomObject:
    namespace, _, name = here.rayservice.partition("/")
    return CustomObject(cluster or KubernetesCredentials(), "rayservices", namespace, name)


def _change(
    service: CustomObject, wanted: Callable[[UserConfig], UserConfig], deadline: float, poll_s: float
) -> _Served:
    """Write what is to be served into the RayService; what it was told before."""
    before: list[_Served] = []

    def changed(present: dict[str, Any]) -> dict[str, Any]:
        if not present:
            raise ValueError("it has no serveConfigV2 yet, which the Prefect worker writes when it starts")
        deployment = _deployment(present)
        found = UserConfig.model_validate(deployment.get("user_config", {}))
        before.append(_Served(found, int(deployment["num_replicas"])))
        deployment["user_config"] = wanted(found).model_dump(exclude_none=True)
        refuse_unknown(present)
        return present

    _write(service, changed, deadline, poll_s)
    # The first look: a change that was made and then reported as failed is what the second finds there.
    return before[0]


def _write(
    service: CustomObject, changed: Callable[[dict[str, Any]], dict[str, Any]], deadline: float, poll_s: float
) -> None:
    """Replace the Serve configuration by what `changed` makes of it; of none at first."""
    while time.monotonic() < deadline:
        try:
            present = service.read(deadline)
            text = str(present["spec"].get("serveConfigV2", ""))
            config = changed(yaml.safe_load(text) or {})
            if config == yaml.safe_load(text):
                return
            patch = {
                "metadata": {"resourceVersion": present["metadata"]["resourceVersion"]},
                "spec": {"serveConfigV2": yaml.safe_dump(config, sort_keys=False)},
            }
            service.change(patch, deadline)
        except Conflict:
            # Somebody else's change, or KubeRay's own: look again.
            time.sleep(poll_s)
            continue
        except (RequestRefused, ValueError, KeyError) as error:
            raise DeployError(f"{service} cannot be changed: {error}") from error
        return
    raise DeployError(f"{service} was changed by others again and again")


def _wait(service: CustomObject, here: Settings, served: _Served, deadline: float, poll_s: float) -> ModelCard | None:
    bundle, release = served.user_config.bundle, served.user_config.release
    wanted, found, num_failed = _ANSWERS_A_REPLICA * served.num_replicas, 0, 0
    last = "nothing yet"
    # A connection for each question: one that is kept always reaches the same replica.
    with httpx.Client(timeout=30.0, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while time.monotonic() < deadline:
            settled, card = ask(client, here, bundle, release, served.user_config.trial)
            found = found + 1 if settled else 0
            if found == wanted:
                return card
            if settled:
                continue
            try:
                status, reasons = _status(service.read(deadline))
            except RequestRefused as error:
                raise DeployError(f"release {release} is not served: {service}: {error}") from error
            last = f"Ray Serve says {status} {reasons}".strip()
            num_failed = num_failed + 1 if status in ("DEPLOY_FAILED", "UNHEALTHY") else 0
            if num_failed == _FAILED_LOOKS:
                raise DeployError(f"release {release} is not served: {last}")
            time.sleep(poll_s)
    raise DeployError(f"release {release} is not served in time: {last}; see `kubectl describe rayservice`")


def _status(present: dict[str, Any]) -> tuple[str, str]:
    """Status of the application as Ray Serve names it, and why."""
    active = present.get("status", {}).get("activeServiceStatus", {})
    application = active.get("applicationStatuses", {}).get(APPLICATION, {})
    deployment = application.get("serveDeploymentStatuses", {}).get(DEPLOYMENT, {})
    told = [each.get("message", "") for each in (application, deployment)]
    return application.get("status", "NOT_STARTED"), " ".join(" ".join(told).split())[-500:]


def _deployment(config: dict[str, Any]) -> dict[str, Any]:
    [application] = [each for each in config["applications"] if each["name"] == APPLICATION]
    [deployment] = [each for each in application["deployments"] if each["name"] == DEPLOYMENT]
    found: dict[str, Any] = deployment
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Configure the endpoint's RayService.")
    parser.add_argument("config", type=Path, help="Serve's configuration, but for the model")
    config: Path = parser.parse_args().config
    try:
        configure(yaml.safe_load(config.read_text(encoding="utf-8")), load())
    except (DeployError, ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
