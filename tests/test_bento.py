"""The BentoML target: a bundle in its model store, served by `bentoml serve`, gives the runtime's answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.client import Client, ServingError
from serving.prediction import Request
from tests.bundles import class_predictions, of_classes, requests, write_bundle
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0)


@pytest.fixture(scope="module")
def url(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("bento")
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    store = f"from pathlib import Path; from serving.bento import store; store(Path({str(bundle_folder)!r}), release=3)"
    subprocess.run([sys.executable, "-c", store], check=True, env=environment, cwd=REPOSITORY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    command = [bentoml, "serve", "serving.bento:EmotionService", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, "bentoml serve has ended"
        try:
            if httpx.get(f"{url}/v1/model").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail("bentoml serve did not answer in 180 s")


def test_it_keeps_the_contract(url: str, bundle_folder: Path) -> None:
    from serving.runtime import Runtime

    face, words = requests()[1].video, requests()[2].text
    [expected] = class_predictions(Runtime(bundle_folder), [Request(video=face, text=words)])
    with Client(url) as client:
        answer = of_classes(client.predict(face, text=words))
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert (answer.model.version, answer.model.release) == (expected.version, 3)
        assert client.model().version == expected.version
        with pytest.raises(ServingError) as refused:
            client.predict(b"this is no recording" * 50)
    assert refused.value.problem is not None
    assert refused.value.problem.type == "urn:affect:problem:not-media"
    assert "affect_requests_total" in httpx.get(f"{url}/metrics").text
    page = httpx.get(f"{url}/")
    assert "<title>Crossmodal Affect</title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{url}/static/page.js").headers["etag"]
