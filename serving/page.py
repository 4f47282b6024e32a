"""The page at `/`: a person records or drops a clip, types the words, and sees what the model makes of it.

Its files lie in `serving/web` and are served as they are: no build step, no framework, and nothing from another
host, which the Content-Security-Policy holds a browser to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

INDEX: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        # What was recorded or dropped plays from the browser's own memory.
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A browser keeps the files but asks whether they changed, so a new release never mixes with old parts.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    """One file of the page, with the tag of its content."""

    content: bytes
    media_type: str
    tag: str


def add(app: FastAPI) -> None:
    """Serve the page at `/` and its parts below `/static/`, outside of the OpenAPI document."""
    files = _read()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return _answer(request, files[INDEX])

    @app.api_route("/static/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such part")
        return _answer(request, files[name])


def _read() -> dict[str, _File]:
    found = {}
    for entry in (resources.files("serving") / "web").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in _MEDIA_TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _File(content, _MEDIA_TYPES[suffix], tag)
    return found


def _answer(request: Request, file: _File) -> Response:
    headers = {**_HEADERS, "ETag": file.tag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if known & {file.tag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
