"""Swapping the model of a RayService, against a stand-in of the Kubernetes API and of two replicas, over real HTTP."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.registry import Registry, Release
from components.settings import Settings
from components.storage import Storage
from components.trials import TrialConfig
from flows import rayservice
from serving import examples
from serving.deploy import DeployError
from serving.problems import problem
from tests.conftest import REPOSITORY
from tests.infra import INFRA
from tests.kubernetes_api import BROKEN, CUT, KubernetesApi, running

NAME = ("rayservices", "affect", "endpoint")


class Replicas:
    """Two replicas behind one service, which takes turns: what each serves, and which bundle they refuse."""

    def __init__(self) -> None:
        self.served: list[tuple[str, int]] = [("", 0), ("", 0)]
        self.trials: list[dict[str, Any] | None] = [None, None]
        self.refuses = ""
        self._refused = ""
        self._turn = itertools.cycle([0, 1])

    def reconfigure(
        self, bundle: str, release: int, *, trial: dict[str, Any] | None = None, num_replicas: int = 2
    ) -> None:
        """What the first replicas do with a user_config."""
        if trial and trial["bundle"] == self.refuses:
            self._refused = f"trial {trial['number']}: bundle {trial['bundle']} cannot be served: it is damaged"
            return
        if bundle and bundle == self.refuses:
            self._refused = f"release {release}: bundle {bundle} cannot be served: it is damaged"
            return
        self._refused = ""
        self.served[:num_replicas] = [(bundle, release)] * num_replicas
        self.trials[:num_replicas] = [trial] * num_replicas

    def answer(self) -> tuple[int, str, str]:
        turn = next(self._turn)
        bundle, release = self.served[turn]
        if not bundle:
            document = problem("no-model", "nothing yet", request_id="r").model_dump_json()
            return 503, "application/problem+json", document
        card = {**examples.MODEL, "release": release, "refused": self._refused or None}
        if trial := self.trials[turn]:
            card["trial"] = {"version": "b", **{name: trial[name] for name in ("number", "mode", "share")}}
        return 200, "application/json", json.dumps(card)


@contextlib.contextmanager
def _service(replicas: Replicas) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            status, media_type, text = replicas.answer()
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class World:
    """A cluster with the RayService of infra/base, whose operator hands each new configuration to the replicas."""

    def __init__(self, api: KubernetesApi, replicas: Replicas, here: Settings) -> None:
        self.api, self.replicas, self.here = api, replicas, here
        self.reached = 2
        self.status = "RUNNING"
        self._applied = ""
        [service, *_] = yaml.safe_load_all((INFRA / "base" / "endpoint.yaml").read_text(encoding="utf-8"))
        service["metadata"]["namespace"] = "affect"
        self.serve_config = yaml.safe_load((INFRA / "base" / "serve.yaml").read_text(encoding="utf-8"))
        api.put("rayservices", service)
        rayservice.configure(self.serve_config, here, cluster=api.cluster)
        api.asked.clear()
        api.operator = self._operate

    @property
    def service(self) -> dict[str, Any]:
        return self.api.objects[NAME]

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.service["spec"]["serveConfigV2"])
        return found

    @property
    def user_config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["applications"][0]["deployments"][0]["user_config"]
        # What is kept of requests is no matter of a release.
        return {name: value for name, value in found.items() if name != "sample_share"}

    def deploy(self, bundle: str, release: int, *, deadline_s: float = 600.0) -> int | None:
        card = rayservice.deploy(
            bundle, release, here=self.here, cluster=self.api.cluster, deadline_s=deadline_s, poll_s=0.05
        )
        return card.release if card else None

    def _operate(self, api: KubernetesApi) -> None:
        text = api.objects.get(NAME, {}).get("spec", {}).get("serveConfigV2", self._applied)
        if text != self._applied:
            self._applied = text
            self.replicas.reconfigure(**self.user_config, num_replicas=self.reached)
        application = {"status": self.status, "serveDeploymentStatuses": {"endpoint": {"message": "no node is left"}}}
        if NAME in api.objects:
            status = {"activeServiceStatus": {"applicationStatuses": {"affect": application}}}
            api.objects[NAME]["status"] = status


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    replicas = Replicas()
    with running() as api, _service(replicas) as url:
        yield World(api, replicas, Settings(home=tmp_path, rayservice="affect/endpoint", endpoint_address=url))


def test_a_release_changes_bundle_and_release_and_nothing_else(world: World) -> None:
    before = world.config
    assert world.deploy("s3://affect/platform/bundles/a", 1) == 1
    assert world.user_config == {"bundle": "s3://affect/platform/bundles/a", "release": 1}
    after = world.config
    after["applications"][0]["deployments"][0]["user_config"] = {"bundle": "", "release": 0, "sample_share": 0.0}
    assert after == before
    # In place: nothing of the cluster has changed.
    assert world.service["metadata"]["generation"] == 3
    assert world.deploy("", 0) is None


def test_it_is_not_done_before_every_replica_answers_with_the_new_model(world: World) -> None:
    assert world.deploy("a", 1) == 1
    world.reached, world.status = 1, "UNHEALTHY"
    with pytest.raises(DeployError, match="release 2 is not served: Ray Serve says UNHEALTHY"):
        world.deploy("b", 2)
    assert world.user_config == {"bundle": "a", "release": 1}


def test_a_refused_bundle_is_told_and_the_former_one_put_back(world: World) -> None:
    assert world.deploy("a", 1) == 1
    world.replicas.refuses = "b"
    with pytest.raises(DeployError, match="bundle b cannot be served: it is damaged"):
        world.deploy("b", 2)
    assert world.user_config == {"bundle": "a", "release": 1}


def test_a_trial_goes_on_beside_the_model_until_it_is_ended_or_refused(world: World) -> None:
    assert world.deploy("a", 1) == 1
    trial = TrialConfig(number=1, bundle="b", mode="shadow", share=0.25)

    def set_trial(wanted: TrialConfig | None) -> None:
        rayservice.set_trial(wanted, here=world.here, cluster=world.api.cluster, deadline_s=600.0, poll_s=0.05)

    set_trial(trial)
    assert world.user_config == {"bundle": "a", "release": 1, "trial": trial.model_dump()}
    assert world.replicas.trials == [trial.model_dump()] * 2
    set_trial(None)
    assert world.user_config == {"bundle": "a", "release": 1}
    assert world.replicas.trials == [None, None]
    world.replicas.refuses = "b"
    with pytest.raises(DeployError, match="trial 1: bundle b cannot be served"):
        set_trial(trial)
    assert world.user_config == {"bundle": "a", "release": 1}
    # A release ends what goes on beside its forerunner.
    world.replicas.refuses = ""
    set_trial(trial)
    assert world.deploy("c", 2) == 2
    assert world.user_config == {"bundle": "c", "release": 2}


def test_somebody_elses_change_at_the_same_time_is_kept(world: World) -> None:
    operate = world.api.operator

    def change_once(api: KubernetesApi) -> None:
        if len(api.asked) == 2:
            # Between what was read and what is written.
            text = api.objects[NAME]["spec"]["serveConfigV2"].replace("num_replicas: 2", "num_replicas: 3")
            api.objects[NAME]["spec"]["serveConfigV2"] = text
            api.objects[NAME]["metadata"]["resourceVersion"] = "7"
        operate(api)

    world.api.operator = change_once
    assert world.deploy("a", 1) == 1
    assert world.config["applications"][0]["deployments"][0]["num_replicas"] == 3
    assert [each.split()[0] for each in world.api.asked[:4]] == ["GET", "PATCH", "GET", "PATCH"]


@pytest.mark.parametrize("failures", [[BROKEN, 503], [CUT], [410], [500]])
def test_an_api_that_fails_for_a_while_is_asked_again(world: World, failures: list[int]) -> None:
    world.api.failures = failures
    assert world.deploy("a", 1) == 1
    assert world.api.failures == []


def test_what_was_served_is_known_though_the_answer_to_the_change_was_lost(world: World) -> None:
    assert world.deploy("a", 1) == 1
    world.replicas.refuses = "b"
    world.api.lost_answers = ["PATCH"]
    with pytest.raises(DeployError, match="it is damaged"):
        world.deploy("b", 2)
    assert world.user_config == {"bundle": "a", "release": 1}


def test_a_deployment_that_stays_failed_is_not_waited_for_to_the_end(world: World) -> None:
    world.reached, world.status = 0, "DEPLOY_FAILED"
    with pytest.raises(DeployError, match="release 1 is not served: Ray Serve says DEPLOY_FAILED no node is left"):
        world.deploy("a", 1, deadline_s=600)


@pytest.mark.parametrize(
    ("failures", "said"),
    [([403] * 2, "403"), ([500] * 99, "500"), ([BROKEN] * 99, "the Kubernetes API does not answer")],
)
def test_an_api_that_does_not_help_is_told(world: World, failures: list[int], said: str) -> None:
    world.api.failures = failures
    with pytest.raises(DeployError, match=f"rayservices affect/endpoint cannot be changed: .*{said}"):
        world.deploy("a", 1, deadline_s=2)


def test_a_rayservice_that_is_not_there_is_told(world: World) -> None:
    world.api.objects.clear()
    with pytest.raises(DeployError, match=r'rayservices\.ray\.io "endpoint" not found'):
        world.deploy("a", 1)


def test_what_ray_serve_says_is_in_the_message(world: World) -> None:
    world.reached, world.status = 0, "DEPLOYING"
    with pytest.raises(
        DeployError, match="Ray Serve says DEPLOYING no node is left; see `kubectl describe rayservice`"
    ):
        world.deploy("a", 1, deadline_s=5)


def test_a_promotion_goes_there_where_a_rayservice_is_named(world: World, tmp_path: Path) -> None:
    """In a process of its own, which finds the cluster as a pod or an operator's shell does."""
    assert world.deploy("a", 1) == 1
    config = world.api.cluster.cluster_config
    assert config is not None
    (tmp_path / "kubeconfig").write_text(json.dumps(config.config), encoding="utf-8")
    environment = {**os.environ, **world.here.environment(), "KUBECONFIG": str(tmp_path / "kubeconfig")}
    # The release log is empty: nothing is what should be served.
    code = "from components.settings import load; from flows.releasing import restore; restore(load())"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=REPOSITORY, check=True)
    assert world.user_config == {"bundle": "", "release": 0}
    assert world.replicas.served == [("", 0), ("", 0)]


def test_a_configuration_leaves_what_is_served(world: World) -> None:
    assert world.deploy("a", 1) == 1
    world.serve_config["applications"][0]["deployments"][0]["num_replicas"] = 4
    for _ in range(2):
        rayservice.configure(world.serve_config, world.here, cluster=world.api.cluster)
        assert world.user_config == {"bundle": "a", "release": 1}
        assert world.config["applications"][0]["deployments"][0]["num_replicas"] == 4
        # The second worker that starts finds it done.
        assert world.service["metadata"]["generation"] == 4


def test_a_new_rayservice_serves_what_the_release_log_names(world: World) -> None:
    storage = Storage(world.here.storage_url)
    storage.write("bundles/b/config.json", b"{}")
    Registry(storage).append(Release(kind="promotion", bundle="bundles/b", version="b"), after=0)
    del world.service["spec"]["serveConfigV2"]
    rayservice.configure(world.serve_config, world.here, cluster=world.api.cluster)
    assert world.user_config == {"bundle": storage.uri("bundles/b"), "release": 1}


def test_a_configuration_that_serve_would_not_take_is_refused(world: World) -> None:
    world.serve_config["applications"][0]["deployments"][0]["num_replica"] = 4
    with pytest.raises(ValueError, match="num_replica"):
        rayservice.configure(world.serve_config, world.here, cluster=world.api.cluster)


def test_a_rayservice_that_no_worker_has_configured_is_told(world: World) -> None:
    del world.service["spec"]["serveConfigV2"]
    with pytest.raises(DeployError, match="it has no serveConfigV2 yet"):
        world.deploy("a", 1)
