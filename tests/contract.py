"""What every serving target keeps: the same answers by every way in, the same problems, the same documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serving import feature_file
from serving.client import Client, Clip, ServingError
from serving.prediction import Request
from serving.runtime import Runtime
from serving.schema import ClassAnswer, StreamFinal
from tests.bundles import class_predictions, of_classes
from tests.conftest import REPOSITORY

WORDS = "we saw the door"


def check(url: str, bundle: Path, clip: Path, *, release: int) -> dict[str, ClassAnswer]:
    """Ask a running target by every way in, with one clip, and compare with the bundle itself; the answers by way."""
    runtime = Runtime(bundle)
    [expected] = class_predictions(runtime, [Request(video=clip.read_bytes(), text=WORDS)])
    answers = _answers(url, bundle, clip)
    for way, answer in answers.items():
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5), way
        assert answer.contributions == pytest.approx(expected.contributions, abs=1e-4), way
        assert len(answer.timeline) == len(expected.timeline), way
        for moment, second in zip(answer.timeline, expected.timeline, strict=True):
            assert moment.probabilities == pytest.approx(second.answers, abs=1e-5), way
        assert answer.label == expected.label, way
        assert tuple(answer.warnings) == expected.warnings, way
        assert (answer.model.version, answer.model.release) == (expected.version, release), way
    with Client(url) as client:
        assert client.model().version == runtime.version
        _check_problems(client)
    assert "affect_requests_total" in httpx.get(f"{url}/metrics", timeout=60.0).text
    paths = set(httpx.get(f"{url}/openapi.json", timeout=60.0).json()["paths"])
    assert {"/v1/emotion", "/v1/emotion:batch", "/v1/model"} <= paths
    return answers


def _answers(url: str, bundle: Path, clip: Path) -> dict[str, ClassAnswer]:
    """One clip's answers: a request, the command, a batch of three, and a stream's end."""
    content = clip.read_bytes()
    command = [sys.executable, "-m", "flows.cli", "predict", str(clip), "--text", WORDS, "--url", url, "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        batch = client.batch(
            {"words": Clip(text=WORDS), "whole": Clip(video=clip, text=WORDS), "bad": Clip(audio=b"?")}
        )
        assert {each.name: each.problem is None for each in batch.clips} == {"words": True, "whole": True, "bad": False}
        *_, final = client.stream([content[:1_000], content[1_000:], WORDS])
        assert isinstance(final, StreamFinal)
        [in_batch] = [each.answer for each in batch.clips if each.name == "whole"]
        return {
            "POST /v1/emotion": of_classes(client.predict(clip, text=WORDS)),
            "POST /v1/emotion, features": of_classes(
                client.predict_features(feature_file.describe(bundle, video=clip, text=WORDS))
            ),
            "affect predict": ClassAnswer.model_validate(json.loads(done.stdout)),
            "POST /v1/emotion:batch": of_classes(in_batch),
            "WS /v1/stream": of_classes(final.answer),
        }


def _check_problems(client: Client) -> None:
    with pytest.raises(ServingError) as refused:
        client.predict(b"this is no recording" * 50)
    assert refused.value.problem is not None
    assert refused.value.problem.type == "urn:affect:problem:not-media"
    with pytest.raises(ServingError) as refused:
        list(client.stream([b"this is no recording" * 5_000]))
    assert refused.value.problem is not None
    assert refused.value.problem.type == "urn:affect:problem:not-media"
