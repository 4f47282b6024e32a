"""`WS /v1/stream`: sound, picture and words come in while they are made, estimates go out, and at the end the answer.

One task receives, one reads windows from the decoding process, one judges. The judge takes the newest window and the
newest words and drops what it had no time for, so an endpoint that is late skips estimates and does not fall behind.
"""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from components.features.audio import audio_width
from components.features.clip_features import Frames
from components.features.live import Window, can_follow
from components.features.video import video_width
from serving import answering
from serving.engine import Engine
from serving.live import Live, Provider, served
from serving.observation import Metrics, request_id_of
from serving.prediction import Limits, Prediction, Request, RequestError
from serving.problems import PREFIX, problem
from serving.rows import num_steps
from serving.schema import (
    StreamEnd,
    StreamEstimate,
    StreamEvent,
    StreamFinal,
    StreamProblem,
    StreamStart,
    StreamText,
)
from serving.stream_decoder import StreamDecoder, StreamProcesses

if TYPE_CHECKING:
    from serving.runtime import Runtime

# Close codes from 4000 on are an application's own: this and the HTTP status of the problem.
CLOSE_CODE: Final = 4000
_DONE: Final = 1000
_Result = TypeVar("_Result")
_MESSAGE: Final[TypeAdapter[StreamStart | StreamText | StreamEnd]] = TypeAdapter(StreamStart | StreamText | StreamEnd)


@dataclass(frozen=True)
class StreamLimits:
    """What streams may take; their bytes and seconds are limited as a clip's are.

    Attributes:
        max_streams: that are open at once.
        idle_s: without a message, after which a stream is closed.
    """

    max_streams: int = 8
    idle_s: float = 20.0


def add(
    app: FastAPI, provider: Provider, engine: Engine, metrics: Metrics, limits: Limits, own: StreamLimits
) -> StreamProcesses:
    """Give the app the route; who carries the app opens and closes the processes that this returns."""
    num_open, processes = 0, StreamProcesses()

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        nonlocal num_open
        request_id = request_id_of(socket.headers)
        await socket.accept()
        num_open += 1
        metrics.streams.set(num_open)
        code, name = _DONE, ""
        try:
            if num_open > own.max_streams:
                raise RequestError("overloaded", f"{own.max_streams} streams are open: try again in a few seconds")
            live = provider()
            session = _Session(socket, served(live), live, engine, processes, limits, own, request_id)
            answer = await session.run()
            await _send(socket, StreamFinal(answer=answer))
            await socket.close(_DONE)
        except RequestError as error:
            document = problem(error.code, str(error), request_id=request_id)
            code, name = CLOSE_CODE + document.status, error.code
            await _refuse(socket, StreamProblem(problem=document), code, f"{PREFIX}{error.code}")
        except WebSocketDisconnect:
            code, name = 1006, "gone"
        finally:
            num_open -= 1
            metrics.streams.set(num_open)
            metrics.requests.labels("/v1/stream", str(code), name).inc()

    return processes


class _Session:
    """One stream from its first message to its answer, all by the model that was live at its start."""

    def __init__(
        self,
        socket: WebSocket,
        runtime: Runtime,
        live: Live,
        engine: Engine,
        processes: StreamProcesses,
        limits: Limits,
        own: StreamLimits,
        request_id: str,
    ) -> None:
        if not can_follow(runtime.features):
            raise RequestError(
                "not-streamable", "this model looks at whole clips: send the finished clip to POST /v1/emotion"
            )
        self._socket, self._runtime, self._engine = socket, runtime, engine
        self._limits, self._own, self._request_id = limits, own, request_id
        self._model = answering.name_of(runtime.info(), live.release)
        self._decoder = StreamDecoder(processes, runtime.features, limits)
        self._has_decoder = asyncio.Event()
        self._changed = asyncio.Event()
        self._content = bytearray()
        self._start = StreamStart(format="recording")
        self._text: str | None = None
        self._window = Window(_nothing(runtime), 0.0, 0.0)

    async def run(self) -> Any:
        """Take the stream to its end, and return the answer for all of it.

        Raises:
            RequestError: it cannot be used, or passes a limit.
            WebSocketDisconnect: the caller went away.
        """
        try:
            await _first_ends(self._receive(), self._read_windows(), self._judge_windows())
        finally:
            await self._decoder.close()
        return await _first_ends(self._finish(), self._wait_for_leaving())

    async def _finish(self) -> Any:
        """The answer for all of the stream. Who was let in is not refused at the end, but waits for his turn."""
        async with self._engine.admit_in_turn():
            return self._answer(await self._engine.judge(self._whole(), self._runtime))

    async def _wait_for_leaving(self) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            pass
        raise WebSocketDisconnect(message["code"])

    async def _receive(self) -> None:
        """Take messages until the last one."""
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), self._own.idle_s)
            except TimeoutError as error:
                raise RequestError(
                    "idle", f"no message came for {self._own.idle_s:g} s: send sound, words or the end"
                ) from error
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            if message.get("bytes") is not None:
                await self._take(message["bytes"])
            elif self._is_end(message.get("text") or ""):
                return

    async def _take(self, content: bytes) -> None:
        if len(self._content) + len(content) > self._limits.max_bytes:
            raise RequestError("too-large", f"the stream has more than {self._limits.max_bytes} bytes: end it earlier")
        if content and not self._has_decoder.is_set():
            given_rate_hz = self._start.sample_rate_hz if self._start.format == "pcm16" else 0
            await self._decoder.start(given_rate_hz=given_rate_hz, num_channels=self._start.num_channels)
            self._has_decoder.set()
        self._content += content
        if content:
            await self._decoder.send(content)

    def _is_end(self, text: str) -> bool:
        try:
            message = _MESSAGE.validate_json(text)
        except ValidationError as error:
            raise RequestError(
                "malformed",
                'a text message must be {"format": ...} before all else, {"text": "the words so far"} or {"end": true}',
            ) from error
        if isinstance(message, StreamStart):
            if self._content:
                raise RequestError("wrong-field", "format came after the first bytes: send it before them")
            self._start = message
        elif isinstance(message, StreamText):
            if len(message.text) > self._limits.max_characters:
                raise RequestError("too-large", f"text has more than {self._limits.max_characters} characters")
            self._text = message.text
            self._changed.set()
        return isinstance(message, StreamEnd)

    async def _read_windows(self) -> None:
        """Keep the newest window."""
        await self._has_decoder.wait()
        while True:
            self._window = await self._decoder.receive()
            self._changed.set()

    async def _judge_windows(self) -> None:
        """Judge what is newest whenever something is new."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            window = self._window
            prepared = self._runtime.prepare_frames(window.frames, self._text)
            if any(num_steps(prepared.features)):
                judged = _shifted(await self._engine.predict(prepared, self._runtime), window.start_s)
                answer = self._answer(judged)
                await _send(self._socket, StreamEstimate(start_s=window.start_s, end_s=window.end_s, answer=answer))

    def _answer(self, judged: Prediction) -> Any:
        return answering.answer_of(judged, self._model, self._request_id)

    def _whole(self) -> Request:
        """The stream as a clip."""
        if not self._content:
            return Request(text=self._text)
        if self._start.format == "pcm16":
            return Request(audio=_as_wav(bytes(self._content), self._start), text=self._text)
        # A file without a picture is taken for its sound.
        return Request(video=bytes(self._content), text=self._text)


async def _first_ends(main: Coroutine[Any, Any, _Result], *others: Coroutine[Any, Any, None]) -> _Result:
    """What the main one returns, unless another ends before it, which none does without an error."""
    working, beside = asyncio.ensure_future(main), [asyncio.ensure_future(each) for each in others]
    try:
        done, _ = await asyncio.wait([working, *beside], return_when=asyncio.FIRST_COMPLETED)
        for task in done.intersection(beside):
            task.result()
        return working.result()
    finally:
        for task in (working, *beside):
            task.cancel()
        await asyncio.gather(working, *beside, return_exceptions=True)


async def _send(socket: WebSocket, event: StreamEvent) -> None:
    await socket.send_text(event.model_dump_json())


async def _refuse(socket: WebSocket, event: StreamProblem, code: int, reason: str) -> None:
    try:
        await _send(socket, event)
        await socket.close(code, reason)
    except (WebSocketDisconnect, RuntimeError):
        # The caller went away at the same moment.
        return


def _nothing(runtime: Runtime) -> Frames:
    audio, video = audio_width(runtime.features.audio), video_width(runtime.features.video)
    return Frames(np.zeros((0, audio), np.float16), np.zeros((0, video), np.float16), ())


def _shifted(judged: Prediction, start_s: float) -> Prediction:
    """The prediction with its timeline on the stream's clock."""
    moments = (replace(at, start_s=at.start_s + start_s, end_s=at.end_s + start_s) for at in judged.timeline)
    return replace(judged, timeline=tuple(moments))


def _as_wav(samples: bytes, start: StreamStart) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(start.num_channels)
        written.setsampwidth(2)
        written.setframerate(start.sample_rate_hz)
        written.writeframes(samples)
    return file.getvalue()
