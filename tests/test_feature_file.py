"""Features that a caller made: the recording's own answer, and a clear no to what is not of the model's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from components.features import ClipFeatures
from serving import feature_file
from serving.app import Live
from serving.client import Client, ServingError
from serving.prediction import Request
from serving.runtime import Runtime
from tests.bundles import class_predictions, of_classes, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, problem_of, serve

WORDS = "we saw the door"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0)


@pytest.fixture(scope="module")
def runtime(bundle: Path) -> Runtime:
    return Runtime(bundle, limits=LIMITS)


@pytest.fixture(scope="module")
def url(runtime: Runtime) -> Iterator[str]:
    with serve(Endpoint(Live(runtime, release=3))) as running:
        yield running.url


@pytest.fixture(scope="module")
def described(bundle: Path) -> bytes:
    return feature_file.describe(bundle, video=requests()[1].video, text=WORDS)


def test_the_answer_is_that_for_the_recording(url: str, runtime: Runtime, described: bytes) -> None:
    [expected] = class_predictions(runtime, [Request(video=requests()[1].video, text=WORDS)])
    with Client(url) as client:
        answer = of_classes(client.predict_features(described))
        assert client.model().features == feature_file.read(described)[1]
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert len(answer.timeline) == len(expected.timeline)


def test_what_is_written_is_read_again(described: bytes, bundle: Path) -> None:
    features, kind = feature_file.read(described)
    assert kind == feature_file.kind_of(bundle)
    assert feature_file.write(features, kind) == described


def test_another_models_features_are_refused(url: str, described: bytes) -> None:
    features, _ = feature_file.read(described)
    with Client(url) as client, pytest.raises(ServingError, match="describe the clip with this model's bundle"):
        client.predict_features(feature_file.write(features, "another"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda f: replace(f, audio_TF=f.audio_TF[:, :-1]), "wrong-features"),
        (lambda f: replace(f, audio_TF=np.repeat(f.audio_TF, 100, axis=0)), "wrong-features"),
        (lambda f: replace(f, video_TF=f.video_TF.T), "wrong-features"),
        (lambda f: replace(f, word_ids_T=np.array([-1], np.int32)), "wrong-features"),
        (lambda f: replace(f, word_ids_T=np.array([10**6], np.int32)), "wrong-features"),
        (lambda f: replace(f, word_ids_T=np.ones(10**4, np.int32)), "wrong-features"),
        (lambda f: replace(f, audio_TF=f.audio_TF.astype(np.float32)), "malformed"),
        (lambda f: replace(f, audio_TF=f.audio_TF.ravel()), "malformed"),
        (lambda f: replace(f, audio_TF=f.audio_TF * np.float16("nan")), "malformed"),
        (lambda f: ClipFeatures(f.audio_TF[:0], f.video_TF[:0], f.word_ids_T[:0]), "nothing-usable"),
    ],
)
def test_features_that_do_not_fit(
    url: str, described: bytes, change: Callable[[ClipFeatures], ClipFeatures], code: str
) -> None:
    features, kind = feature_file.read(described)
    problem_of(_post(url, feature_file.write(change(features), kind)), code)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors",
        b"\xff" * 8 + b"{}",
        save({"audio": np.zeros((1, 1), np.float16)}),
        save({"a": np.zeros(1, np.float32)}, {"kind": "x"}),
    ],
)
def test_bodies_that_are_no_features(url: str, content: bytes) -> None:
    problem_of(_post(url, content), "malformed")


def test_cut_and_changed_files_are_never_a_fault_of_the_endpoint(url: str, described: bytes) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(described[: random.integers(1, len(described))] if random.random() < 0.3 else described)
        for place in random.integers(0, min(len(content), 400), 3):
            content[place] = random.integers(256)
        assert _post(url, bytes(content)).status_code in (200, 400, 422)


def _post(url: str, content: bytes) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/emotion", content=content, headers={"Content-Type": feature_file.MEDIA_TYPE}, timeout=60.0
    )
