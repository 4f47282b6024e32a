"""Every overlay, as far as it can be proved without a cluster: it renders, and the Kubernetes API would take it."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray

from tests.conftest import REPOSITORY
from tests.custom_resources import needs_definitions, rules, schema_of, violations
from tests.infra import INFRA, KUBERNETES, OVERLAYS, job_template, needs_kubectl, of_kind, pods, render, rendered

pytestmark = needs_kubectl

# Of operators whose definitions no package brings: tests/test_infra_monitoring.py looks at what is in them.
UNCHECKED = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
OF_KUBERAY = {"RayService": "endpoint", "RayJob": "training"}


@functools.cache
def _validate(text: str) -> None:
    """Most objects are the same in all overlays."""
    kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_are_valid_and_name_no_unknown_field(overlay: str) -> None:
    for each in rendered(overlay):
        if each["kind"] not in UNCHECKED | OF_KUBERAY.keys():
            _validate(json.dumps(each))
    for group in pods(overlay):
        _validate(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": group.spec}))


def test_a_misspelt_field_of_a_core_kind_is_refused() -> None:
    server = copy.deepcopy(of_kind("gpu", "Deployment")["prefect-server"])
    server["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessprobe"):
        kubernetes_validate.validate(server, KUBERNETES, strict=True)


@needs_definitions
@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", OF_KUBERAY)
def test_custom_resources_are_valid_and_keep_the_rules(overlay: str, kind: str) -> None:
    found = of_kind(overlay, kind)
    assert list(found) == [OF_KUBERAY[kind]]
    [resource] = found.values()
    assert violations(resource) == []
    # Applied once more, nothing that may not change has changed.
    assert violations(resource, before=resource) == []


def _changed(kind: str, path: str, value: Any) -> dict[str, Any]:
    resource = copy.deepcopy(of_kind("gpu", kind)[OF_KUBERAY[kind]])
    *folders, name = path.split(".")
    place = resource
    for folder in folders:
        place = place[int(folder)] if isinstance(place, list) else place[folder]
    place[name] = value
    return resource


@needs_definitions
@pytest.mark.parametrize(
    ("kind", "path", "value", "refused"),
    [
        ("RayService", "spec.serveConfigV3", "", "'serveConfigV3' was unexpected"),
        ("RayService", "spec.rayClusterConfig.headGroupSpec.rayStartparams", {}, "'rayStartparams' was unexpected"),
        ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.maxReplica", 3, "'maxReplica' was unexpected"),
        ("RayJob", "spec.backoffLimit", "two", "is not of type 'integer'"),
        ("RayJob", "spec.managedBy", "somebody", "the managedBy field value must be either"),
        ("RayJob", "spec.deletionStrategy.onSuccess", {"policy": "DeleteSelf"}, "cannot be used together"),
        ("RayJob", "spec.deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}, "requires either BOTH"),
        (
            "RayJob",
            "spec.deletionStrategy.deletionRules.0.condition",
            {"ttlSeconds": 1},
            "requires either the JobStatus",
        ),
        (
            "RayJob",
            "spec.deletionStrategy.deletionRules.0.condition",
            {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"},
            "cannot be used together within the same deletion condition",
        ),
    ],
)
def test_what_the_api_would_refuse_is_found(kind: str, path: str, value: Any, refused: str) -> None:
    assert any(refused in each for each in violations(_changed(kind, path, value)))


@needs_definitions
def test_a_change_of_what_may_not_change_is_found() -> None:
    before = of_kind("gpu", "RayJob")["training"]
    after = _changed("RayJob", "spec.managedBy", "ray.io/kuberay-operator")
    assert violations(after) == []
    assert violations(after, before=before) == ["$.spec.managedBy: the managedBy field is immutable"]


@needs_definitions
def test_every_rule_of_the_definitions_is_known_to_the_tests() -> None:
    """Those of the kinds that are used; a new definition brings its rules here."""
    found = {kind: len(list(rules(schema_of(kind)))) for kind in OF_KUBERAY}
    assert found == {"RayService": 5, "RayJob": 9}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kuberay_itself_would_refuse(overlay: str) -> None:
    """Its operator checks more than the definitions say (ray-operator/controllers/ray/utils/validation.go)."""
    job = of_kind(overlay, "RayJob")["training"]["spec"]
    # The container of SidecarMode has no security context, which a restricted namespace refuses.
    assert job["submissionMode"] == "HTTPMode"
    assert "shutdownAfterJobFinishes" not in job, "not beside deletion rules"
    assert job["preRunningDeadlineSeconds"] < job["activeDeadlineSeconds"]
    lasts: dict[str, dict[str, int]] = {}
    for rule in job["deletionStrategy"]["deletionRules"]:
        condition = rule["condition"]
        status = condition.get("jobStatus") or condition["jobDeploymentStatus"]
        assert rule["policy"] not in lasts.setdefault(status, {}), "one rule a policy and status"
        lasts[status][rule["policy"]] = condition["ttlSeconds"]
    for status in ("SUCCEEDED", "FAILED", "Failed"):
        ordered = [
            lasts[status][each] for each in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if each in lasts[status]
        ]
        assert ordered == sorted(ordered)
        assert "DeleteCluster" in lasts[status], f"a job that ended {status} leaves its cluster"
    for cluster in (job["rayClusterSpec"], of_kind(overlay, "RayService")["endpoint"]["spec"]["rayClusterConfig"]):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
        assert cluster["rayVersion"] == ray.__version__


def test_the_endpoint_outlives_its_head_and_one_node() -> None:
    service = of_kind("gpu", "RayService")["endpoint"]["spec"]
    cluster = service["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "valkey:6379"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert service["excludeHeadPodFromServeSvc"]
    [group] = cluster["workerGroupSpecs"]
    assert group["minReplicas"] >= 2
    valkey = of_kind("gpu", "Service")["valkey"]["spec"]
    assert [port["port"] for port in valkey["ports"]] == [6379]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pods_share_a_disk(overlay: str) -> None:
    """What a flow and the nodes of its cluster have in common is the object store."""
    assert of_kind(overlay, "PersistentVolumeClaim") == {}
    assert "ReadWriteMany" not in json.dumps(rendered(overlay))
    for group in pods(overlay):
        claims = [each for each in group.spec.get("volumes", []) if "persistentVolumeClaim" in each]
        assert claims == [], group.owner


def test_gpu_overlays_ask_for_gpus_and_the_small_one_for_none() -> None:
    def training(overlay: str) -> dict[str, Any]:
        [group] = of_kind(overlay, "RayJob")["training"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        found: dict[str, Any] = group["template"]["spec"]
        return found

    gpu = training("gpu")
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert {"NCCL_SOCKET_IFNAME", "NCCL_DEBUG"} <= {each["name"] for each in gpu["containers"][0]["env"]}
    [shm] = [each["emptyDir"] for each in gpu["volumes"] if each["name"] == "shm"]
    assert shm == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert "nvidia.com/gpu" not in json.dumps(rendered("cpu-small"))


@needs_definitions
def test_slices_of_gpus_are_asked_for_by_their_size(tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    overlay = tmp_path / "infra" / "overlays" / "gpu"
    file = overlay / "kustomization.yaml"
    file.write_text(f"{file.read_text()}  - ../../components/gpu-mig\n")
    [job] = [each for each in render(overlay) if each["kind"] == "RayJob"]
    assert violations(job) == []
    [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    # By a name of this form KubeRay tells Ray of a GPU, without any more.
    assert "num-gpus" not in group["rayStartParams"]


def test_one_line_names_the_image_of_every_pod(tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    file = tmp_path / "infra" / "components" / "image" / "kustomization.yaml"
    text = file.read_text().replace("newName: crossmodal-affect", "newName: registry.example.org/affect")
    file.write_text(text.replace("newTag: 0.1.0", "newTag: 7.8.9"))
    text = json.dumps(render(tmp_path / "infra" / "overlays" / "monitoring"))
    assert "crossmodal-affect:" not in text
    # Two of the server and the worker, three of its initialisation and the one of flow runs, four of Ray.
    assert text.count('"registry.example.org/affect:7.8.9"') == 10


def test_the_image_has_the_version_of_the_project() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    own = {each["image"] for group in pods("gpu") for each in group.containers if "affect" in each["image"]}
    assert own == {f"crossmodal-affect:{version}"}


def test_the_form_of_the_work_pool_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(job_template("gpu")["variables"])
