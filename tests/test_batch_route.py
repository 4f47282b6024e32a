"""`POST /v1/emotion:batch` over a real server: answers as for single clips, in order, and a problem for a bad one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from serving.app import Live
from serving.problems import PROBLEMS
from serving.runtime import Runtime
from serving.schema import BatchAnswer, ClassAnswer, Problem
from tests.bundles import LABELS, of_classes, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, serve


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    runtime = Runtime(write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0), limits=LIMITS)
    with serve(Endpoint(Live(runtime, release=3))) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def _media(number: int) -> bytes:
    content = requests()[number].audio or requests()[number].video
    assert content is not None
    return content


def _single(http: httpx.Client, **parts: object) -> ClassAnswer:
    answer = http.post("/v1/emotion", files=parts)  # type: ignore[arg-type]  # httpx takes these, its stubs do not say so
    return ClassAnswer.model_validate_json(answer.content)


def test_each_clip_is_answered_as_if_it_were_alone_and_in_order(http: httpx.Client) -> None:
    files = {
        "video.second": _media(1),
        "text.first": (None, "we saw the door"),
        "audio.third": _media(0),
        "text.second": (None, "what a day"),
    }
    answered = http.post("/v1/emotion:batch", files=files, headers={"x-request-id": "mine"})  # type: ignore[arg-type]  # as above
    assert answered.status_code == 200, answered.text
    batch = BatchAnswer.model_validate_json(answered.content)
    # A form's files and words keep their order among each other.
    assert [clip.name for clip in batch.clips] == ["second", "first", "third"]
    assert batch.request_id == "mine"
    alone = [
        _single(http, video=_media(1), text=(None, "what a day")),
        _single(http, text=(None, "we saw the door")),
        _single(http, audio=_media(0)),
    ]
    for clip, expected in zip(batch.clips, alone, strict=True):
        answer = of_classes(clip.answer)
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert answer.contributions == pytest.approx(expected.contributions, abs=1e-3)
        assert len(answer.timeline) == len(expected.timeline)
        assert (answer.model, answer.request_id) == (expected.model, "mine")


def test_a_bad_clip_has_a_problem_and_the_others_are_answered(http: httpx.Client) -> None:
    files = {"audio.bad": b"this is no recording" * 50, "audio.empty": b"", "audio.good": _media(0)}
    answered = http.post("/v1/emotion:batch", files=files, headers={"x-request-id": "mine"})
    assert answered.status_code == 200
    bad, empty, good = BatchAnswer.model_validate_json(answered.content).clips
    assert bad.problem is not None
    assert (bad.problem.type, bad.problem.status) == ("urn:affect:problem:not-media", 422)
    assert bad.problem.instance == "urn:affect:request:mine"
    assert empty.problem is not None
    assert empty.problem.type == "urn:affect:problem:empty"
    assert set(of_classes(good.answer).probabilities) == set(LABELS)
    # What is not there is left out, so that `"problem" in clip` tells.
    assert [sorted(clip) for clip in json.loads(answered.content)["clips"]] == [
        ["name", "problem"],
        ["name", "problem"],
        ["answer", "name"],
    ]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([("audio", b"RIFF")], "unknown-field"),
        ([("sound.a", b"RIFF")], "unknown-field"),
        ([("audio.", b"RIFF")], "unknown-field"),
        ([("audio.a/../b", b"RIFF")], "unknown-field"),
        ([("text.a", (None, "one")), ("text.a", (None, "two"))], "wrong-field"),
        ([("text.a", ("words.txt", b"hello"))], "wrong-field"),
        ([("audio.a", (None, "http://127.0.0.1/clip.wav"))], "wrong-field"),
        ([(f"text.{number}", (None, "hello")) for number in range(LIMITS.max_clips + 1)], "too-large"),
        ([("text.a", (None, "a" * 2001))], "too-large"),
        ([(f"audio.{number}", b"\0" * 1_500_000) for number in range(3)], "too-large"),
    ],
)
def test_batches_that_cannot_be_read(http: httpx.Client, files: list[tuple[str, object]], code: str) -> None:
    answer = http.post("/v1/emotion:batch", files=files)  # type: ignore[arg-type]  # as above
    problem = Problem.model_validate_json(answer.content)
    assert (problem.type, answer.status_code) == (f"urn:affect:problem:{code}", PROBLEMS[code][0])


def test_a_batch_is_a_form(http: httpx.Client) -> None:
    answer = http.post("/v1/emotion:batch", json={"text": "hello"})
    assert Problem.model_validate_json(answer.content).type == "urn:affect:problem:wrong-content-type"


def test_without_a_model_it_is_refused_before_it_is_read() -> None:
    with serve(Endpoint()) as empty:
        answer = httpx.post(f"{empty.url}/v1/emotion:batch", files={"audio.a": b"RIFF"}, timeout=60.0)
    assert Problem.model_validate_json(answer.content).type == "urn:affect:problem:no-model"
