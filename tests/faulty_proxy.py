"""A proxy before a real server that spoils what it is told to: for clients that have to live with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

_MOST_BYTES = 1 << 30
# Of one hop alone, or made anew on the way.
_HOP_HEADERS = frozenset({"connection", "expect", "keep-alive", "transfer-encoding"})


@dataclass
class FaultyProxy:
    """What is wrong with the way to the server, each for so many requests to come.

    Attributes:
        url: of the proxy.
        num_refused: answered with 503, and kept from the server.
        num_lost: passed on, but the connection ends before the answer.
        delay_s: before each answer.
        methods: of the requests that came, in their order.
    """

    url: str = ""
    num_refused: int = 0
    num_lost: int = 0
    delay_s: float = 0.0
    methods: list[str] = field(default_factory=list)


@contextmanager
def before(server: str) -> Iterator[FaultyProxy]:
    """A proxy to a server, given by its URL, as long as the block runs; signatures stay valid, as hosts are kept."""
    proxy, ready = FaultyProxy(), threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as session:

            async def answer(request: web.Request) -> web.StreamResponse:
                return await _answer(request, proxy, session, server)

            app = web.Application(client_max_size=_MOST_BYTES)
            app.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            proxy.url = f"http://{host}:{port}"
            ready.set()
            await ended.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="faulty-proxy")
    thread.start()
    assert ready.wait(30)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


async def _answer(
    request: web.Request, proxy: FaultyProxy, session: aiohttp.ClientSession, server: str
) -> web.StreamResponse:
    proxy.methods.append(request.method)
    body = await request.read()
    if proxy.num_refused:
        proxy.num_refused -= 1
        return web.Response(status=503, text="not now")
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_HEADERS}
    async with session.request(
        request.method, f"{server}{request.raw_path}", data=body, headers=headers, allow_redirects=False
    ) as answered:
        content = await answered.read()
    await asyncio.sleep(proxy.delay_s)
    if proxy.num_lost:
        proxy.num_lost -= 1
        assert request.transport is not None
        request.transport.abort()
    kept = {name: value for name, value in answered.headers.items() if name.lower() not in _HOP_HEADERS}
    return web.Response(status=answered.status, body=content, headers=kept)
