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
_FAILED_FOR_S: Final = 30.0
# The service chooses a replica by chance: of two, one that has the old model is missed once in four thousand times.
_ANSWERS_A_REPLICA: Final = 6


class _Served(NamedTuple):
    """What a serveConfigV2 says is served, and by how many replicas."""

    config: str
    num_replicas: int


def deploy(
    bundle: str,
    release: int,
    *,
    here: Settings,
    cluster: KubernetesCredentials | None = None,
    deadline_s: float = 900.0,
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
    before = _change(service, bundle, release, deadline)
    try:
        return _wait(service, here, bundle, release, before.num_replicas, deadline)
    except DeployError:
        # Whether or not this succeeds, the first failure is the one to tell.
        with contextlib.suppress(DeployError):
            former = _user_config(yaml.safe_load(before.config))
            _change(service, former.bundle, former.release, time.monotonic() + deadline_s)
        raise


def _change(service: CustomObject, bundle: str, release: int, deadline: float) -> _Served:
    """Write bundle and release into the RayService; what was there before."""
    while time.monotonic() < deadline:
        try:
            present = service.read(deadline)
            text = str(present["spec"]["serveConfigV2"])
            config = yaml.safe_load(text)
            _user_config(config)
            deployment = _deployment(config)
            deployment["user_config"] = {"bundle": bundle, "release": release}
            refuse_unknown(config)
            changed = {
                "metadata": {"resourceVersion": present["metadata"]["resourceVersion"]},
                "spec": {"serveConfigV2": yaml.safe_dump(config, sort_keys=False)},
            }
            service.change(changed, deadline)
        except Conflict:
            # Somebody else's change, or KubeRay's own: look again.
            time.sleep(_POLL_S)
            continue
        except (RequestRefused, ValueError, KeyError) as error:
            raise DeployError(f"release {release} is not served: {service}: {error}") from error
        return _Served(text, int(deployment["num_replicas"]))
    raise DeployError(f"release {release} is not served: {service} was changed by others again and again")


def _wait(
    service: CustomObject, here: Settings, bundle: str, release: int, num_replicas: int, deadline: float
) -> ModelCard | None:
    wanted, found = _ANSWERS_A_REPLICA * num_replicas, 0
    failed_since: float | None = None
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
            failed_since = (failed_since or time.monotonic()) if status in ("DEPLOY_FAILED", "UNHEALTHY") else None
            if failed_since is not None and time.monotonic() - failed_since > _FAILED_FOR_S:
                raise DeployError(f"release {release} is not served: {last}")
            time.sleep(_POLL_S)
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


def _user_config(config: dict[str, Any]) -> UserConfig:
    return UserConfig.model_validate(_deployment(config).get("user_config", {}))
