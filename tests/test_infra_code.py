"""The manifests against the code that they start: Serve's configuration, the variables, the pods of flow runs."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import uuid
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings.legacy import _get_valid_setting_names  # Prefect lists its variables nowhere else
from prefect.settings.models.root import Settings as PrefectSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from ray.serve.deployment import Application

from components.settings import NODE_ENVIRONMENT, Settings
from serving import serve_proxy
from serving.deploy import APPLICATION, DEPLOYMENT, refuse_unknown, serve_config
from tests.infra import KUBERNETES, OVERLAYS, environment, job_template, needs_kubectl, of_kind, pods
from tests.pod_policies import wrong_with

pytestmark = needs_kubectl

# Where a deployment of the cluster may differ from that of a laptop.
OF_THE_CLUSTER = {"num_replicas", "max_replicas_per_node", "ray_actor_options", "user_config"}


def _serve_config(overlay: str) -> dict[str, Any]:
    [maps] = [each for name, each in of_kind(overlay, "ConfigMap").items() if name.startswith("endpoint-")]
    found: dict[str, Any] = yaml.safe_load(maps["data"]["serve.yaml"])
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_takes_the_configuration(overlay: str) -> None:
    config = _serve_config(overlay)
    refuse_unknown(config)
    [application] = config["applications"]
    [deployment] = application["deployments"]
    assert (application["name"], deployment["name"]) == (APPLICATION, DEPLOYMENT)
    # The worker adds it, and what is applied again must not take it off.
    assert "user_config" not in deployment
    assert "serveConfigV2" not in of_kind(overlay, "RayService")["endpoint"]["spec"]
    assert deployment["num_replicas"] >= 2
    # A replica beside each proxy, on nodes that have the processors.
    [group] = of_kind(overlay, "RayService")["endpoint"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["replicas"] * deployment["max_replicas_per_node"] >= deployment["num_replicas"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert float(limits["cpu"]) >= deployment["ray_actor_options"]["num_cpus"]


def test_an_unknown_key_of_the_configuration_is_refused() -> None:
    config = _serve_config("gpu")
    config["applications"][0]["deployments"][0]["max_queued_request"] = 1
    with pytest.raises(ValueError, match="max_queued_request"):
        refuse_unknown(config)


def test_what_the_configuration_names_can_be_imported() -> None:
    module, _, name = _serve_config("gpu")["applications"][0]["import_path"].partition(":")
    application = getattr(importlib.import_module(module), name)
    assert isinstance(application, Application)
    assert application._bound_deployment.name == DEPLOYMENT


def test_the_endpoint_is_that_of_a_laptop_but_for_its_size(tmp_path: Any) -> None:
    cluster, laptop = _serve_config("gpu"), serve_config("", 0, here=Settings(home=tmp_path))
    [of_cluster], [of_laptop] = (each["applications"][0]["deployments"] for each in (cluster, laptop))
    assert {name: value for name, value in of_cluster.items() if name not in OF_THE_CLUSTER} == {
        name: value for name, value in of_laptop.items() if name not in OF_THE_CLUSTER
    }
    assert cluster["http_options"]["request_timeout_s"] == laptop["http_options"]["request_timeout_s"]
    assert cluster["applications"][0]["import_path"] == laptop["applications"][0]["import_path"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_variables_are_settings_and_rays_are_those_of_a_laptop(overlay: str) -> None:
    known = {f"AFFECT_{name.upper()}" for name in Settings.model_fields}
    for group in pods(overlay):
        for container in group.containers:
            variables = {each["name"] for each in container.get("env", [])} | environment(overlay, container).keys()
            assert {name for name in variables if name.startswith("AFFECT_")} <= known
            if "RayService" in group.owner:
                wanted = {**NODE_ENVIRONMENT, **serve_proxy.ENVIRONMENT}
                assert wanted.items() <= environment(overlay, container).items()
                # It would refuse all callers.
                assert "AFFECT_API_KEYS" in variables


# Prints what a process takes for its settings.
SETTINGS = """
import json
from components import settings
from components.storage import Storage
from prefect.settings import get_current_settings
from prefect_kubernetes.settings import KubernetesSettings
with Storage(settings.load().storage_url)._opened("releases") as (filesystem, path):
    filesystem.connect()
found, kubernetes = get_current_settings(), KubernetesSettings()
database, web = found.server.database, found.worker.webserver
print(json.dumps({
    "store": [filesystem.s3.meta.endpoint_url, path],
    "ray": str(settings.load().ray_folder),
    "endpoint": settings.load().endpoint_url,
    "api": found.api.url,
    "database": [database.driver, database.host, database.port, database.name, database.user],
    "ui": [found.server.ui.api_url, found.server.ui.static_directory],
    "metrics": found.server.metrics_enabled,
    "analytics": found.server.analytics_enabled,
    "secret": [kubernetes.worker.api_auth_string_secret_name, kubernetes.worker.api_auth_string_secret_key],
    "namespaces": sorted(kubernetes.observer.namespaces),
    "health": [web.host, web.port],
}))
"""


def _variables(kind: str, name: str) -> dict[str, str]:
    [container] = of_kind("minio", kind)[name]["spec"]["template"]["spec"]["containers"]
    return environment("minio", container)


def test_prefect_and_the_store_take_their_variables() -> None:
    """In a process that has the variables of server and worker, and no others."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    variables = _variables("Deployment", "prefect-server") | _variables("Deployment", "prefect-worker")
    ended = subprocess.run(
        [sys.executable, "-c", SETTINGS], env={**kept, **keys, **variables}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {
        "store": ["http://minio:9000", "affect/platform/releases"],
        "ray": "/tmp/affect/ray",
        "endpoint": "http://endpoint-serve-svc:8000",
        "api": "http://prefect-server:4200/api",
        "database": ["postgresql+asyncpg", "postgres", 5432, "prefect", "prefect"],
        "ui": ["/api", "/tmp/ui"],
        "metrics": True,
        "analytics": False,
        "secret": ["prefect", "auth-string"],
        "namespaces": ["affect"],
        "health": ["0.0.0.0", 8080],
    }


def test_an_unknown_variable_of_prefect_is_none() -> None:
    """Every PREFECT_ variable changes a setting: one that is misspelt would be ignored."""
    names = {
        name
        for group in pods("minio")
        for container in group.containers
        for name in {each["name"] for each in container.get("env", [])} | environment("minio", container).keys()
        if name.startswith("PREFECT_")
    }
    known = _get_valid_setting_names(PrefectSettings)
    # The test before looks at those of the integration.
    assert {name for name in names - known if not name.startswith("PREFECT_INTEGRATIONS_KUBERNETES_")} == set()


@functools.cache
def _job(overlay: str, **variables: str) -> KubernetesWorkerJobConfiguration:
    return _made(overlay, **variables)


def _made(overlay: str, **variables: object) -> KubernetesWorkerJobConfiguration:
    """What a worker makes of the pool's template for a flow run."""
    values = {"image": "registry.example.org/affect:1", **variables}
    template = job_template(overlay)
    jsonschema.validate(values, template["variables"])
    # Nothing in the template is a reference that a server would have to resolve.
    client = PrefectClient("http://127.0.0.1:9/api")
    made = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(template, values, client=client))
    assert isinstance(made, KubernetesWorkerJobConfiguration)
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), name="able-hawk", flow_id=uuid.uuid4()))
    return made


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_flow_run_gets_a_valid_and_restricted_pod(overlay: str) -> None:
    own = {"name": "corpora", "persistentVolumeClaim": {"claimName": "recordings"}}
    job = _job(overlay, cpu_limit="3", storage="7Gi").job_manifest
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    pod = job["spec"]["template"]["spec"]
    assert wrong_with(pod, long_running=False) == []
    [container] = pod["containers"]
    assert container["image"] == "registry.example.org/affect:1"
    assert container["resources"]["limits"] == {"cpu": "3", "memory": "8Gi"}
    assert container["args"][-3:] == ["prefect", "flow-run", "execute"] or "flow-run" in " ".join(container["args"])
    volumes = {each["name"]: each for each in pod["volumes"]}
    template = volumes["workspaces"]["ephemeral"]["volumeClaimTemplate"]
    assert template["spec"]["resources"]["requests"] == {"storage": "7Gi"}
    assert "emptyDir" in volumes["corpora"]
    assert own in _made(overlay, corpora=own).job_manifest["spec"]["template"]["spec"]["volumes"]
    assert job["metadata"]["namespace"] == "affect"
    # The network policies go by it.
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "flow-run"
    assert pod["serviceAccountName"] in of_kind(overlay, "ServiceAccount")
    assert not re.search(r"\{\{", json.dumps(job)), "a variable without a value"


def test_every_variable_of_the_template_is_used_and_known() -> None:
    template = job_template("gpu")
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pool_is_given_variables_that_its_template_has(overlay: str) -> None:
    worker = of_kind(overlay, "Deployment")["prefect-worker"]["spec"]["template"]["spec"]
    [register] = [each for each in worker["initContainers"] if each["name"] == "deployments"]
    given = dict(each.split("=") for each in register.get("args", []) if "=" in each)
    assert _job(overlay, **given).job_manifest
    assert bool(given) == (overlay == "cpu-small")
