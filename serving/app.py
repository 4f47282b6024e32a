"""The HTTP face of a runtime: routes, request ids, problems and metrics. Any ASGI server can carry it.

`create_app` takes a provider: a function that returns what is live at this instant. A request that has been received
asks it once and uses that runtime to its end, so a swap never mixes two models in one answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving import (
    answering,
    batch_route,
    examples,
    feature_file,
    guard,
    page,
    prediction,
    schema,
    stream_route,
    uploads,
)
from serving.decoding import Decoders
from serving.engine import MAX_CLIPS, Engine, while_connected
from serving.guard import Guarded
from serving.keys import Keys
from serving.live import Live, Provider, served
from serving.observation import METRICS_MEDIA_TYPE, REQUEST_ID_HEADER, Metrics, Observed
from serving.prediction import Prediction, Prepared, RequestError
from serving.problems import MEDIA_TYPE, problem, responses
from serving.sampling import Sampler, Sampling
from serving.schema import Answer, Health, ModelCard
from serving.trial import Trials

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

__all__ = ["Live", "create_app"]

DESCRIPTION: Final = """Emotion recognition from any subset of a sound file, a video file and words.

`/v1/stream` is a web socket, which this document cannot describe: parts of a recording go in as binary messages while
it is made, words as `{"text": "..."}` and at the end `{"end": true}`; `estimate`, `final` and `problem` events come out
as JSON.

Errors are RFC 9457 problems (`application/problem+json`); `type` is `urn:affect:problem:` and a stable code.
No address given by a caller is ever fetched, and uploads never touch the disk."""

CARD_MEDIA_TYPE: Final = "text/markdown; charset=utf-8"
_READING: Final = ("malformed", "too-large", "wrong-content-type", "no-modality", "unknown-field", "wrong-field")
_SERVING: Final = ("overloaded", "no-model", "bundle-refused")
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
            },
            "example": examples.REQUEST,
        },
        "application/json": {"schema": schema.TextRequest.model_json_schema()},
        feature_file.MEDIA_TYPE: {
            "schema": {**_FILE, "description": "Features that `serving.feature_file` made with the model's bundle."},
            "example": examples.FEATURES,
        },
    },
}


def create_app(
    provider: Provider,
    *,
    limits: prediction.Limits | None = None,
    decoders: Decoders | None = None,
    max_clips: int = MAX_CLIPS,
    stream_limits: stream_route.StreamLimits | None = None,
    keys: Callable[[], Keys] = Keys,
    sampling: Sampling | None = None,
    adds_request_id: bool = True,
) -> FastAPI:
    """Build the endpoint.

    Args:
        provider: returns what is live; called once a request, on the event loop.
        limits: what a request may carry; the same that the runtime was given.
        decoders: the processes that decode, of which others may have a share: who made them starts and closes them.
            By default the app has its own, from its start to its end.
        max_clips: that may be decoded, waiting or judged at once; a request beyond is answered with 429.
        stream_limits: how many streams may be open, and how long one may be silent.
        keys: makes the API keys; without any, only callers on this machine are answered.
        sampling: which requests leave a few numbers in the store, and where; none do when not given.
        adds_request_id: put `X-Request-ID` on answers; False behind a server that does it itself.
    """
    metrics, own = Metrics(), decoders or Decoders()
    limits = limits or prediction.Limits()
    sampler = Sampler(sampling, metrics) if sampling else None

    def on_judged(prepared: Prepared, prediction: Prediction, runtime: Runtime) -> None:
        live = provider()
        # What was live when the request came, and is no longer, has no release to be counted under.
        if sampler is not None and live.runtime is runtime:
            sampler.offer(prepared, prediction, runtime, release=live.release)

    engine = Engine(metrics, decode=own.decode, num_decoders=own.num_workers, max_clips=max_clips, on_judged=on_judged)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if decoders is None:
            own.start()
        processes.open()
        try:
            yield
        finally:
            await processes.close()
            if sampler is not None:
                await run_sync(sampler.close)
            if decoders is None:
                await run_sync(own.close)

    app = FastAPIOffline(
        title="Crossmodal Affect",
        version="1",
        description=DESCRIPTION,
        redoc_url=None,
        lifespan=lifespan,
        # Without this, Swagger's page would ask another host to judge the document.
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.add_middleware(Guarded, keys=keys)
    app.add_middleware(Observed, metrics=metrics, adds_header=adds_request_id)
    _answer_errors(app, adds_request_id=adds_request_id)
    _add_emotion(app, provider, metrics, engine, limits)
    batch_route.add(app, provider, engine, metrics, limits)
    processes = stream_route.add(app, provider, engine, metrics, limits, stream_limits or stream_route.StreamLimits())
    _add_observation(app, provider, metrics, limits)
    page.add(app)
    guard.describe(app)
    return app


def _add_emotion(app: FastAPI, provider: Provider, metrics: Metrics, engine: Engine, limits: prediction.Limits) -> None:
    trials = Trials(engine, metrics)

    @app.post(
        "/v1/emotion",
        summary="Judge one clip",
        responses={
            **responses(*_READING, "empty", "not-media", "truncated", "nothing-usable", "too-long", *_SERVING),
            **examples.shown(examples.ANSWER),
        },
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def emotion(request: Request) -> Answer:
        served(provider())
        engine.refuse_if_full()
        with metrics.stage("receive"):
            asked = await uploads.read(request, limits)
        request_id = request.state.request_id
        with engine.admit():
            # What is live now: a slow upload must not hold on to a model that was replaced meanwhile.
            judged, model = await while_connected(request, trials.judge(asked, provider(), request_id))
        return answering.answer_of(judged, model, request_id)


def _add_observation(app: FastAPI, provider: Provider, metrics: Metrics, limits: prediction.Limits) -> None:
    @app.get(
        "/v1/model",
        summary="The served model",
        responses={
            **responses("no-model", "bundle-refused"),
            **examples.shown(examples.MODEL),
        },
    )
    async def model() -> ModelCard:
        live = provider()
        made = answering.card_of(served(live).info(), live.release, live.refused, limits=limits)
        return made.model_copy(update={"trial": answering.trial_of(live)})

    @app.get(
        "/v1/model/card",
        summary="The served model's card",
        response_class=Response,
        responses={
            **responses("no-model"),
            200: {"content": {CARD_MEDIA_TYPE: {"schema": {"type": "string"}, "example": examples.CARD}}},
        },
    )
    async def card() -> Response:
        return Response(served(provider()).card, media_type=CARD_MEDIA_TYPE)

    @app.get("/healthz", summary="The process answers", responses=examples.shown(examples.HEALTH))
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get(
        "/readyz",
        summary="A model is loaded",
        responses={**responses("no-model", "bundle-refused"), **examples.shown(examples.HEALTH)},
    )
    async def readyz() -> Health:
        served(provider())
        return Health(status="ok")

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses=examples.shown(examples.METRICS, "text/plain"),
    )
    async def prometheus() -> Response:
        live = provider()
        version = live.runtime.version if live.runtime else None
        return Response(metrics.text(version=version, release=live.release), media_type=METRICS_MEDIA_TYPE)


def _answer_errors(app: FastAPI, *, adds_request_id: bool) -> None:
    def respond(request: Request, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
        request.state.problem = code
        document = problem(code, detail, request_id=request.state.request_id)
        return Response(document.model_dump_json(), status_code=document.status, headers=headers, media_type=MEDIA_TYPE)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return respond(request, error.code, str(error), headers)

    async def refused_by_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not-found", 405: "wrong-method"}.get(error.status_code, "malformed")
        detail = f"{request.method} {request.url.path}: {error.detail}; the routes are listed at /docs"
        return respond(request, code, detail, dict(error.headers or {}))

    async def left(request: Request, _error: Exception) -> Response:
        return respond(request, "gone", "the caller went away before its request had come")

    async def failed(request: Request, _error: Exception) -> Response:
        detail = "the endpoint failed: its log has the reason under this request's id"
        # Answered outside of the middleware that would add the id.
        headers = {REQUEST_ID_HEADER: request.state.request_id} if adds_request_id else {}
        return respond(request, "internal", detail, headers)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, refused_by_router)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, failed)
