"""The platform's image: `make image` builds it, and containers of it do what the manifests start.

`make test-image` runs this. Each container is what a pod is told to be: user 10001, no capability, nothing to write to
but /tmp and its home. It is built as tests/test_image.py says, with packages from wherever this machine's pip has them.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.utils import NormalizedName, canonicalize_name
from prefect.client.orchestration import SyncPrefectClient

from components.params import Choices, with_setting
from flows.processes import free_ports
from serving.keys import new_key, to_text
from serving.prediction import Request
from serving.runtime import Runtime
from serving.schema import ClassAnswer
from tests.bundles import class_predictions, requests, write_bundle
from tests.conftest import REPOSITORY
from tests.containerfile import locked
from tests.infra import INFRA
from tests.podman import BASE, BUILD_OPTIONS, container, needs_podman, new_name, podman, run, size_of, wait
from tests.ray_endpoint import PORTS, start_head

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600), needs_podman]

# As infra/base has it of every container.
RESTRICTED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--shm-size=512m")
# The smallest run that goes through Ray Data and Ray Train.
SMALL = (
    *("synthetic.num_speakers=8", "synthetic.num_labelled=24", "synthetic.num_unlabelled=8", "model.width=16"),
    *("pretrain.num_epochs=1", "pretrain.batch_size=8"),
)
# Prints what is installed.
INSTALLED = """
import importlib.metadata, json
print(json.dumps({each.name: each.version for each in importlib.metadata.distributions()}))
"""


@dataclass(frozen=True)
class Image:
    """The image in podman's store, and the versions of the packages that its bill names."""

    name: str
    bill: dict[NormalizedName, str]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    name = f"localhost/{new_name()}"
    options = [*(f"--{each}" for each in BUILD_OPTIONS), f"--build-arg=BASE={BASE}"]
    options += _sources_of_this_machine(tmp_path_factory.mktemp("pip"))
    command = ["make", "image", "BUILDER=podman", f"IMAGE={name}", f"IMAGE_OPTIONS={' '.join(options)}"]
    begin_s = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    print(f"image of {size_of(name) / 1e9:.2f} GB, built in {time.monotonic() - begin_s:.0f} s")
    bill = json.loads((REPOSITORY / "build" / "image" / "sbom.cdx.json").read_text(encoding="utf-8"))
    yield Image(name, {canonicalize_name(each["name"]): each["version"] for each in bill["components"]})
    podman("rmi", "--force", name)


def _sources_of_this_machine(folder: Path) -> list[str]:
    """Options with which pip in the build finds packages where it does on this machine, also in folders of it."""
    options = []
    certificates = ssl.get_default_verify_paths().cafile
    if certificates:
        options.append(f"--secret=id=ca.crt,src={certificates}")
    asked = [[sys.executable, "-m", "pip", "config", "get", name] for name in ("global.find-links", ":env:.find-links")]
    found = [subprocess.run(command, capture_output=True, text=True, check=False) for command in asked]
    folders = {each for told in found if told.returncode == 0 for each in told.stdout.split() if Path(each).is_dir()}
    if folders:
        config = folder / "pip.conf"
        config.write_text(f"[global]\nfind-links = {' '.join(sorted(folders))}\n", encoding="utf-8")
        options += [f"--secret=id=pip.conf,src={config}", *(f"--volume={each}:{each}:ro" for each in sorted(folders))]
    if any(list(Path(each).glob("torch-*+cpu-*")) for each in folders):
        # Then nobody else is to be asked for it.
        options.append("--build-arg=TORCH_INDEX=https://pypi.org/simple")
    return options


def _environment() -> dict[str, str]:
    """What infra/base tells every pod."""
    base = yaml.safe_load((INFRA / "base" / "kustomization.yaml").read_text(encoding="utf-8"))
    [literals] = [each["literals"] for each in base["configMapGenerator"] if each["name"] == "platform"]
    return dict(each.split("=", 1) for each in literals)


def _pod(**variables: str) -> tuple[str, ...]:
    """Options of a container like a pod's, with the platform's variables but for those given."""
    environment = {**_environment(), "AFFECT_STORAGE_URL": "/var/lib/affect/store", **variables}
    return (*RESTRICTED, *(f"--env={name}={value}" for name, value in environment.items()))


def _home(folder: Path) -> str:
    """The option for a volume that belongs to the container's user."""
    return f"--volume={folder}:/var/lib/affect:U"


def test_its_user_is_the_manifests_and_writes_nowhere(image: Image) -> None:
    begin_s = time.monotonic()
    assert "affect" in run(image.name, options=RESTRICTED)
    print(f"affect --help takes {time.monotonic() - begin_s:.1f} s with the start of its container")
    assert run(image.name, "id", "-u", options=RESTRICTED).strip() == "10001"
    # What it could write to if its root were not read-only.
    found = run(image.name, "sh", "-c", "find / -xdev -writable -not -type l -not -path '/proc/*' 2>/dev/null; true")
    assert {each for each in found.splitlines() if not re.match("/(tmp|var/tmp|dev|run/lock)(/|$)", each)} == {
        "/var/lib/affect",
        *(f"/var/lib/affect/{each}" for each in (".bash_logout", ".bashrc", ".profile")),
    }
    labels = json.loads(podman("image", "inspect", "--format={{json .Labels}}", image.name).stdout)
    told = run(image.name, "sh", "-c", "echo $AFFECT_COMMIT").strip()
    assert labels["org.opencontainers.image.revision"] == told != "unknown"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])


def test_no_compiler_no_cache_and_no_package_of_the_tests_is_in_it(image: Image) -> None:
    root = ("--user=0",)
    compilers = "for each in cc c++ gcc g++ clang tcc as ld make cmake git ninja; do command -v $each; done; true"
    assert run(image.name, "sh", "-c", compilers, options=root) == ""
    for place in ("/root", "/tmp", "/var/tmp", "/build", "/layers", "/run/secrets"):
        inside = run(image.name, "sh", "-c", f"find {place} -mindepth 1 -type f 2>/dev/null | head; true", options=root)
        assert not [each for each in inside.splitlines() if not re.search(r"/\.(bashrc|profile)$", each)], place
    assert run(image.name, "ls", "-A", "/opt/affect", options=root).split() == [
        *("LICENSE", "README.md", "components", "dvc.yaml", "flows", "params.yaml", "prefect.yaml", "pyproject.toml"),
        *("requirements.lock", "serving"),
    ]
    counts = "for each in py pyc; do find /opt/affect -name *.$each | wc -l; done"
    num_sources, num_compiled = run(image.name, "sh", "-c", counts).split()
    assert num_sources == num_compiled
    installed = run(image.name, "python", "-c", INSTALLED)
    assert not {"pip", "pytest", "mypy", "ruff", "playwright", "swift"} & json.loads(installed).keys()


def test_the_bill_is_what_is_installed_and_what_is_locked(image: Image) -> None:
    installed = json.loads(run(image.name, "python", "-c", INSTALLED))
    found = {canonicalize_name(name): version for name, version in installed.items()}
    del found[canonicalize_name("crossmodal-affect")]
    assert image.bill == found
    versions = locked("requirements.lock") | locked("infra/image/cpu.lock")
    assert {name: versions.get(name) for name in found} == found


def test_a_ray_node_serves_the_endpoint(image: Image, tmp_path: Path) -> None:
    """The head of infra/base with its variables, told to serve as KubeRay does it."""
    bundle, clip = write_bundle(tmp_path / "bundle", seed=0), requests()[1].video
    assert clip is not None
    home = shutil.copytree(tmp_path, tmp_path / "home")
    (key, kept), ports = new_key("anna"), dict(zip(PORTS, free_ports(len(PORTS), "127.0.0.1"), strict=True))
    serve_port, _ = ports.pop("serve"), ports.pop("fallback")
    [service, *_] = yaml.safe_load_all((INFRA / "base" / "endpoint.yaml").read_text(encoding="utf-8"))
    [head] = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in head["env"] if "value" in each}
    options = (*_pod(**variables, AFFECT_API_KEYS=to_text([kept])), _home(home))
    command = " ".join(["ulimit -n 1024; ray", *start_head(ports)])
    with container(image.name, "/bin/bash", "-c", "--", command, options=options) as name:
        dashboard, url = f"http://127.0.0.1:{ports['dashboard-port']}", f"http://127.0.0.1:{serve_port}"
        print(f"a Ray node is ready {wait(name, f'{dashboard}/api/gcs_healthz'):.1f} s after its start")
        begin_s = time.monotonic()
        config = _serve_config(serve_port, "/var/lib/affect/bundle")
        httpx.put(f"{dashboard}/api/serve/applications/", json=config, timeout=60.0).raise_for_status()
        known = {"Authorization": f"Bearer {key}"}
        wait(name, f"{url}/readyz")
        answer = httpx.post(f"{url}/v1/emotion", files={"video": clip}, headers=known, timeout=60.0)
        print(f"the endpoint answers {time.monotonic() - begin_s:.1f} s after it was told to serve")
        assert httpx.get(f"{url}/healthz", timeout=60.0).status_code == 200
        assert answer.status_code == 200, answer.text
        [expected] = class_predictions(Runtime(bundle), [Request(video=clip)])
        found = ClassAnswer.model_validate_json(answer.content)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert set(podman("exec", name, "sh", "-c", "stat -c %u /proc/[0-9]*").stdout.split()) == {"10001"}


def _serve_config(port: int, bundle: str) -> dict[str, Any]:
    """That of infra/base, on this machine alone and with a model."""
    config: dict[str, Any] = yaml.safe_load((INFRA / "base" / "serve.yaml").read_text(encoding="utf-8"))
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    config["applications"][0]["deployments"][0] |= {"num_replicas": 1, "user_config": {"bundle": bundle, "release": 1}}
    return config


def test_the_worker_takes_runs_and_a_flow_run_trains(image: Image, tmp_path: Path) -> None:
    """Prefect's server, what a worker does before it starts, the worker, and a run's own pod: five containers."""
    port, health = free_ports(2, "127.0.0.1")
    spec = next(yaml.safe_load_all((INFRA / "base" / "prefect-worker.yaml").read_text(encoding="utf-8")))["spec"]
    worker = spec["template"]["spec"]
    (tmp_path / "home").mkdir()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(_nowhere()), encoding="utf-8")
    variables = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_UI_STATIC_DIRECTORY": "/tmp/ui"}
    # Without a RayService it trains and ends.
    options = (*_pod(**variables, AFFECT_RAYSERVICE="", AFFECT_ENDPOINT_ADDRESS=""), _home(tmp_path / "home"))
    server = ("python", "-m", "flows.prefect_server", "--host", "127.0.0.1", "--port", str(port))
    with container(image.name, *server, options=options) as name:
        print(f"Prefect's server answers {wait(name, f'http://127.0.0.1:{port}/api/health'):.1f} s after its start")
        for each in worker["initContainers"][:2]:
            command = [*each["command"], *each.get("args", [])]
            mounted = (*options, f"--volume={INFRA / 'base'}:/etc/prefect:ro")
            run(image.name, *(word.replace("$(IMAGE)", image.name) for word in command), options=mounted)
        [main] = worker["containers"]
        told = {each["name"]: each["value"] for each in main["env"] if "value" in each}
        told |= {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(health)}
        more = (*(f"--env={name}={value}" for name, value in told.items()), "--env=KUBECONFIG=/etc/kubeconfig")
        mounted = (*options, *more, f"--volume={kubeconfig}:/etc/kubeconfig:ro")
        with container(image.name, *main["command"], options=mounted) as each:
            print(f"the worker is healthy {wait(each, f'http://127.0.0.1:{health}/health'):.1f} s after its start")
            assert podman("exec", each, "id", "-u").stdout.strip() == "10001"
        with SyncPrefectClient(variables["PREFECT_API_URL"]) as client:
            choices = Choices()
            for setting in SMALL:
                choices = with_setting(choices, setting)
            deployment = client.read_deployment_by_name("pretrain/pretrain")
            parameters = {"choices": choices.model_dump(mode="json")}
            flow_run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
            begin_s = time.monotonic()
            named = (*options, f"--env=PREFECT__FLOW_RUN_ID={flow_run.id}")
            said = run(image.name, "prefect", "flow-run", "execute", options=named)
            print(f"a flow run trained in {time.monotonic() - begin_s:.0f} s")
            state = client.read_flow_run(flow_run.id).state
            assert state is not None
            assert state.is_completed(), said


def _nowhere() -> dict[str, Any]:
    """A kubeconfig of a cluster that does not answer: the worker's health does not depend on it."""
    [port] = free_ports(1, "127.0.0.1")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "none", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "none", "user": {"token": "none"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "current-context": "none",
    }
