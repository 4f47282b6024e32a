"""Who may ask: everything but the open addresses needs a key, and without any key only this machine is answered.

A key comes as `Authorization: Bearer KEY`. A page cannot set that header on a web socket; there it is offered as the
subprotocol `affect.key.KEY` beside `affect`. A key is never read from an address, for addresses end in logs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.keys import Keys, is_loopback
from serving.problems import MEDIA_TYPE, problem, responses

SUBPROTOCOL: Final = "affect"
_KEY_PROTOCOL: Final = "affect.key."
# Of the page and the documentation, which hold nothing of callers, and for whoever watches the process.
_OPEN: Final = re.compile(r"/|/(healthz|readyz|docs|openapi\.json|favicon\.ico|docs/oauth2-redirect)|/static[^/]*/.*")
_REFUSALS: Final = ("unauthorized", "keys-needed", "rate-limited", "keys-unreadable")


@dataclass(frozen=True)
class _Refusal:
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Guarded:
    """ASGI middleware that lets through who may ask.

    Args:
        keys: makes the keys, at the first request; without any, callers on this machine need none and others are
            refused.
    """

    def __init__(self, app: ASGIApp, keys: Callable[[], Keys]) -> None:
        self.app, self._keys = app, functools.cache(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_open(scope):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send if scope["type"] == "http" else _with_subprotocol(scope, send))
            return
        request_id = scope.setdefault("state", {}).get("request_id", "")
        scope["state"]["problem"] = refusal.code
        document = problem(refusal.code, refusal.detail, request_id=request_id)
        response = Response(
            document.model_dump_json(), document.status, headers=dict(refusal.headers), media_type=MEDIA_TYPE
        )
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.code})
            return
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> _Refusal | None:
        try:
            keys = self._keys()
            if not keys.are_set:
                return None if _is_of_this_machine(scope) else _no_keys()
            key = keys.find(_given(scope))
        except (ValueError, OSError):
            return _Refusal("keys-unreadable", "the endpoint's list of keys cannot be read: see `affect keys list`")
        if key is None:
            return _Refusal(
                "unauthorized",
                "send a key that `affect keys add NAME` made, as the header `Authorization: Bearer KEY`",
                {"WWW-Authenticate": 'Bearer realm="affect"'},
            )
        wait_s = keys.wait_s(key)
        if wait_s:
            return _Refusal(
                "rate-limited",
                f"this key may ask {key.per_minute} times a minute: try again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        return None


def is_open(scope: Scope) -> bool:
    """Whether an address needs no key."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return _OPEN.fullmatch(path.removeprefix(root) if path.startswith(f"{root}/") else path) is not None


def describe(app: FastAPI) -> None:
    """Tell of keys and refusals in the app's OpenAPI document."""
    original = app.openapi

    def described() -> dict[str, Any]:
        document = original()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A key of `affect keys add NAME`."}
        for path, methods in document["paths"].items():
            if is_open({"path": path}):
                continue
            for operation in methods.values():
                operation["security"] = [{"key": []}, {}]
                for status, entry in responses(*_REFUSALS).items():
                    content = entry["content"][MEDIA_TYPE]
                    told = operation["responses"].setdefault(str(status), {"description": entry["description"]})
                    shown = told.setdefault("content", {}).setdefault(MEDIA_TYPE, {"schema": content["schema"]})
                    shown.setdefault("examples", {}).update(content["examples"])
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def _no_keys() -> _Refusal:
    return _Refusal(
        "keys-needed",
        "this endpoint has no API keys and answers callers on its own machine alone: make one with "
        "`affect keys add NAME`, or give a list in AFFECT_API_KEYS",
    )


def _is_of_this_machine(scope: Scope) -> bool:
    """Whether the caller is on this machine: it comes from a loopback address, from ours, or through a file."""
    client, server = scope.get("client"), scope.get("server")
    if client is None:
        return server is not None and server[1] is None
    return is_loopback(client[0]) or (server is not None and client[0] == server[0])


def _given(scope: Scope) -> str:
    headers = Headers(scope=scope)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    offered = [name for name in scope.get("subprotocols", []) if name.startswith(_KEY_PROTOCOL)]
    return offered[0].removeprefix(_KEY_PROTOCOL) if offered else ""


def _with_subprotocol(scope: Scope, send: Send) -> Send:
    """A browser that offers subprotocols wants one of them; never the key."""

    async def send_with_subprotocol(message: Message) -> None:
        if message["type"] == "websocket.accept" and SUBPROTOCOL in scope.get("subprotocols", []):
            message = {**message, "subprotocol": message.get("subprotocol") or SUBPROTOCOL}
        await send(message)

    return send_with_subprotocol
