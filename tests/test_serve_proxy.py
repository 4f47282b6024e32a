"""What callers see of the errors that Ray Serve's proxy makes by itself: problems, with the caller's request id."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.problems import MEDIA_TYPE
from serving.schema import Problem
from serving.serve_proxy import Problems


async def _no_answer(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """What Serve's proxy does when the replica of a request died."""


def _ask(app: ASGIApp, path: str = "/v1/emotion", request_id: str = "mine") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Problems(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
            return await http.get(path, headers={"X-Request-ID": request_id})

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("app", "status", "code", "retry_after"),
    [
        (_no_answer, 503, "interrupted", "1"),
        (PlainTextResponse("Request dropped due to backpressure", 429, {"Retry-After": "7"}), 429, "overloaded", "7"),
        (PlainTextResponse("Request timed out after 120 s", 408), 408, "timed-out", None),
        (PlainTextResponse("Deployment is unavailable", 503), 503, "unavailable", "1"),
        (PlainTextResponse("Path '/' not found", 404), 404, "not-found", None),
        (PlainTextResponse("Internal Server Error", 500), 500, "internal", None),
    ],
)
def test_an_error_of_serve_itself_becomes_a_problem(
    app: ASGIApp, status: int, code: str, retry_after: str | None
) -> None:
    answer = _ask(app)
    problem = Problem.model_validate_json(answer.content)
    assert answer.status_code == problem.status == status
    assert problem.type == f"urn:affect:problem:{code}"
    assert problem.instance == "urn:affect:request:mine"
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize(
    "app", [PlainTextResponse("fine"), Response('{"type": "urn:affect:problem:empty"}', 422, media_type=MEDIA_TYPE)]
)
def test_the_answers_of_the_app_pass_unchanged(app: Response) -> None:
    answer = _ask(app)
    assert (answer.status_code, answer.content) == (app.status_code, app.body)


def test_an_id_that_could_break_a_log_is_replaced_before_anyone_sees_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        [given] = [value for name, value in scope["headers"] if name == b"x-request-id"]
        await PlainTextResponse(given)(scope, receive, send)

    assert _ask(app, request_id="a b").text != "a b"
    assert _ask(app, request_id="mine").text == "mine"


def test_the_addresses_of_serve_itself_are_left_alone() -> None:
    assert _ask(PlainTextResponse("unhealthy", 503), path="/-/healthz").text == "unhealthy"
