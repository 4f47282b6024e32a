"""The endpoint as a RayService: KubeRay hands a new `user_config` in its serveConfigV2 to the running replicas.

What else stands in the RayService belongs to whoever applied it: only bundle and release are changed, and against the
version that was read, so that nobody's change is lost.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final, NamedTuple

import httpx
import yaml
from prefect_kubernetes.credentials import KubernetesCredentials

from components.settings import Settings
from flows.kubernetes import Conflict, CustomObject, RequestRefused
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
    namespace, _, name = here.rayservice.partition("/")
    service = CustomObject(cluster or KubernetesCredentials(), "rayservices", namespace, name)
    deadline = time.monotonic() + deadline_s
    wanted = UserConfig(bundle=bundle, release=release)
    before = _change(service, wanted, deadline, poll_s)
    try:
        return _wait(service, here, _Served(wanted, before.num_replicas), deadline, poll_s)
    except DeployError:
        # Whether or not this succeeds, the first failure is the one to tell.
        with contextlib.suppress(DeployError):
            _change(service, before.user_config, time.monotonic() + deadline_s, poll_s)
        raise


def _change(service: CustomObject, wanted: UserConfig, deadline: float, poll_s: float) -> _Served:
    """Write bundle and release into the RayService; what it was told before."""
    before: _Served | None = None
    while time.monotonic() < deadline:
        try:
            present = service.read(deadline)
            config = yaml.safe_load(str(present["spec"]["serveConfigV2"]))
            deployment = _deployment(config)
            # The first look: a change that was made and then reported as failed is read as what is there by the second.
            before = before or _Served(
                UserConfig.model_validate(deployment.get("user_config", {})), int(deployment["num_replicas"])
            )
            deployment["user_config"] = wanted.model_dump()
            refuse_unknown(config)
            changed = {
                "metadata": {"resourceVersion": present["metadata"]["resourceVersion"]},
                "spec": {"serveConfigV2": yaml.safe_dump(config, sort_keys=False)},
            }
            service.change(changed, deadline)
        except Conflict:
            # Somebody else's change, or KubeRay's own: look again.
            time.sleep(poll_s)
            continue
        except (RequestRefused, ValueError, KeyError) as error:
            raise DeployError(f"release {wanted.release} is not served: {service}: {error}") from error
        return before
    raise DeployError(f"release {wanted.release} is not served: {service} was changed by others again and again")


def _wait(service: CustomObject, here: Settings, served: _Served, deadline: float, poll_s: float) -> ModelCard | None:
    bundle, release = served.user_config.bundle, served.user_config.release
    wanted, found, num_failed = _ANSWERS_A_REPLICA * served.num_replicas, 0, 0
    last = "nothing yet"
    # A connection for each question: one that is kept always reaches the same replica.
    with httpx.Client(timeout=30.0, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while time.monotonic() < deadline:
            settled, card = ask(client, here, bundle, release)
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
