"""What callers see where Ray Serve itself answers: problems like the app's own, and 503 for what a dead replica had.

Serve's proxy answers in plain text when its queue is full, a deadline passes or there is no application, and not at
all when the replica that worked on a request dies (its HTTP server then makes a bare 500 of it). The proxy takes
middleware from a variable in `ENVIRONMENT`, which must be set where Ray is started.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.observation import REQUEST_ID_HEADER, request_id_of
from serving.problems import MEDIA_TYPE, problem

ENVIRONMENT: Final = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.serve_proxy:middleware",
    # Five seconds by default, after which Serve kills the proxy that it has just started, and gives up: on a machine
    # with other work its imports alone take longer.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}

# Addresses of Serve's own, such as /-/healthz.
_OWN_ADDRESSES: Final = "/-/"
_RETRY_AFTER_S: Final = 1
_REFUSALS: Final = {
    404: ("not-found", "no application is deployed at this address yet: start it with `affect up`"),
    408: ("timed-out", "the request was not answered in time: send a shorter recording, or try again"),
    429: ("overloaded", "more requests wait than may: try again later"),
    503: ("unavailable", "no replica can take requests: try again later, or see `affect status`"),
}


def middleware() -> list[Middleware]:
    """What Ray Serve's proxy calls when it starts."""
    return [Middleware(Problems)]


class Problems:
    """ASGI middleware: an error that is no problem document becomes one, and so does the lack of any answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_OWN_ADDRESSES):
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        MutableHeaders(scope=scope)[REQUEST_ID_HEADER] = request_id
        started = refused = False

        async def send_problem(message: Message) -> None:
            nonlocal started, refused
            if message["type"] == "http.response.start":
                started = True
                headers = Headers(raw=message["headers"])
                if message["status"] >= 400 and not headers.get("content-type", "").startswith(MEDIA_TYPE):
                    refused = True
                    code, detail = _REFUSALS.get(message["status"], ("internal", "the endpoint failed: see Ray's log"))
                    await _answer(code, detail, request_id, headers.get("retry-after"))(scope, receive, send)
            if not refused:
                await send(message)

        await self.app(scope, receive, send_problem)
        if not started:
            detail = "the replica that worked on this request ended before it answered: send it again"
            await _answer("interrupted", detail, request_id, str(_RETRY_AFTER_S))(scope, receive, send)


def _answer(code: str, detail: str, request_id: str, retry_after: str | None) -> Response:
    document = problem(code, detail, request_id=request_id)
    headers = {REQUEST_ID_HEADER: request_id}
    if document.status == 503 or retry_after is not None:
        headers["Retry-After"] = retry_after or str(_RETRY_AFTER_S)
    return Response(document.model_dump_json(), document.status, headers, MEDIA_TYPE)
