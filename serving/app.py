"""The HTTP face of a runtime: routes, request ids, problems and metrics. Any ASGI server can carry it.

`create_app` takes a provider: a function that returns what is live at this instant. A request asks it once and
uses that runtime to its end, so a swap never mixes two models in one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serving import answering, prediction, schema, uploads
from serving.observation import METRICS_MEDIA_TYPE, REQUEST_ID_HEADER, Metrics, Observed
from serving.prediction import RequestError
from serving.problems import MEDIA_TYPE, PROBLEMS, problem
from serving.schema import Answer, Health, ModelCard, Problem

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

DESCRIPTION: Final = """Emotion recognition from any subset of a sound file, a video file and words.

Errors are RFC 9457 problems (`application/problem+json`); `type` is `urn:affect:problem:` and a stable code.
No address given by a caller is ever fetched, and uploads never touch the disk."""

_FILE: Final = {"type": "string", "format": "binary"}
_REQUEST_BODY: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "minProperties": 1,
                "properties": {
                    "audio": {**_FILE, "description": "Sound: WAV, FLAC, MP3, OGG, M4A, ... by content, not by name."},
                    "video": {**_FILE, "description": "Video: MP4, WebM, MKV, AVI, ...; its own sound is used too."},
                    "text": {"type": "string", "description": "What is said in it."},
                },
            }
        },
        "application/json": {"schema": schema.TextRequest.model_json_schema()},
    },
}


@dataclass(frozen=True)
class Live:
    """What is served at one instant.

    Attributes:
        runtime: the loaded model; None before the first one.
        release: its number in the release log; 0 outside of it.
        refused: why a newer bundle was not loaded; empty when there is none.
    """

    runtime: Runtime | None = None
    release: int = 0
    refused: str = ""


Provider = Callable[[], Live]


def create_app(
    provider: Provider,
    *,
    limits: prediction.Limits | None = None,
    num_decoders: int = 2,
    adds_request_id: bool = True,
) -> FastAPI:
    """Build the endpoint.

    Args:
        provider: returns what is live; called once a request, on the event loop.
        limits: what a request may carry; the same that the runtime was given.
        num_decoders: requests that are decoded at the same time. The model runs one batch at a time.
        adds_request_id: put `X-Request-ID` on answers; False behind a server that does it itself.
    """
    metrics = Metrics()
    app = FastAPIOffline(
        title="Crossmodal Affect",
        version="1",
        description=DESCRIPTION,
        redoc_url=None,
        # Without this, Swagger's page would ask another host to judge the document.
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.add_middleware(Observed, metrics=metrics, adds_header=adds_request_id)
    _answer_errors(app, adds_request_id=adds_request_id)
    _add_emotion(app, provider, metrics, limits or prediction.Limits(), num_decoders)
    _add_observation(app, provider, metrics, limits or prediction.Limits())
    return app


def _add_emotion(
    app: FastAPI, provider: Provider, metrics: Metrics, limits: prediction.Limits, num_decoders: int
) -> None:
    decoders, model = CapacityLimiter(num_decoders), CapacityLimiter(1)

    @app.post(
        "/v1/emotion",
        summary="Judge one clip",
        responses=_responses("malformed", "too-large", "wrong-content-type", "not-media", "no-model"),
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def emotion(request: Request) -> Answer:
        live = provider()
        served = _served(live)
        with metrics.stage("receive"):
            asked = await uploads.read(request, limits)
        with metrics.stage("prepare"):
            prepared = await run_sync(served.prepare, asked, limiter=decoders)
        with metrics.stage("model"):
            [judged] = await run_sync(served.predict_prepared, [prepared], limiter=model)
        model_name = answering.name_of(served.info(), live.release)
        return answering.answer_of(judged, model_name, request.state.request_id)


def _add_observation(app: FastAPI, provider: Provider, metrics: Metrics, limits: prediction.Limits) -> None:
    @app.get("/v1/model", summary="The served model", responses=_responses("no-model"))
    async def model() -> ModelCard:
        live = provider()
        return answering.card_of(_served(live).info(), live.release, live.refused, limits=limits)

    @app.get("/healthz", summary="The process answers")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get("/readyz", summary="A model is loaded", responses=_responses("no-model"))
    async def readyz() -> Health:
        _served(provider())
        return Health(status="ok")

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        live = provider()
        version = live.runtime.version if live.runtime else None
        return Response(metrics.text(version=version, release=live.release), media_type=METRICS_MEDIA_TYPE)


def _served(live: Live) -> Runtime:
    if live.runtime is not None:
        return live.runtime
    if live.refused:
        raise RequestError("bundle-refused", live.refused)
    raise RequestError("no-model", "no model has been promoted yet: run `affect retrain`")


def _answer_errors(app: FastAPI, *, adds_request_id: bool) -> None:
    def respond(request: Request, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
        request.state.problem = code
        document = problem(code, detail, request_id=request.state.request_id)
        return Response(document.model_dump_json(), status_code=document.status, headers=headers, media_type=MEDIA_TYPE)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return respond(request, error.code, str(error))

    async def refused_by_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not-found", 405: "wrong-method"}.get(error.status_code, "malformed")
        detail = f"{request.method} {request.url.path}: {error.detail}; the routes are listed at /docs"
        return respond(request, code, detail, dict(error.headers or {}))

    async def failed(request: Request, _error: Exception) -> Response:
        detail = "the endpoint failed: its log has the reason under this request's id"
        # Answered outside of the middleware that would add the id.
        headers = {REQUEST_ID_HEADER: request.state.request_id} if adds_request_id else {}
        return respond(request, "internal", detail, headers)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, refused_by_router)
    app.add_exception_handler(Exception, failed)


def _responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for the OpenAPI document."""
    example_schema = {"$ref": "#/components/schemas/Problem"}
    return {
        PROBLEMS[code][0]: {
            "description": PROBLEMS[code][1],
            "model": Problem,
            "content": {MEDIA_TYPE: {"schema": example_schema}},
        }
        for code in codes
    }
