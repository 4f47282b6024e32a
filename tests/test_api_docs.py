"""`docs/api.md` against a running endpoint: curl and Python examples run as they stand, and the table is the code's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.app import Live
from serving.problems import PROBLEMS
from serving.runtime import Runtime
from tests.browser import chromium, needs_chromium, visit
from tests.bundles import LABELS, requests, write_bundle
from tests.conftest import REPOSITORY
from tests.endpoint import LIMITS, Endpoint, serve

pytestmark = pytest.mark.platform

TEXT = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
CURL = [block.strip() for language, block in BLOCKS if language == "sh"]
PYTHON = [block for language, block in BLOCKS if language == "python"]
JAVASCRIPT = [block for language, block in BLOCKS if language == "js"]
# What the examples take as given, and how the ones that record or listen come to an end.
BEFORE = """async ([URL, bytes]) => {
    const file = new File([new Uint8Array(bytes)], "clip.mp4");
    const [files, key, form, said] = [[file, file], "affect_key", new FormData(), []];
    form.append("text", "what a day");
    const console = { log: (...words) => said.push(JSON.stringify(words)) };
    {
"""
AFTER = """
        if (typeof answer === "object" && answer instanceof Response) console.log((await answer.json()).label);
        if (typeof socket === "object") {
            const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
            if (typeof recorder === "object") setTimeout(() => recorder.stop(), 1000);
            else socket.addEventListener("open", () => socket.close(1000));
            console.log("closed", (await closed).code, socket.protocol);
        }
    }
    return said;
}"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0)


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    runtime = Runtime(bundle, limits=LIMITS)
    with serve(Endpoint(Live(runtime, release=3))) as running:
        yield running.url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples find the files that they name."""
    folder = tmp_path_factory.mktemp("clips")
    voice, face = requests()[0].audio, requests()[1].video
    assert voice is not None
    assert face is not None
    (folder / "voice.wav").write_bytes(voice)
    (folder / "clip.mp4").write_bytes(face)
    return folder


def test_there_is_something_to_run() -> None:
    assert len(CURL) >= 7
    assert len(PYTHON) >= 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: `apt-get install curl` brings it")
@pytest.mark.parametrize("command", CURL)
def test_curl_examples_are_answered(command: str, url: str, folder: Path) -> None:
    arguments = shlex.split(command.replace("$URL", url))
    assert arguments[0] == "curl"
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", *arguments[1:]],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"problem"' not in done.stdout
    assert done.stdout


@pytest.mark.parametrize("code", PYTHON)
def test_python_examples_run(code: str, url: str, bundle: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path\nURL, BUNDLE = {url!r}, Path({str(bundle)!r})\n{code}"],
        cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


@needs_chromium
def test_javascript_examples_run_in_a_browser(url: str, folder: Path) -> None:
    clip = list((folder / "clip.mp4").read_bytes())
    with chromium() as browser, visit(browser, url) as seen:
        said = [seen.page.evaluate(BEFORE + code + AFTER, [url, clip]) for code in JAVASCRIPT]
    label = "|".join(LABELS)
    expected = [
        [rf'\["({label})",{{.*}}\]'],
        [rf'\["0","({label})"\]', rf'\["1","({label})"\]'],
        [r'(\["estimate",{.*}\]\n)*\["final",{.*}\]', r'\["closed",1000,""\]'],
        [r'\[\["neutral".*\],{"max_bytes".*}\]'],
        [rf'\["({label})"\]', r'\["closed",1000,"affect"\]'],
    ]
    assert len(said) == len(expected)
    for lines, patterns in zip(said, expected, strict=True):
        assert re.fullmatch("\n".join(patterns), "\n".join(lines)), lines


def test_every_problem_is_listed_with_its_status_and_title() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert {code: (int(status), title) for code, status, title in rows} == PROBLEMS
