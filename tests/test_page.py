"""The page as files over HTTP: what a browser may do with it, what it may keep, and what the package carries."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.endpoint import Endpoint, serve

WEB = REPOSITORY / "serving" / "web"
NAMES = sorted(path.name for path in WEB.iterdir())
# Addresses that a browser only compares, and never asks.
NAMESPACES = {"http://www.w3.org/2000/svg"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """A server without a model: the page does not need one."""
    with serve(Endpoint()) as empty, httpx.Client(base_url=empty.url, timeout=60.0) as client:
        yield client


def test_the_page_may_reach_its_own_host_alone(http: httpx.Client) -> None:
    answer = http.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_served_and_refers_to_parts_that_are(http: httpx.Client, name: str) -> None:
    address = "/" if name == "index.html" else f"/static/{name}"
    answer = http.get(address)
    assert answer.status_code == 200
    assert answer.content == (WEB / name).read_bytes()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert set(re.findall(r"https?://[^\s\"'`)]+", answer.text)) <= NAMESPACES
    for referred in re.findall(r"""(?:from|import) ["']\./([^"']+)""", answer.text):
        assert referred in NAMES
    for referred in re.findall(r'(?:src|href)="static/([^"]+)"', answer.text):
        assert referred in NAMES
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|\bon\w+=| style=", answer.text)


def test_a_browser_asks_again_and_is_told_that_nothing_changed(http: httpx.Client) -> None:
    first = http.get("/static/page.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = http.get("/static/page.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert http.get("/static/page.js", headers={"if-none-match": '"other"'}).status_code == 200
    assert http.get("/").headers["etag"] != first.headers["etag"]


def test_the_head_of_the_page_can_be_asked_for(http: httpx.Client) -> None:
    answer = http.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == (WEB / "index.html").stat().st_size


@pytest.mark.parametrize("address", ["/static/none.js", "/static/", "/static/../page.py", "/static/%2e%2e%2fpage.py"])
def test_there_is_nothing_else_below_it(http: httpx.Client, address: str) -> None:
    answer = http.get(address)
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:affect:problem:not-found"


@pytest.mark.slow
def test_an_installed_package_carries_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "serving", source / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        # The mark that its types, such as the client's, are for others to check against.
        assert {"serving/py.typed", *(f"serving/web/{name}" for name in NAMES)} <= set(packed.namelist())
