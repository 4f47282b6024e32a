"""The endpoint against its peers and its limit: clips a second, latency at half load, cold start, memory.

All servers are up at once and take turns, round by round, on one bundle of the size of the recipe `quick` (random
weights) and one clip. The limit is the same work without a server, a process a processor. On a machine with other work
the processor time of a clip tells more than clips a second: it counts the processes that a request goes through.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil

from flows.processes import free_ports
from serving import feature_file
from serving.deploy import deploy
from serving.prediction import Request
from serving.runtime import Runtime
from tests import bento_server
from tests.benchmarks.load import Ask, Loaded, arrive, saturate
from tests.benchmarks.run import Result, runs_of
from tests.bundles import requests, write_bundle
from tests.conftest import REPOSITORY
from tests.ray_endpoint import replicas, running_ray

_NUM_ROUNDS: Final = 3
_ROUND_S: Final = 8.0
_HALF_LOAD_S: Final = 15.0
_NUM_CALLERS: Final = 8
# Of the bare model where requests carry features: as many as the endpoint judges at once.
_BATCH: Final = 4
# Of the recipe `quick`.
_WIDTH, _NUM_LAYERS = 96, 2
_OURS, _BENTO, _PLAIN = "ray_serve", "bentoml", "fastapi"
_AIMS: Final = {"media.limit": 0.8, f"features.{_PLAIN}": 4.0}


def measure(tell: Callable[[str], None]) -> list[Result]:
    """Clips a second of each server and of the limit, and what the endpoint on Ray Serve takes."""
    clip = requests()[1].video
    assert clip is not None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="affect-")))
        bundle = write_bundle(folder / "bundle", seed=0, width=_WIDTH, num_layers=_NUM_LAYERS)
        features = feature_file.describe(bundle, video=clip, text=requests()[2].text)
        here = stack.enter_context(running_ray())
        deploy(str(bundle), 1, here=here, deadline_s=300)
        bento = bento_server.build(folder / "home", folder / "bentos", bundle)
        bento_url, bento_process = stack.enter_context(bento_server.serve(bento, folder))
        plain_url, plain_process = stack.enter_context(_plain(bundle))
        processes = {
            _OURS: [*replicas(here), *_listening(here.serve_port)],
            _BENTO: [bento_process.pid],
            _PLAIN: [plain_process.pid],
        }
        urls = {_OURS: f"{here.endpoint_url}/v1/emotion", _BENTO: f"{bento_url}/v1/emotion"}
        media = {name: Ask(url, "video", clip) for name, url in urls.items()}
        media[_PLAIN] = Ask(f"{plain_url}/media", "video", clip)
        described = {name: Ask(url, "features", features) for name, url in urls.items()}
        described[_PLAIN] = Ask(f"{plain_url}/features", "features", features)
        results: list[Result] = []
        for kind, asks, limit in (
            ("media", media, [Request(video=clip)]),
            ("features", described, [Request(features=features)] * _BATCH),
        ):
            with _Limit(bundle, limit) as alone:
                found, costs_s, limits_hz = _saturated(kind, asks, processes, alone, tell)
            results += _rates(kind, found, limits_hz) + _costs(kind, costs_s)
            if kind == "media":
                results += _latencies(_half_loaded(asks, found, tell))
        memory_mb = _memory_mb(replicas(here)[0])
        starts_s = [_cold_start_s(bundle) for _ in range(_NUM_ROUNDS)]
    return [
        *results,
        _less("serving.cold_start_s", starts_s, "s", 3.0, "imports, load, golden requests, in a new process"),
        _less("serving.memory_mb", [memory_mb], "MB", None, "replica and its decoders, proportional set size"),
    ]


def _saturated(
    kind: str, asks: dict[str, Ask], processes: dict[str, list[int]], alone: _Limit, tell: Callable[[str], None]
) -> tuple[dict[str, list[Loaded]], dict[str, list[float]], list[float]]:
    """What each server does without a pause, the processor seconds of its clips, and the work alone, round by round."""
    for ask in asks.values():
        saturate(ask, num_callers=_NUM_CALLERS, duration_s=3.0)
    found: dict[str, list[Loaded]] = {name: [] for name in asks}
    costs_s: dict[str, list[float]] = {name: [] for name in (*asks, "limit")}
    limits_hz: list[float] = []
    for number in range(_NUM_ROUNDS):
        for name, ask in asks.items():
            before_s = _processor_s(processes[name])
            found[name].append(saturate(ask, num_callers=_NUM_CALLERS, duration_s=_ROUND_S))
            costs_s[name].append((_processor_s(processes[name]) - before_s) / len(found[name][-1].latencies_s))
            tell(f"{kind} {number}: {name} {found[name][-1].rate_hz:.1f}/s, {found[name][-1].num_refused} refused")
        limit_hz, cost_s = alone.measure(_ROUND_S)
        limits_hz.append(limit_hz)
        costs_s["limit"].append(cost_s)
        tell(f"{kind} {number}: the work alone {limits_hz[-1]:.1f}/s")
    return found, costs_s, limits_hz


def _half_loaded(
    asks: dict[str, Ask], saturated: dict[str, list[Loaded]], tell: Callable[[str], None]
) -> dict[str, list[Loaded]]:
    found: dict[str, list[Loaded]] = {name: [] for name in asks}
    for number in range(_NUM_ROUNDS):
        for name, ask in asks.items():
            rate_hz = float(np.median([each.rate_hz for each in saturated[name]])) / 2
            found[name].append(arrive(ask, rate_hz=rate_hz, duration_s=_HALF_LOAD_S, seed=number))
            tell(f"half load {number}: {name} median {_share(found[name][-1], 50):.3f} s")
    return found


def _rates(kind: str, saturated: dict[str, list[Loaded]], limits_hz: list[float]) -> list[Result]:
    what = "a clip with a face and a voice" if kind == "media" else "features of a clip with face, voice and words"
    how = f"{what}, {_NUM_CALLERS} callers without a pause, {_NUM_ROUNDS} rounds in turn"
    rates = {name: [each.rate_hz for each in found] for name, found in saturated.items()} | {"limit": limits_hz}
    results = []
    for other in ("limit", _BENTO, _PLAIN):
        ratios = [one / another for one, another in zip(rates[_OURS], rates[other], strict=True)]
        aim = _AIMS.get(f"{kind}.{other}")
        name = f"serving.{kind}.vs_{other}"
        results.append(Result(name, float(np.median(ratios)), "x", "higher", aim, runs_of(ratios), how))
    for other, values in rates.items():
        name = f"serving.{kind}.{other}_hz"
        results.append(Result(name, float(np.median(values)), "/s", "higher", None, runs_of(values), how))
    return results


def _costs(kind: str, costs_s: dict[str, list[float]]) -> list[Result]:
    how = "processor time of all processes that a request goes through, callers and Ray's own servers left out"
    return [_less(f"serving.{kind}.{name}_processor_s", values, "s", None, how) for name, values in costs_s.items()]


def _latencies(half: dict[str, list[Loaded]]) -> list[Result]:
    how = f"arrivals by chance at half of each one's own saturation, {_NUM_ROUNDS} times {_HALF_LOAD_S:g} s"
    ratios = [_share(each, 99) / _share(each, 50) for each in half[_OURS]]
    found = [_less("serving.p99_over_p50_half_load", ratios, "x", 3.0, how)]
    for name, loads in half.items():
        for percent in (50, 99):
            values = [_share(each, percent) for each in loads]
            found.append(_less(f"serving.half_load.{name}_p{percent}_s", values, "s", None, how))
    return found


def _less(name: str, values: list[float], unit: str, aim: float | None, how: str) -> Result:
    return Result(name, float(np.median(values)), unit, "lower", aim, runs_of(values), how)


def _share(loaded: Loaded, percent: int) -> float:
    return float(np.percentile(loaded.latencies_s, percent))


@contextlib.contextmanager
def _plain(bundle: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    [port] = free_ports(1, "127.0.0.1")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.plain_endpoint", str(bundle), str(port)], cwd=REPOSITORY
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if server.poll() is not None:
                raise RuntimeError("the plain endpoint has ended")
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/docs")
                break
            time.sleep(0.1)
        yield url, server
    finally:
        server.terminate()
        server.wait()


class _Limit:
    """The bare work: decode, features and model in a process a processor, without a server between."""

    def __init__(self, bundle: Path, batch: list[Request]) -> None:
        self._num_workers = os.cpu_count() or 1
        self._pool = ProcessPoolExecutor(
            self._num_workers, get_context("spawn"), initializer=_load, initargs=(bundle, batch)
        )

    def __enter__(self) -> _Limit:
        self.measure(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def measure(self, duration_s: float) -> tuple[float, float]:
        """Clips a second of all processes together, and processor seconds a clip."""
        rates_hz, costs_s = zip(*self._pool.map(_work_for, [duration_s] * self._num_workers), strict=True)
        return sum(rates_hz), float(np.mean(costs_s))


_state: dict[str, object] = {}


def _load(bundle: Path, batch: list[Request]) -> None:
    _state.update(runtime=Runtime(bundle), batch=batch)


def _work_for(duration_s: float) -> tuple[float, float]:
    """Clips a second of this process, and its processor seconds a clip."""
    runtime, batch = _state["runtime"], _state["batch"]
    assert isinstance(runtime, Runtime)
    assert isinstance(batch, list)
    begin_s, used_s, number = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin_s < duration_s:
        runtime.predict(batch)
        number += len(batch)
    return number / (time.perf_counter() - begin_s), (time.process_time() - used_s) / number


def _cold_start_s(bundle: Path) -> float:
    """From the start of a process to a runtime that has answered its golden requests."""
    code = "import sys; from pathlib import Path; from serving.loading import load; load(Path(sys.argv[1]))"
    begin_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(bundle)], cwd=REPOSITORY, check=True)
    return time.perf_counter() - begin_s


def _listening(port: int) -> list[int]:
    """Processes that listen on a port."""
    found = psutil.net_connections("tcp")
    return sorted({each.pid for each in found if each.status == "LISTEN" and each.laddr[1:] == (port,) and each.pid})


def _processor_s(process_ids: list[int]) -> float:
    """What these processes and their children have used so far."""
    roots = [psutil.Process(number) for number in process_ids]
    times = [each.cpu_times() for root in roots for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _memory_mb(process_id: int) -> float:
    replica = psutil.Process(process_id)
    return sum(each.memory_full_info().pss for each in (replica, *replica.children(recursive=True))) / 1e6
