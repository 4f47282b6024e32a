"""What a pod of the platform must be: Kubernetes' "restricted" standard and more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

_VOLUMES: Final = {"configMap", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret"}
_SECRET: Final = re.compile("PASSWORD|SECRET|TOKEN|AUTH_STRING|API_KEY|REDISCLI_AUTH")
# Names of secrets and of their keys, which are none.
_NAMES_OF_SECRETS: Final = re.compile("_SECRET_(NAME|KEY)$")
_UNITS: Final = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def wrong_with(pod: dict[str, Any], *, long_running: bool = True) -> list[str]:
    """All that is wrong with a pod's spec; one that ends by itself needs no probes."""
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    found = [*_of_pod(pod)]
    for each in containers:
        found += [f"{each['name']}: {problem}" for problem in _of_container(each, pod)]
    if long_running:
        found += [
            f"{each['name']}: no {probe}"
            for each in pod["containers"]
            for probe in ("livenessProbe", "readinessProbe")
            if probe not in each
        ]
    return found


def amount(text: str | int) -> float:
    """A quantity of Kubernetes as a number."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(text))
    assert parts is not None, text
    return float(parts[1]) * _UNITS[parts[2]]


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the node"
    if pod.get("serviceAccountName", "default") == "default":
        yield "runs as the default service account"
    for volume in pod.get("volumes", []):
        [kind] = volume.keys() - {"name"}
        if kind not in _VOLUMES:
            yield f"volume {volume['name']}: {kind}"
        if kind == "emptyDir" and "sizeLimit" not in volume[kind]:
            yield f"volume {volume['name']}: no limit"


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its image"
    if {"runAsUser", "runAsNonRoot", "seccompProfile"} & context.keys():
        yield "has another security context than its pod"
    name, _, tag = container["image"].rpartition(":")
    if not name or "/" in tag or tag == "latest":
        yield f"image {container['image']} is not pinned"
    resources = container.get("resources", {})
    for kind in ("cpu", "memory"):
        request, limit = (resources.get(each, {}).get(kind) for each in ("requests", "limits"))
        if request is None or limit is None:
            yield f"no request or no limit of {kind}"
        elif amount(request) > amount(limit):
            yield f"requests more {kind} than its limit"
    for variable in container.get("env", []):
        is_secret = _SECRET.search(variable["name"]) and not _NAMES_OF_SECRETS.search(variable["name"])
        if is_secret and "secretKeyRef" not in variable.get("valueFrom", {}):
            yield f"{variable['name']} is not taken from a secret"
    volumes = {each["name"] for each in pod.get("volumes", [])} | {"data"}
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"mounts {mount['name']}, which is none of the pod's volumes"
    if not any(mount["mountPath"] in ("/tmp", "/data") for mount in container.get("volumeMounts", [])):
        yield "has no place for temporary files"
