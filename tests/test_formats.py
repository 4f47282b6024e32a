"""Every format that the documentation names is taken by its content, whatever the upload is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from serving.app import Live
from serving.runtime import Runtime
from serving.schema import ClassAnswer
from tests.bundles import requests, write_bundle
from tests.codings import coded
from tests.conftest import REPOSITORY
from tests.endpoint import LIMITS, Endpoint, serve

# Name; container, coding of the picture, coding of the sound.
FORMATS: Final = {
    "WAV": ("wav", None, "pcm_s16le"),
    "FLAC": ("flac", None, "flac"),
    "MP3": ("mp3", None, "mp3"),
    "OGG": ("ogg", None, "libopus"),
    "M4A": ("ipod", None, "aac"),
    "MP4": ("mp4", "libx264", "aac"),
    "WebM": ("webm", "libvpx", "libopus"),
    "MKV": ("matroska", "ffv1", "pcm_s16le"),
    "AVI": ("avi", "mpeg4", "mp3"),
    "FLV": ("flv", "flv", "mp3"),
}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    runtime = Runtime(write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0), limits=LIMITS)
    with serve(Endpoint(Live(runtime))) as running, httpx.Client(base_url=running.url, timeout=60.0) as client:
        yield client


def test_the_documentation_and_the_page_name_these() -> None:
    for path in ("docs/api.md", "serving/web/index.html"):
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        named = re.search(r"WAV, FLAC, [\w, ]+", text)
        assert named, path
        assert re.findall(r"\b[A-Z]\w*[A-Z0-9]\w*\b", named[0]) == list(FORMATS), path


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_is_told_by_its_content(http: httpx.Client, name: str) -> None:
    clip = requests()[1].video
    assert clip is not None
    container, picture, sound = FORMATS[name]
    content = coded(clip, container, picture, sound)
    for field in ["video", "audio"] if picture else ["audio"]:
        misnamed = ("clip.wav" if name != "WAV" else "clip.mp4", content, "text/plain")
        answer = http.post("/v1/emotion", files={field: misnamed})
        assert answer.status_code == 200, answer.text
        judged = ClassAnswer.model_validate_json(answer.content)
        assert "audio" in judged.contributions
        assert 0.9 < judged.timeline[-1].end_s < 1.2
        assert "silence" not in judged.warnings
