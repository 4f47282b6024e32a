"""The endpoint on a real, long-lived Ray: deployed before there is a model, swapped under load, kept when need be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from components.settings import Settings
from flows.processes import free_ports
from serving.client import Client, ServingError
from serving.deploy import DeployError, deploy, refuse_unknown, serve_config
from serving.prediction import Request
from tests import contract
from tests.bundles import class_predictions, requests, write_bundle
from tests.ray_endpoint import Load, replicas

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(ray_node: Settings) -> Settings:
    return ray_node


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(folder / name, seed=seed) for seed, name in enumerate("AB")}


@pytest.fixture(scope="module")
def video() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def test_an_endpoint_is_swapped_without_a_lost_or_mixed_answer(
    here: Settings, bundles: dict[str, Path], video: bytes
) -> None:
    """One story, in the order it happens on a platform: nothing yet, A, A to B under load, a broken one, back to A."""
    from serving.runtime import Runtime

    assert deploy("", 0, here=here) is None
    with Client(here.endpoint_url) as client, pytest.raises(ServingError, match="affect retrain") as refused:
        client.predict(video)
    assert refused.value.problem is not None
    assert refused.value.problem.status == 503

    card = deploy(str(bundles["A"]), 1, here=here)
    assert card is not None
    expected = {
        release: class_predictions(Runtime(bundles[name]), [Request(video=video)])[0]
        for release, name in ((1, "A"), (2, "B"))
    }
    assert card.version == expected[1].version
    [replica] = replicas(here)

    with Load(here, video) as load:
        load.wait_for(20)
        card = deploy(str(bundles["B"]), 2, here=here)
        load.wait_for(20)
    assert card is not None
    assert card.version == expected[2].version
    assert load.failures == []
    assert {answer.model.release for answer in load.answers} == {1, 2}
    for answer in load.answers:
        assert answer.model.version == expected[answer.model.release].version
        assert answer.probabilities == pytest.approx(expected[answer.model.release].probabilities, abs=1e-5)
    assert replicas(here) == [replica], "a swap restarted the replica"

    broken = bundles["A"].parent / "broken"
    shutil.copytree(bundles["A"], broken)
    (broken / "graph.pt").write_bytes(b"\0" * 1000)
    with Load(here, video) as load:
        with pytest.raises(DeployError, match=rf"release 3: bundle {re.escape(str(broken))} cannot be served"):
            deploy(str(broken), 3, here=here)
        load.wait_for(5)
    assert load.failures == []
    assert {answer.model.release for answer in load.answers} == {2}
    assert replicas(here) == [replica]

    card = deploy(str(bundles["A"]), 4, here=here)
    assert card is not None
    assert (card.version, card.release, card.refused) == (expected[1].version, 4, None)


def test_every_way_in_gives_the_same_answer(
    here: Settings, bundles: dict[str, Path], video: bytes, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(video)
    assert deploy(str(bundles["B"]), 5, here=here) is not None
    contract.check(here.endpoint_url, bundles["B"], clip, release=5)


def test_the_answer_carries_one_request_id(here: Settings) -> None:
    answer = httpx.get(f"{here.endpoint_url}/healthz", headers={"X-Request-ID": "mine"}, timeout=60.0)
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_the_page_is_at_its_address(here: Settings) -> None:
    page = httpx.get(f"{here.endpoint_url}/", timeout=60.0)
    assert "<title>Crossmodal Affect</title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    part = httpx.get(f"{here.endpoint_url}/static/page.js", timeout=60.0)
    known = {"If-None-Match": part.headers["etag"]}
    assert httpx.get(f"{here.endpoint_url}/static/page.js", headers=known, timeout=60.0).status_code == 304


def test_a_configuration_that_ray_would_misread_is_refused() -> None:
    config = serve_config("", 0, here=Settings())
    deployment = config["applications"][0]["deployments"][0]
    deployment["max_queued_request"] = 3
    with pytest.raises(ValueError, match=r"applications\[0\]\.deployments\[0\]\.max_queued_request"):
        refuse_unknown(config)
    del deployment["max_queued_request"]
    deployment["ray_actor_options"]["num_cpu"] = 1
    with pytest.raises(ValueError, match=r"ray_actor_options\.num_cpu"):
        refuse_unknown(config)


def test_without_a_ray_the_remedy_is_named() -> None:
    [port] = free_ports(1, "127.0.0.1")
    with pytest.raises(DeployError, match="affect up"):
        deploy("", 0, here=Settings(dashboard_port=port))


def test_the_app_is_light_to_import() -> None:
    """A replica without a model, and the process that only builds the application, do not load PyTorch."""
    code = "import sys, serving.ray_app, serving.client, serving.deploy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
