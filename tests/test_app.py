"""The HTTP contract over a real server on loopback: answers, problems, limits, metrics, the docs page, the client."""

from __future__ import annotations

import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving import feature_file
from serving.app import Live
from serving.client import Client, ServingError
from serving.prediction import Request
from serving.problems import PROBLEMS
from serving.runtime import Runtime
from serving.schema import BatchAnswer, ClassAnswer, ModelCard
from tests.bundles import LABELS, class_predictions, of_classes, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, problem_of, serve


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0), limits=LIMITS)


@pytest.fixture(scope="module")
def endpoint(runtime: Runtime) -> Iterator[Endpoint]:
    with serve(Endpoint(Live(runtime, release=3))) as running:
        yield running


@pytest.fixture(scope="module")
def http(endpoint: Endpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def face() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def test_the_same_clip_gives_the_same_probabilities_as_the_runtime(
    http: httpx.Client, runtime: Runtime, face: bytes
) -> None:
    answer = http.post("/v1/emotion", files={"video": face}, data={"text": "we saw the door"})
    assert answer.status_code == 200, answer.text
    judged = ClassAnswer.model_validate_json(answer.content)
    [expected] = class_predictions(runtime, [Request(video=face, text="we saw the door")])
    assert judged.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert judged.contributions == pytest.approx(expected.contributions, abs=1e-4)
    assert (judged.model.version, judged.model.release) == (runtime.version, 3)
    assert len(judged.timeline) == len(expected.timeline)
    assert judged.label == expected.label


def test_words_may_come_as_json(http: httpx.Client, runtime: Runtime) -> None:
    answer = http.post("/v1/emotion", json={"text": "we saw the door"})
    [expected] = class_predictions(runtime, [Request(text="we saw the door")])
    assert answer.json()["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert answer.json()["timeline"] == []


def test_words_alone_may_come_as_a_form(http: httpx.Client) -> None:
    answer = http.post("/v1/emotion", files={"text": (None, "we saw the door")})
    assert set(answer.json()["probabilities"]) == set(LABELS)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"text": (None, "")}, "nothing-usable"),
        ({"sound": b"RIFF"}, "unknown-field"),
        ({"vidoe": b"RIFF"}, "unknown-field"),
        ({"audio": ("empty.wav", b"")}, "empty"),
        ({"audio": ("a.wav", b"this is no recording" * 50)}, "not-media"),
        ({"audio": (None, "http://127.0.0.1/clip.wav")}, "wrong-field"),
        ({"text": ("words.txt", b"hello")}, "wrong-field"),
        ({"text": (None, b"\xff\xfe\xfa")}, "malformed"),
        ({"text": (None, "a" * 501)}, "too-large"),
        ({"video": ("big.mp4", b"\0" * 2_000_001)}, "too-large"),
    ],
)
def test_forms_that_cannot_be_judged(http: httpx.Client, files: dict[str, object], code: str) -> None:
    answer = http.post("/v1/emotion", files=files)  # type: ignore[arg-type]  # httpx takes lists of pairs, its stubs do not say so
    assert problem_of(answer, code).status == PROBLEMS[code][0]


def test_an_unknown_field_is_told_the_nearest_one(http: httpx.Client) -> None:
    problem = problem_of(http.post("/v1/emotion", files={"vidoe": b"RIFF"}), "unknown-field")
    assert "did you mean 'video'" in problem.detail


def test_a_field_given_twice(http: httpx.Client) -> None:
    twice = [("text", (None, "one")), ("text", (None, "two"))]
    problem_of(http.post("/v1/emotion", files=twice), "wrong-field")


def test_a_form_without_fields(http: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem_of(http.post("/v1/emotion", content=b"--b--\r\n", headers=headers), "no-modality")


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b'{"text": "hi", "audio": "x"}', "application/json", "unknown-field"),
        (b'{"text": 3}', "application/json", "wrong-field"),
        (b"{}", "application/json", "wrong-field"),
        (b'{"text": ', "application/json", "malformed"),
        (b"[" * 5000, "application/json", "malformed"),
        (b'"\xff"', "application/json", "malformed"),
        (b"text=hello", "application/x-www-form-urlencoded", "wrong-content-type"),
        (b"hello", "", "wrong-content-type"),
        (b"hello", "multipart/form-data", "malformed"),
        (b"hello", "multipart/form-data; boundary=b", "malformed"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b", "malformed"),
    ],
)
def test_bodies_that_cannot_be_read(http: httpx.Client, body: bytes, kind: str, code: str) -> None:
    problem_of(http.post("/v1/emotion", content=body, headers={"content-type": kind} if kind else {}), code)


def test_too_much_is_refused_before_it_is_read(endpoint: Endpoint) -> None:
    """Only the header is sent: the refusal does not wait for the body."""
    host, port = endpoint.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/emotion HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_stream_that_does_not_end_is_not_kept(http: httpx.Client) -> None:
    def long_video() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
        for _ in range(3000):
            yield b"\0" * 100_000

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = http.post("/v1/emotion", content=long_video(), headers={"content-type": "multipart/form-data; boundary=b"})
    problem_of(answer, "too-large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100_000


def test_unknown_addresses_and_methods_are_problems_too(http: httpx.Client) -> None:
    problem_of(http.get("/v2/emotion"), "not-found")
    problem_of(http.get("/v1/emotion"), "wrong-method")


def test_a_request_id_is_kept_and_a_bad_one_replaced(http: httpx.Client) -> None:
    kept = http.post("/v1/emotion", json={"text": "we saw the door"}, headers={"x-request-id": "abc-1"})
    assert (kept.headers["x-request-id"], kept.json()["request_id"]) == ("abc-1", "abc-1")
    replaced = http.get("/healthz", headers={"x-request-id": "a b\tc"})
    assert re.fullmatch("[0-9a-f]{32}", replaced.headers["x-request-id"])


def test_the_card_and_health(http: httpx.Client, runtime: Runtime) -> None:
    card = ModelCard.model_validate_json(http.get("/v1/model").content)
    assert (card.version, card.release, tuple(card.labels)) == (runtime.version, 3, LABELS)
    assert card.limits.max_bytes == LIMITS.max_bytes
    assert card.refused is None
    assert http.get("/healthz").json() == http.get("/readyz").json() == {"status": "ok"}


def test_the_card_that_the_bundle_brings_along(http: httpx.Client) -> None:
    answer = http.get("/v1/model/card")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.text == "# A model with random weights\n"


def test_metrics_count_requests_by_what_became_of_them(http: httpx.Client, runtime: Runtime) -> None:
    http.post("/v1/emotion", json={"text": "we saw the door"})
    http.post("/v1/emotion", json={"text": 3})
    text = http.get("/metrics").text
    assert re.search(r'affect_requests_total\{problem="",route="/v1/emotion",status="200"\} \d', text)
    assert re.search(r'affect_requests_total\{problem="wrong-field",route="/v1/emotion",status="422"\} \d', text)
    assert f'affect_model{{release="3",version="{runtime.version}"}} 1.0' in text
    assert re.search(r"affect_batch_clips_count [1-9]", text)
    assert "affect_queue_clips 0.0" in text
    assert "affect_clips_admitted 0.0" in text
    for stage in ("receive", "wait", "prepare", "queue", "model", "total"):
        assert f'affect_request_seconds_count{{stage="{stage}"}}' in text


def test_the_docs_page_needs_no_other_host(http: httpx.Client) -> None:
    page = http.get("/docs").text
    assert not re.search(r"""(src|href|url)\s*[=:]\s*["'](https?:)?//""", page)
    for address in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert http.get(address).status_code == 200, address


def test_the_openapi_document_describes_answers_and_problems(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    emotion = document["paths"]["/v1/emotion"]["post"]
    kinds = {"multipart/form-data", "application/json", feature_file.MEDIA_TYPE}
    assert set(emotion["requestBody"]["content"]) == kinds
    assert "application/problem+json" in emotion["responses"]["422"]["content"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_every_route_shows_an_example_of_what_it_takes_and_of_each_answer(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for kind, content in (
                (kind, content) for body in bodies for kind, content in body.get("content", {}).items()
            ):
                schema = content.get("schema", {})
                assert {"example", "examples"} & (set(content) | set(schema)), (path, kind)
    answers = {
        path: document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        for path in ("/v1/emotion", "/v1/emotion:batch")
    }
    ClassAnswer.model_validate(answers["/v1/emotion"])
    BatchAnswer.model_validate(answers["/v1/emotion:batch"])
    ModelCard.model_validate(
        document["paths"]["/v1/model"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    )


def test_without_a_model_it_says_what_to_run() -> None:
    with serve(Endpoint()) as empty, httpx.Client(base_url=empty.url, timeout=60.0) as client:
        problem = problem_of(client.post("/v1/emotion", json={"text": "hello"}), "no-model")
        assert (problem.status, "affect retrain" in problem.detail) == (503, True)
        problem_of(client.get("/v1/model"), "no-model")
        problem_of(client.get("/v1/model/card"), "no-model")
        problem_of(client.get("/readyz"), "no-model")
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 200
        empty.live = Live(refused="release 1: bundle x cannot be served")
        problem_of(client.get("/readyz"), "bundle-refused")


def test_beyond_the_limit_requests_are_refused_at_once_and_the_admitted_ones_answered(
    runtime: Runtime, face: bytes
) -> None:
    answers: list[httpx.Response] = []
    with serve(Endpoint(Live(runtime)), max_clips=2) as busy:

        def ask() -> None:
            with httpx.Client(base_url=busy.url, timeout=60.0) as client:
                answers.extend(client.post("/v1/emotion", files={"video": face}) for _ in range(4))

        callers = [threading.Thread(target=ask) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        after = httpx.post(f"{busy.url}/v1/emotion", files={"video": face}, timeout=60.0)
    judged = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(judged) >= 2
    assert refused
    for answer in refused:
        assert problem_of(answer, "overloaded").status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    [expected] = class_predictions(runtime, [Request(video=face)])
    for answer in (*judged, after):
        assert ClassAnswer.model_validate_json(answer.content).probabilities == pytest.approx(
            expected.probabilities, abs=1e-5
        )


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_caller_that_hangs_up_is_forgotten(runtime: Runtime, face: bytes, share: float) -> None:
    """Callers that leave within their body or right after it take no place from those who come after them."""
    with serve(Endpoint(Live(runtime)), max_clips=1) as busy, httpx.Client(base_url=busy.url, timeout=60.0) as client:
        host, port = busy.url.removeprefix("http://").split(":")
        request = client.build_request("POST", "/v1/emotion", files={"video": face})
        body = request.read()
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        for number in range(1, 4):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(f"POST /v1/emotion HTTP/1.1\r\n{head}\r\n".encode() + body[: int(share * len(body))])
            deadline = time.monotonic() + 60
            while sum(_ended(client).values()) < number:
                assert time.monotonic() < deadline
        if share < 1:
            assert _ended(client) == {"499": 3}
        assert "affect_clips_admitted 0.0" in client.get("/metrics").text
        assert client.post("/v1/emotion", files={"video": face}).status_code == 200


def _ended(client: httpx.Client) -> dict[str, int]:
    """Number of requests to `/v1/emotion` that have ended, by status."""
    found = re.findall(
        r'affect_requests_total\{problem="[^"]*",route="/v1/emotion",status="(\d+)"\} (\d+)',
        client.get("/metrics").text,
    )
    return {status: int(number) for status, number in found}


def test_a_fault_of_the_endpoint_is_a_problem_without_its_secrets() -> None:
    class Broken(Endpoint):
        def provide(self) -> Live:
            raise RuntimeError("secret of the house")

    with serve(Broken()) as broken, httpx.Client(base_url=broken.url, timeout=60.0) as client:
        answer = client.get("/v1/model")
        assert "secret" not in problem_of(answer, "internal").detail
        assert answer.status_code == 500


def test_the_client_speaks_the_contract(endpoint: Endpoint, runtime: Runtime, face: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(face)
    with Client(endpoint.url) as client:
        [expected] = class_predictions(runtime, [Request(video=face, text="we saw the door")])
        assert of_classes(client.predict(path, text="we saw the door")).probabilities == pytest.approx(
            expected.probabilities, abs=1e-5
        )
        assert client.predict(audio=requests()[0].audio).contributions.keys() == {"audio"}
        assert client.predict(text="we saw the door").contributions.keys() == {"text"}
        assert client.model().release == 3
        with pytest.raises(ServingError, match="no audio or video") as refused:
            client.predict(b"this is no recording" * 50)
        assert refused.value.problem is not None
        assert refused.value.problem.type == "urn:affect:problem:not-media"


def test_the_client_names_the_remedy_when_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServingError, match="affect up"):
        client.model()
