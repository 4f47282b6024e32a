"""The client's side of `WS /v1/stream`: one thread sends what comes, the caller's gets the estimates."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pydantic import TypeAdapter, ValidationError
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from serving.client import ServingError
from serving.schema import StreamEstimate, StreamEvent, StreamFinal, StreamProblem, StreamStart

_EVENT: Final[TypeAdapter[StreamEstimate | StreamFinal | StreamProblem]] = TypeAdapter(StreamEvent)


def stream(
    url: str,
    parts: Iterable[bytes | str],
    *,
    start: StreamStart | None,
    headers: Mapping[str, str],
    timeout_s: float,
) -> Iterator[StreamEstimate | StreamFinal]:
    """Send parts as they come and yield what the endpoint makes of them; see `Client.stream`."""
    address = f"{url.replace('http', 'ws', 1)}/v1/stream"
    try:
        connection = connect(address, additional_headers=dict(headers), open_timeout=timeout_s, max_size=None)
    except (OSError, InvalidHandshake) as error:
        raise ServingError(f"no stream opens at {url} ({error}): is the platform up? see `affect status`") from error
    with connection:
        sending = _Sending(connection, parts, start)
        sending.start()
        try:
            yield from _events(connection, url, timeout_s)
        except ServingError as error:
            if sending.failure is not None:
                raise sending.failure from error
            raise
        finally:
            # Where the caller stops early, or the endpoint refused, nothing more is sent.
            connection.close()


class _Sending(threading.Thread):
    """Sends all parts and the end; what the caller's own iterator raises is kept for the caller."""

    def __init__(self, connection: ClientConnection, parts: Iterable[bytes | str], start: StreamStart | None) -> None:
        super().__init__(name="stream", daemon=True)
        self.failure: Exception | None = None
        self._connection, self._parts, self._start = connection, parts, start

    def run(self) -> None:
        has_sent_all = False
        try:
            if self._start is not None:
                self._connection.send(self._start.model_dump_json())
            for part in self._parts:
                self._connection.send(part if isinstance(part, bytes) else json.dumps({"text": part}))
            self._connection.send(json.dumps({"end": True}))
            has_sent_all = True
        except ConnectionClosed:
            # Whoever reads the events is told why.
            return
        except (OSError, ValueError, RuntimeError) as error:
            self.failure = error
        finally:
            if not has_sent_all:
                self._connection.close()


def _events(connection: ClientConnection, url: str, timeout_s: float) -> Iterator[StreamEstimate | StreamFinal]:
    while True:
        try:
            event = _EVENT.validate_json(connection.recv(timeout=timeout_s))
        except TimeoutError as error:
            raise ServingError(f"{url} is silent for {timeout_s:g} s: see `affect status`") from error
        except ConnectionClosed as error:
            raise ServingError(f"{url} broke off: {error}; try again, or see `affect status`") from error
        except ValidationError as error:
            raise ServingError(f"{url} is no endpoint of this version") from error
        if isinstance(event, StreamProblem):
            raise ServingError(event.problem.detail, event.problem)
        yield event
        if isinstance(event, StreamFinal):
            return
