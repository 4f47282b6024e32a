"""The manifests under `infra/` as kustomize makes them, and the pods that they ask for."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

INFRA = REPOSITORY / "infra"
OVERLAYS = tuple(sorted(path.name for path in (INFRA / "overlays").iterdir()))
KUBERNETES = "1.34"

Manifest = dict[str, Any]

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@dataclass(frozen=True)
class Pods:
    """One template of pods.

    Attributes:
        owner: kind and name of what makes them, and the group where there are several.
        replicas: how many there are of it.
        template: as a PodTemplateSpec.
        ends: by itself, when its work is done.
    """

    owner: str
    replicas: int
    template: Manifest
    ends: bool = False

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.template["metadata"]["labels"]
        return found

    @property
    def spec(self) -> Manifest:
        found: Manifest = self.template["spec"]
        return found

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """All objects of an overlay."""
    return render(INFRA / "overlays" / overlay)


def render(folder: Path) -> tuple[Manifest, ...]:
    """All objects that kustomize makes of a folder."""
    made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return tuple(yaml.load_all(made.stdout, yaml.CSafeLoader))


def of_kind(overlay: str, kind: str) -> dict[str, Manifest]:
    """The objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in rendered(overlay) if each["kind"] == kind}


def pods(overlay: str) -> Iterator[Pods]:
    """Every template of pods of an overlay, with the labels that KubeRay adds to it; flow runs' are not among them."""
    for each in rendered(overlay):
        owner, spec = f"{each['kind']} {each['metadata']['name']}", each.get("spec", {})
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield Pods(owner, spec["replicas"], spec["template"])
        if each["kind"] == "Job":
            yield Pods(owner, 1, spec["template"], ends=True)
        cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
        if cluster is None:
            continue
        yield Pods(f"{owner} head", 1, _of_ray(cluster["headGroupSpec"]["template"], "headgroup", "head"))
        for group in cluster["workerGroupSpecs"]:
            name = group["groupName"]
            yield Pods(f"{owner} {name}", group["replicas"], _of_ray(group["template"], name, "worker"))


def _of_ray(template: Manifest, group: str, node_type: str) -> Manifest:
    added = {"ray.io/is-ray-node": "yes", "ray.io/group": group, "ray.io/node-type": node_type}
    return {**template, "metadata": {"labels": {**template["metadata"]["labels"], **added}}}


def job_template(overlay: str) -> Manifest:
    """The base job template of the Prefect work pool."""
    [maps] = [each for name, each in of_kind(overlay, "ConfigMap").items() if name.startswith("work-pool-")]
    found: Manifest = json.loads(maps["data"]["base-job-template.json"])
    return found


def environment(overlay: str, container: Manifest) -> dict[str, str]:
    """Variables of a container that are no secrets."""
    maps = of_kind(overlay, "ConfigMap")
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector finds a pod."""
    for name, value in selector.get("matchLabels", {}).items():
        if labels.get(name) != value:
            return False
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In", wanted
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True
