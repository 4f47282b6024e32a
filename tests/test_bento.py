"""The BentoML target: a bento of the champion is served by `bentoml serve` and keeps the contract of the endpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests import bento_server, contract
from tests.bento_server import Built
from tests.bundles import requests
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.platform]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return bento_server.build(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("bento"))


@pytest.fixture(scope="module")
def url(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bento_server.serve(built, tmp_path_factory.mktemp("away")) as (address, _):
        yield address


def test_it_keeps_the_contract(url: str, built: Built, tmp_path: Path) -> None:
    clip, content = tmp_path / "clip.mp4", requests()[1].video
    assert content is not None
    clip.write_bytes(content)
    contract.check(url, built.bundle, clip, release=2)


def test_the_page_is_at_its_address(url: str) -> None:
    page = httpx.get(f"{url}/")
    assert "<title>Crossmodal Affect</title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{url}/static/page.js").headers["etag"]


def test_its_model_carries_its_lineage(built: Built) -> None:
    code = (
        "import bentoml, json, sys; model = bentoml.models.get(sys.argv[1]); "
        "print(json.dumps([dict(model.info.labels), dict(model.info.metadata)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, built.told["model"]],
        env=built.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    labels, metadata = json.loads(done.stdout)
    assert labels == {"release": "2", "version": built.told["version"]}
    assert metadata == json.loads((built.bundle / "provenance.json").read_text())
    info = yaml.safe_load((built.folder / "bento.yaml").read_text())
    assert info["labels"]["commit"] == "abc1234"
    assert [model["tag"] for service in info["services"] for model in service["models"]] == [built.told["model"]]


def test_both_archives_are_in_the_object_store_and_whole(built: Built) -> None:
    for name, inside in (("bento_archive", "src/serving/bento.py"), ("model_archive", "model.safetensors")):
        with tarfile.open(built.told[name]) as archive:
            members = {member.removeprefix("./") for member in archive.getnames()}
        assert inside in members
    assert Path(built.told["bento_archive"]).parent == Path(built.environment["AFFECT_HOME"]) / "store" / "bentos"


def test_the_containerfile_is_of_the_locked_packages_and_not_of_root(built: Built) -> None:
    """No image is built here: there is no container engine on every machine."""
    text = (built.folder / "env" / "docker" / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.11", text, flags=re.MULTILINE)
    assert "uv venv --python 3.11 " in text
    [*_, user] = re.findall(r"^USER (.+)$", text, flags=re.MULTILINE)
    assert user == "bentoml"
    asked = (built.folder / "env" / "python" / "requirements.txt").read_text().splitlines()
    locked = (REPOSITORY / "requirements.lock").read_text().splitlines()
    assert {line for line in locked if line and not line.startswith("#")} == {
        line for line in asked if line and not line.startswith("#")
    }


def test_nothing_released_is_told_in_one_line(built: Built, tmp_path: Path) -> None:
    done = bento_server.affect({**built.environment, "AFFECT_HOME": str(tmp_path / "new")}, "bento", "build")
    assert done.returncode == 1
    assert "run `affect retrain` first" in done.stderr
    assert "Traceback" not in done.stderr
