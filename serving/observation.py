"""What the endpoint tells about itself: a request id on every answer, and Prometheus metrics."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID_HEADER: Final = "X-Request-ID"
METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# A caller's id goes into logs and headers: only what cannot break either.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _ServedModel(Collector):
    """Names the model that is live when the metrics are asked for, and no former one."""

    def __init__(self) -> None:
        self.version, self.release = "", 0

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("affect_model", "1 for the served model.", labels=["version", "release"])
        if self.version:
            family.add_metric([self.version, str(self.release)], 1)
        yield family


class Metrics:
    """The counters of one app, in a registry of their own so that two apps of one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "affect_requests", "Requests by route, status and kind of problem.", ["route", "status", "problem"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "affect_request_seconds", "Time of a request to /v1/emotion by stage.", ["stage"],
            buckets=_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self.in_progress = Gauge("affect_requests_in_progress", "Requests being answered.", registry=self.registry)
        self.admitted = Gauge(
            "affect_clips_admitted", "Clips being decoded, waiting or judged.", registry=self.registry
        )
        self.queue = Gauge("affect_queue_clips", "Decoded clips that wait for the model.", registry=self.registry)
        self.batch_clips = Histogram(
            "affect_batch_clips", "Clips of one batch of the model.", buckets=(1, 2, 4, 8, 16), registry=self.registry
        )
        self.samples = Counter(
            "affect_samples", "Requests kept for drift: written, dropped; and failed writes to the store.", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge("affect_streams", "Streams that are open.", registry=self.registry)
        self.trial_requests = Counter(
            "affect_trial_requests", "Requests during a trial by the model that was asked and what became of them.",
            ["role", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.trial_seconds = Histogram(
            "affect_trial_seconds", "Time in which a model judged a request during a trial.", ["role"],
            buckets=_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._model = _ServedModel()
        self.registry.register(self._model)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage of a request: receive, wait (for a decoder), prepare; queue and model are timed by batch."""
        with self.seconds.labels(name).time():
            yield

    def text(self, *, version: str | None, release: int) -> bytes:
        """All metrics as Prometheus reads them, with the model that is live now."""
        self._model.version, self._model.release = version or "", release
        return generate_latest(self.registry)


class Observed:
    """ASGI middleware: gives each request an id and counts what became of it.

    Args:
        adds_header: put the id on the answer; False where the server in front does so itself.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, adds_header: bool = True) -> None:
        self.app = app
        self.metrics = metrics
        self.adds_header = adds_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id_of(Headers(scope=scope))
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.adds_header:
                    MutableHeaders(scope=message)[REQUEST_ID_HEADER] = state["request_id"]
            await send(message)

        start_s = time.perf_counter()
        self.metrics.in_progress.inc()
        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # How a server tells that the caller hung up, where it tells at all.
            status, state["problem"] = 499, "gone"
            raise
        finally:
            self.metrics.in_progress.dec()
            # A caller's path is no label: it would make as many series as there are typing errors.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status), state.get("problem", "")).inc()
            if route == "/v1/emotion":
                self.metrics.seconds.labels("total").observe(time.perf_counter() - start_s)


def request_id_of(headers: Headers) -> str:
    """The caller's id of a request, or one made for it where that could break a log or a header."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
