"""`POST /v1/emotion:batch`: several clips in one form, and an answer or a problem for each.

A part is named by its modality and its clip, `video.a` or `text.a`, so that one `curl` with a few `-F` sends a batch.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from starlette.datastructures import FormData
from starlette.requests import Request as HttpRequest

from components.clip import MODALITIES
from serving import answering, examples, uploads
from serving.engine import Engine, while_connected
from serving.live import Live, Provider, served
from serving.observation import Metrics
from serving.prediction import Limits, Request, RequestError
from serving.problems import problem, responses
from serving.schema import BatchAnswer, ClipAnswer

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

_PROBLEMS: Final = (
    *("malformed", "too-large", "wrong-content-type", "unknown-field", "wrong-field", "no-modality"),
    *("overloaded", "no-model", "bundle-refused"),
)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FILE: Final = {"type": "string", "format": "binary"}
_REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "minProperties": 1,
                "description": "Parts of a clip carry its name behind a point: letters, digits, `_` and `-`.",
                "patternProperties": {
                    f"^audio\\.{_NAME.pattern}$": {**_FILE, "description": "Sound of the clip."},
                    f"^video\\.{_NAME.pattern}$": {**_FILE, "description": "Video of the clip; its sound counts."},
                    f"^text\\.{_NAME.pattern}$": {"type": "string", "description": "What is said in the clip."},
                },
            },
            "example": examples.BATCH_REQUEST,
        }
    },
}


def add(app: FastAPI, provider: Provider, engine: Engine, metrics: Metrics, limits: Limits) -> None:
    """Give the app the route."""

    @app.post(
        "/v1/emotion:batch",
        summary="Judge several clips",
        description="Clips are answered in the order in which their first parts stand in the form. A clip that "
        "cannot be judged has a `problem` in its place, and the others are answered. One model answers all.",
        responses={
            **responses(*_PROBLEMS),
            **examples.shown(examples.BATCH_ANSWER),
        },
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def batch(request: HttpRequest) -> BatchAnswer:
        served(provider())
        engine.refuse_if_full()
        with metrics.stage("receive"):
            clips = await _read(request, limits)
        # One model for all, the one that is live when they are here.
        live = provider()
        runtime = served(live)
        request_id: str = request.state.request_id
        with engine.admit(len(clips)):
            judged = [_judged(name, clip, runtime, live, engine, request_id) for name, clip in clips.items()]
            answers = await while_connected(request, _all(judged))
        return BatchAnswer(request_id=request_id, clips=answers)


async def _all(judged: list[Coroutine[Any, Any, ClipAnswer]]) -> list[ClipAnswer]:
    return list(await asyncio.gather(*judged))


async def _judged(
    name: str, clip: Request, runtime: Runtime, live: Live, engine: Engine, request_id: str
) -> ClipAnswer:
    try:
        prediction = await engine.judge(clip, runtime)
    except RequestError as error:
        return ClipAnswer(name=name, problem=problem(error.code, str(error), request_id=request_id))
    model = answering.name_of(runtime.info(), live.release)
    return ClipAnswer(name=name, answer=answering.answer_of(prediction, model, request_id))


async def _read(request: HttpRequest, limits: Limits) -> dict[str, Request]:
    """The clips of a form by name, in its order."""
    kind = uploads.kind_of(request)
    if kind != "multipart/form-data":
        raise RequestError(
            "wrong-content-type",
            f"content type {kind or '(none)'!r} is not accepted: send multipart/form-data with parts such as video.a",
        )
    form = await uploads.parsed_form(request, limits, max_parts=len(MODALITIES) * limits.max_clips)
    try:
        names = _clip_names(form)
        if not names:
            raise RequestError("no-modality", "the form has no parts: send at least one, such as video.a")
        if len(names) > limits.max_clips:
            raise RequestError(
                "too-large", f"the form has {len(names)} clips, more than {limits.max_clips}: send several requests"
            )
        return {
            name: Request(
                audio=await uploads.file_of(form, f"audio.{name}"),
                video=await uploads.file_of(form, f"video.{name}"),
                text=uploads.words_of(form, f"text.{name}"),
            )
            for name in names
        }
    finally:
        await form.close()


def _clip_names(form: FormData) -> list[str]:
    fields = [field for field, _ in form.multi_items()]
    names: dict[str, None] = {}
    for field in fields:
        modality, _, name = field.partition(".")
        if modality not in MODALITIES or not _NAME.fullmatch(name):
            raise RequestError(
                "unknown-field",
                f"unknown field {field[:80]!r}: name a part audio.NAME, video.NAME or text.NAME, NAME of letters, "
                "digits, _ and -",
            )
        if fields.count(field) > 1:
            raise RequestError("wrong-field", f"{field} is given {fields.count(field)} times: send it once")
        names[name] = None
    return list(names)
