"""Callers that load an endpoint: as many as it takes without a pause, or at times of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

import aiohttp
import httpx
import numpy as np

from serving import feature_file

_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Ask:
    """A request that is sent again and again: a video in a form, or features as the body."""

    url: str
    kind: Literal["video", "features"]
    content: bytes

    def build(self) -> httpx.Request:
        """The request; built once, as the callers share the processors with the endpoint."""
        if self.kind == "video":
            return httpx.Request("POST", self.url, files={"video": ("clip", self.content)})
        return httpx.Request("POST", self.url, content=self.content, headers={"Content-Type": feature_file.MEDIA_TYPE})


@dataclass(frozen=True)
class Loaded:
    """What came of a load.

    Attributes:
        rate_hz: answers a second.
        latencies_s: of each answer, from when it was due to be asked.
        num_refused: requests that were answered with anything else than 200.
    """

    rate_hz: float
    latencies_s: tuple[float, ...]
    num_refused: int


def saturate(ask: Ask, *, num_callers: int, duration_s: float) -> Loaded:
    """Callers that ask again as soon as they are answered."""

    async def load(post: Callable[[float], Awaitable[None]]) -> None:
        end_s = time.perf_counter() + duration_s

        async def caller() -> None:
            while time.perf_counter() < end_s:
                await post(time.perf_counter())

        await asyncio.gather(*(caller() for _ in range(num_callers)))

    return asyncio.run(_run(ask, load))


def arrive(ask: Ask, *, rate_hz: float, duration_s: float, seed: int) -> Loaded:
    """Callers that come by chance, independently of each other and of how the endpoint gets on (Poisson)."""
    random = np.random.default_rng(seed)
    times_s = np.cumsum(random.exponential(1 / rate_hz, round(rate_hz * duration_s)))

    async def load(post: Callable[[float], Awaitable[None]]) -> None:
        begin_s = time.perf_counter()

        async def caller(at_s: float) -> None:
            await asyncio.sleep(max(0.0, begin_s + at_s - time.perf_counter()))
            await post(begin_s + at_s)

        await asyncio.gather(*(caller(float(at_s)) for at_s in times_s))

    return asyncio.run(_run(ask, load))


async def _run(ask: Ask, load: Callable[[Callable[[float], Awaitable[None]]], Awaitable[None]]) -> Loaded:
    latencies_s: list[float] = []
    num_refused = 0
    made = ask.build()
    body, headers = made.read(), dict(made.headers)
    # Of Python's HTTP clients the one that takes least of the processors, which are the endpoint's too.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S)
    ) as http:

        async def post(due_s: float) -> None:
            nonlocal num_refused
            async with http.post(ask.url, data=body, headers=headers) as answer:
                await answer.read()
            if answer.status == HTTPStatus.OK:
                latencies_s.append(time.perf_counter() - due_s)
            else:
                num_refused += 1

        begin_s = time.perf_counter()
        await load(post)
        took_s = time.perf_counter() - begin_s
    return Loaded(len(latencies_s) / took_s, tuple(latencies_s), num_refused)
