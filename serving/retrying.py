"""Asking again: an HTTP transport for callers that would rather wait than fail.

A request to the endpoint is a question, so sending it twice does no harm.
"""

from __future__ import annotations

import itertools
import random
import time
from typing import Final

import httpx

_BROKEN: Final = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0


class Retrying(httpx.BaseTransport):
    """Sends a request again when the endpoint says when to come again (429, 503) or the connection breaks.

    A `Retry-After` is kept to; after a broken connection the waits double. Both are spread, so that callers who were
    refused together do not come back together. Where nothing ever answered, a refused connection is told at once.

    Args:
        patience_s: the last time that a request is sent is within it; 0 sends each once.
    """

    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._inner = httpx.HTTPTransport()
        self._was_reached = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        end_s = time.monotonic() + self._patience_s
        for attempt in itertools.count():
            try:
                answer = self._inner.handle_request(request)
            except _BROKEN as error:
                wait_s = _backoff_s(attempt)
                is_down = isinstance(error, httpx.ConnectError) and not self._was_reached
                if is_down or time.monotonic() + wait_s > end_s:
                    raise
            else:
                self._was_reached = True
                wait_s = _asked_wait_s(answer)
                if time.monotonic() + wait_s > end_s:
                    return answer
                answer.read()
                answer.close()
            time.sleep(wait_s)
        raise AssertionError("it counts for ever")

    def close(self) -> None:
        self._inner.close()


def _backoff_s(attempt: int) -> float:
    return float(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)) * random.uniform(0.5, 1.5)


def _asked_wait_s(answer: httpx.Response) -> float:
    """For how long an answer asks its caller to wait; for ever where it does not ask."""
    given = str(answer.headers.get("retry-after", ""))
    if answer.status_code not in (429, 503) or not (given.isascii() and given.isdigit()):
        return float("inf")
    return int(given) * random.uniform(1.0, 1.5)
