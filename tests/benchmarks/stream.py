"""How far a stream's estimates are behind: five seconds of a camera, sent as fast as they are recorded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from serving.app import Live
from serving.client import Client
from serving.runtime import Runtime
from serving.schema import StreamEstimate
from tests.benchmarks.run import Result, runs_of
from tests.bundles import requests, write_bundle
from tests.endpoint import Endpoint, serve
from tests.webm import CHUNK_S, chunks

_NUM_RUNS = 5
# Of the recipe `quick`.
_WIDTH, _NUM_LAYERS = 96, 2
# In which an endpoint gets a process ready for the next stream.
_PAUSE_S = 8.0


def measure(tell: Callable[[str], None]) -> list[Result]:
    """How late an estimate is when it comes, how long the first one takes, and how long there is no new one.

    The first stream is not counted, as it starts the endpoint up.
    """
    video = requests()[1].video
    assert video is not None
    clip = chunks(video, duration_s=5.0)
    came: list[list[tuple[float, float]]] = []
    with tempfile.TemporaryDirectory(prefix="affect-") as folder:
        bundle = write_bundle(Path(folder) / "bundle", seed=0, width=_WIDTH, num_layers=_NUM_LAYERS)
        with serve(Endpoint(Live(Runtime(bundle)))) as running, Client(running.url) as client:
            for number in range(_NUM_RUNS + 1):
                time.sleep(_PAUSE_S)
                came.append(_estimates(client, clip))
                lag_s = np.median(_lags_s(came[-1]))
                tell(f"stream {number}: {len(came[-1])} estimates, median {lag_s:.3f} s behind")
    counted = came[1:]
    lags_s, gaps_s = [_lags_s(each) for each in counted], [_gaps_s(each) for each in counted]
    how = f"WebM of 5 s in chunks of {CHUNK_S} s, sent in real time over loopback; {_NUM_RUNS} streams; `quick`"
    return [
        _result(
            "stream.lag_p50_s", lags_s, 50, None, f"time of an estimate's coming less the end of its window; {how}"
        ),
        _result("stream.lag_p99_s", lags_s, 99, 0.3, f"the same; {how}"),
        _result("stream.gap_p99_s", gaps_s, 99, None, f"between an estimate and the next; {how}"),
        _result("stream.first_s", [each[:1] for each in gaps_s], 50, None, f"from the start to the first one; {how}"),
    ]


def _result(name: str, values: list[list[float]], share: int, aim: float | None, how: str) -> Result:
    runs = runs_of([float(np.percentile(each, share)) for each in values])
    return Result(name, float(np.percentile(np.concatenate(values), share)), "s", "lower", aim, runs, how)


def _lags_s(came: list[tuple[float, float]]) -> list[float]:
    return [at_s - end_s for at_s, end_s in came]


def _gaps_s(came: list[tuple[float, float]]) -> list[float]:
    """Seconds to each estimate from the one before; to the first one from the start."""
    times_s = [0.0, *(at_s for at_s, _ in came)]
    return [later - earlier for earlier, later in pairwise(times_s)]


def _estimates(client: Client, clip: list[bytes]) -> list[tuple[float, float]]:
    """When each estimate came and where its window ends, in seconds from the start of the recording."""
    begin_s = time.monotonic()

    def camera() -> Iterator[bytes]:
        for number, chunk in enumerate(clip):
            time.sleep(max(0.0, begin_s + (number + 1) * CHUNK_S - time.monotonic()))
            yield chunk

    return [
        (time.monotonic() - begin_s, event.end_s)
        for event in client.stream(camera())
        if isinstance(event, StreamEstimate)
    ]
