"""How far a stream's estimates are behind: five seconds of a camera, sent as fast as they are recorded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
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


def measure(tell: Callable[[str], None]) -> list[Result]:
    """Seconds from when a moment was recorded until an estimate that includes it is there; the first stream is not
    counted, as it starts the endpoint up."""
    video = requests()[1].video
    assert video is not None
    clip = chunks(video, duration_s=5.0)
    lags_s: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="affect-") as folder:
        bundle = write_bundle(Path(folder) / "bundle", seed=0, width=_WIDTH, num_layers=_NUM_LAYERS)
        with serve(Endpoint(Live(Runtime(bundle)))) as running, Client(running.url) as client:
            for number in range(_NUM_RUNS + 1):
                lags_s.append(_lags_s(client, clip))
                tell(f"stream {number}: {len(lags_s[-1])} estimates, median {np.median(lags_s[-1]):.3f} s behind")
    counted = lags_s[1:]
    how = f"WebM of 5 s in chunks of {CHUNK_S} s, sent in real time over loopback; {_NUM_RUNS} streams; `quick`"
    return [
        Result(
            f"stream.lag_p{share}_s",
            float(np.percentile(np.concatenate(counted), share)),
            "s",
            "lower",
            aim,
            runs_of([float(np.percentile(each, share)) for each in counted]),
            how,
        )
        for share, aim in ((50, None), (99, 0.3))
    ]


def _lags_s(client: Client, clip: list[bytes]) -> list[float]:
    begin_s = time.monotonic()

    def camera() -> Iterator[bytes]:
        for number, chunk in enumerate(clip):
            time.sleep(max(0.0, begin_s + (number + 1) * CHUNK_S - time.monotonic()))
            yield chunk

    return [
        time.monotonic() - begin_s - event.end_s
        for event in client.stream(camera())
        if isinstance(event, StreamEstimate)
    ]
