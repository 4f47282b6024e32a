"""The Prefect server with one thing more: reports of runs and studies, which its own UI cannot show.

    python -m flows.prefect_server --host HOST --port PORT

`/reports/...` comes from the store, at the address of the UI and behind the same login. A report is a page of others'
words: the browser is told to run nothing in it and to fetch nothing for it.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hmac
from typing import Final

import uvicorn
from anyio.to_thread import run_sync
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, get_current_settings
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from components.settings import load as load_settings
from components.storage import Storage
from flows import report_pages

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-popups; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_LOGIN: Final = {"WWW-Authenticate": 'Basic realm="Prefect", charset="UTF-8"'}


class WithReports:
    """ASGI middleware that answers what lies below `/reports/`, and hands on all else.

    Args:
        login: `NAME:PASSWORD` that a browser has to be told; None asks nobody.
    """

    def __init__(self, app: ASGIApp, storage: Storage, login: str | None) -> None:
        self.app, self._storage, self._login = app, storage, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(report_pages.PREFIX):
            await self.app(scope, receive, send)
            return
        response = await self._answer(Request(scope))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("reports are read\n", 405, headers={"Allow": "GET, HEAD"})
        if self._login is not None and not hmac.compare_digest(_given(request), self._login.encode()):
            return PlainTextResponse("say name and password of the Prefect UI\n", 401, headers=_LOGIN)
        name = report_pages.file_of(request.scope["path"])
        try:
            content = await run_sync(self._storage.read, name) if name else b""
        except FileNotFoundError:
            content = b""
        if not content:
            return PlainTextResponse("there is no such report\n", 404)
        return Response(content, media_type="text/html; charset=utf-8", headers=_HEADERS)


def _given(request: Request) -> bytes:
    """Name and password that a request brings; nothing where it brings none."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    try:
        return base64.b64decode(text, validate=True) if scheme.lower() == "basic" else b""
    except binascii.Error:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.prefect_server", description="Prefect with its reports.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4200)
    asked = parser.parse_args()
    app = WithReports(
        create_app(final=True), Storage(load_settings().storage_url), PREFECT_SERVER_API_AUTH_STRING.value()
    )
    # As `prefect server start` has it.
    server = get_current_settings().server
    uvicorn.run(
        app,
        host=asked.host,
        port=asked.port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


if __name__ == "__main__":
    main()
