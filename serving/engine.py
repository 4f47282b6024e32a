"""From a request to its prediction: what is admitted, decoded and judged, for all routes of one app.

A route asks `refuse_if_full` before it reads a body, holds `admit` while it works on it, and awaits `judge`:

    engine.refuse_if_full()
    asked = await uploads.read(request, limits)
    with engine.admit():
        prediction = await while_connected(http_request, engine.judge(asked, live.runtime))

Shapes are those of `serving.runtime`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette import requests

from components.features import clip_features
from components.features.clip_features import Decode
from serving.batching import Batches
from serving.decoding import NUM_DECODERS
from serving.observation import Metrics
from serving.prediction import Prediction, Prepared, Request, RequestError

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

# Clips that may be decoded, waiting or judged at once; whoever comes beyond is told to come again.
MAX_CLIPS: Final = 32
_MAX_RETRY_S: Final = 30
# Clips to prepare for each decoder, from which on the model waits for whole batches.
_MANY: Final = 2
# Share of the newest clip in the measured time of one.
_NEWEST: Final = 0.1

_Result = TypeVar("_Result")
OnJudged = Callable[[Prepared, Prediction, "Runtime"], object]


class Engine:
    """Judges requests, and refuses those beyond its limit at once. For one event loop.

    Args:
        metrics: where stages, the queue and batches are counted.
        decode: decodes a recording; called in a thread, `num_decoders` times at once. By default in this process.
        num_decoders: requests that are decoded at the same time.
        max_clips: that may be decoded, waiting or judged at once.
        on_judged: told of each clip that was judged as a whole, and of no estimate of a stream; must not block.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        decode: Decode = clip_features.record,
        num_decoders: int = NUM_DECODERS,
        max_clips: int = MAX_CLIPS,
        on_judged: OnJudged = lambda _prepared, _prediction, _runtime: None,
    ) -> None:
        self.max_clips = max_clips
        self._metrics = metrics
        self._decode = decode
        self._on_judged = on_judged
        self._decoders = asyncio.Semaphore(num_decoders)
        self._threads = CapacityLimiter(num_decoders)
        self._batches = Batches(metrics, are_many_coming=lambda: self._num_preparing >= _MANY * num_decoders)
        self._num_clips = self._num_in_turn = self._num_preparing = 0
        self._freed = asyncio.Event()
        self._clip_s = 0.1
        self._busy_since_s = 0.0

    def refuse_if_full(self, num_clips: int = 1) -> None:
        """Refuse what `admit` would refuse, before its body is read.

        Raises:
            RequestError: overloaded.
        """
        if self._num_clips + self._num_in_turn + num_clips > self.max_clips:
            raise RequestError(
                "overloaded",
                f"{self._num_clips} clips are being worked on, and no more than {self.max_clips} may be: "
                f"try again in {self._retry_after_s()} s",
                retry_after_s=self._retry_after_s(),
            )

    @contextmanager
    def admit(self, num_clips: int = 1) -> Iterator[None]:
        """Count clips as being worked on while the block lasts. A caller must not ask for more than `max_clips`.

        Raises:
            RequestError: overloaded; its `retry_after_s` is when what is admitted now should be done.
        """
        self.refuse_if_full(num_clips)
        with self._counted(num_clips):
            yield

    @asynccontextmanager
    async def admit_in_turn(self) -> AsyncIterator[None]:
        """As `admit`, for one clip of a caller who was let in earlier: it waits for a place, before all newcomers."""
        self._num_in_turn += 1
        try:
            while self._num_clips >= self.max_clips:
                self._freed.clear()
                await self._freed.wait()
        finally:
            self._num_in_turn -= 1
        with self._counted(1):
            yield

    @contextmanager
    def _counted(self, num_clips: int) -> Iterator[None]:
        if self._num_clips == 0:
            self._busy_since_s = time.perf_counter()
        self._num_clips += num_clips
        self._metrics.admitted.set(self._num_clips)
        try:
            yield
        finally:
            self._num_clips -= num_clips
            self._freed.set()
            self._metrics.admitted.set(self._num_clips)
            self._measure(num_clips)

    async def judge(self, request: Request, runtime: Runtime) -> Prediction:
        """Decode and judge one request, all by one runtime. Hold `admit` around it.

        Raises:
            RequestError: it carries nothing, too much, or media that cannot be decoded.
        """
        prepared = await self.prepare(request, runtime)
        prediction = await self.predict(prepared, runtime)
        self._on_judged(prepared, prediction, runtime)
        return prediction

    async def prepare(self, request: Request, runtime: Runtime) -> Prepared:
        """Decode one request, as soon as a decoder is free.

        Raises:
            RequestError: as for `judge`.
        """
        if request.features is not None:
            # Checked within a millisecond: nothing to wait for.
            with self._metrics.stage("prepare"):
                return runtime.prepare(request)
        self._num_preparing += 1
        try:
            with self._metrics.stage("wait"):
                await self._decoders.acquire()
            try:
                with self._metrics.stage("prepare"):
                    return await run_sync(runtime.prepare, request, self._decode, limiter=self._threads)
            finally:
                self._decoders.release()
        finally:
            self._num_preparing -= 1

    async def predict(self, prepared: Prepared, runtime: Runtime) -> Prediction:
        """Judge what a runtime prepared, in a batch with what else waits for it."""
        return await self._batches.predict(prepared, runtime)

    def _measure(self, num_clips: int) -> None:
        """Take the time since the last clip ended, or since there were any, as that of these."""
        now_s = time.perf_counter()
        self._clip_s += _NEWEST * ((now_s - self._busy_since_s) / num_clips - self._clip_s)
        self._busy_since_s = now_s

    def _retry_after_s(self) -> int:
        return min(_MAX_RETRY_S, max(1, math.ceil(self._num_clips * self._clip_s)))


async def while_connected(request: requests.Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await `work` for a caller whose body is read; when the caller goes away, cancel it and wait for its end.

    Raises:
        RequestError: gone.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError("gone", "the caller went away before the answer")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        # A decoder's thread cannot be cancelled: until it ends, it counts as working.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: requests.Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
