"""The platform on one machine: a Prefect server with its UI, a Ray, the served deployments, and the endpoint."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from components import claims
from components.settings import NODE_ENVIRONMENT, PROJECT_ROOT, Settings
from components.storage import Storage
from flows import processes, watching
from flows.releasing import registry_of, restore
from serving import keys, serve_haproxy, serve_proxy
from serving.deploy import keep_samples

_START_TIMEOUT_S = 120.0
_RAY_ATTEMPTS = 3
_OBJECT_STORE_BYTES = 300 * 1024 * 1024

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Status:
    """What runs, and where.

    Attributes:
        monitor: what the monitor found last: its verdict, a sentence, when, and the page; None before it looked.
    """

    prefect: bool
    ray: bool
    runner: bool
    endpoint: str
    release: int | None
    urls: dict[str, str]
    monitor: dict[str, str] | None = None

    @property
    def is_up(self) -> bool:
        return self.prefect and self.ray and self.runner


def up(settings: Settings, tell: Tell) -> None:
    """Start what does not run yet. Calling it again changes nothing.

    Raises:
        ValueError: a port is in use, or others could reach the endpoint without API keys.
        RuntimeError: a server did not start.
    """
    keys.require_for(settings.host, settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    with _only_one(settings):
        _start_servers(settings, tell)
        is_idle = _start_runner(settings, tell)
        _restore_endpoint(settings, tell, is_idle=is_idle)


def down(settings: Settings) -> int:
    """End the platform. Returns the number of processes that were ended.

    A run that is cut off here is marked as crashed by the next `up`, like one whose machine lost its power.
    """
    count = processes.stop(settings)
    for folder in (settings.ray_folder, settings.proxy_folder):
        shutil.rmtree(folder, ignore_errors=True)
    return count


def status(settings: Settings) -> Status:
    """What runs now."""
    champion = registry_of(settings).champion()
    found = watching.last(settings)
    return Status(
        prefect=processes.is_running("prefect", settings),
        ray=processes.is_running("ray", settings),
        runner=processes.is_running("runner", settings),
        endpoint=_endpoint_state(settings),
        release=champion.number if champion else None,
        urls=urls(settings),
        monitor=found and {name: found[name] for name in ("verdict", "told", "at", "report")},
    )


def urls(settings: Settings) -> dict[str, str]:
    """The addresses that a person opens."""
    return {
        "prefect": settings.prefect_url,
        "ray": settings.dashboard_url,
        "endpoint": settings.endpoint_url,
        "docs": f"{settings.endpoint_url}/docs",
    }


def on_platform(settings: Settings) -> Settings:
    """The settings of the platform's own processes, which find its Ray by address.

    The endpoint is always deployed with these: Serve restarts its replicas when their environment differs.
    """
    return settings.model_copy(update={"ray_address": f"{settings.host}:{settings.ray_port}"})


def client_environment(settings: Settings) -> dict[str, str]:
    """Variables with which a process talks to this platform's Prefect and Ray."""
    return {
        **on_platform(settings).environment(),
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # Ten seconds by default, which whoever pressed Run waits for.
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray gives a node the machine's outward address and listens there, even when told 127.0.0.1. This variable,
        # made for other systems, keeps it on the loopback address, where it needs no token.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(PROJECT_ROOT),
    }


def _start_servers(settings: Settings, tell: Tell) -> None:
    starting = []
    if not processes.is_running("prefect", settings):
        processes.stop(settings, "prefect")
        processes.require_free_port(settings.prefect_port, "the Prefect server", "AFFECT_PREFECT_PORT", settings.host)
        starting.append("prefect")
    if not processes.is_running("ray", settings):
        processes.stop(settings, "ray")
        for port, what, variable in (
            (settings.ray_port, "Ray", "AFFECT_RAY_PORT"),
            (settings.dashboard_port, "the Ray dashboard", "AFFECT_DASHBOARD_PORT"),
            (settings.serve_port, "the endpoint", "AFFECT_SERVE_PORT"),
        ):
            processes.require_free_port(port, what, variable, settings.host)
        starting.append("ray")
    if starting:
        tell(f"starting {' and '.join(starting)}")
    try:
        if "prefect" in starting:
            _start_prefect(settings)
        if "ray" in starting:
            _start_ray(settings)
        if "prefect" in starting:
            health = f"{settings.prefect_url}/api/health"
            processes.wait_until(lambda: _answers(health), "prefect", settings, _START_TIMEOUT_S)
        if "ray" in starting:
            _wait_for_ray(settings, tell)
    except RuntimeError:
        # Nobody asked for half a platform.
        for role in starting:
            processes.stop(settings, role)
        raise


def _wait_for_ray(settings: Settings, tell: Tell) -> None:
    """Ray gives its own parts half a minute to find each other, which a busy machine does not always keep."""
    version = f"{settings.dashboard_url}/api/version"
    for attempt in range(_RAY_ATTEMPTS):
        try:
            processes.wait_until(lambda: _answers(version), "ray", settings, _START_TIMEOUT_S)
            return
        except RuntimeError as error:
            if attempt == _RAY_ATTEMPTS - 1:
                raise
            tell(f"starting ray once more: {error}")
            processes.stop(settings, "ray")
            _start_ray(settings)


def _start_prefect(settings: Settings) -> None:
    processes.start(
        "prefect",
        [
            *(sys.executable, "-m", "flows.prefect_server"),
            *("--host", settings.host, "--port", str(settings.prefect_port)),
        ],
        settings,
        {**client_environment(settings), "PREFECT_UI_API_URL": f"{settings.prefect_url}/api"},
    )


def _start_ray(settings: Settings) -> None:
    for folder in (settings.ray_folder, settings.proxy_folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
    # Those that the user chose are not bound yet, and must stay free.
    chosen = (settings.prefect_port, settings.ray_port, settings.dashboard_port, settings.serve_port)
    free = [str(port) for port in processes.free_ports(6, settings.host, besides=chosen)]
    processes.start(
        "ray",
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *("--node-ip-address", settings.host, "--port", str(settings.ray_port)),
            *("--include-dashboard", "true", "--dashboard-host", settings.host),
            *("--dashboard-port", str(settings.dashboard_port)),
            *("--dashboard-agent-listen-port", free[0], "--dashboard-agent-grpc-port", free[1]),
            *("--ray-client-server-port", free[2], "--metrics-export-port", free[3]),
            *("--runtime-env-agent-port", free[4]),
            # One more than there are, for the endpoint's replica beside a training on all of them.
            *("--num-cpus", str(max(2, os.cpu_count() or 2) + 1)),
            *("--object-store-memory", str(_OBJECT_STORE_BYTES)),
            *("--temp-dir", str(settings.ray_folder), "--disable-usage-stats"),
        ],
        settings,
        {
            **client_environment(settings),
            **NODE_ENVIRONMENT,
            **serve_proxy.ENVIRONMENT,
            **serve_haproxy.environment(settings.proxy_folder, int(free[5])),
        },
    )


def _start_runner(settings: Settings, tell: Tell) -> bool:
    """Serve the deployments; returns whether that had to be started, and so no run is under way."""
    if processes.is_running("runner", settings):
        return False
    # Runs of a former runner have no parent left to report their end.
    processes.stop(settings, "runner")
    _crash_unfinished_runs(settings)
    storage = Storage(settings.storage_url)
    if storage.is_local:
        claims.forget(storage)
    tell("serving the deployments")
    ready = settings.home / "platform" / "runner.ready"
    ready.unlink(missing_ok=True)
    processes.start(
        "runner",
        [sys.executable, "-m", "flows.deployments", "--ready-file", str(ready)],
        settings,
        client_environment(settings),
    )
    processes.wait_until(ready.exists, "runner", settings, _START_TIMEOUT_S)
    return True


def _restore_endpoint(settings: Settings, tell: Tell, *, is_idle: bool) -> None:
    """Deploy the endpoint with the last release, or without a model when there is none.

    A promotion that was killed between the swap and its record leaves another model there than the log names. While
    a run is under way that is how it should be, else it is mended.
    """
    here = on_platform(settings)
    if _endpoint_state(settings) != "down" and not (is_idle and _is_ahead_of_log(settings)):
        if keep_samples(settings.sample_share, here=here):
            tell(f"the endpoint keeps samples of a share of {settings.sample_share:g} of its requests")
        return
    tell("deploying the endpoint")
    restore(here, sample_share=settings.sample_share)


def _is_ahead_of_log(settings: Settings) -> bool:
    champion = registry_of(settings).champion()
    try:
        key = keys.own_key(settings, settings.endpoint_url)
        answer = httpx.get(f"{settings.endpoint_url}/v1/model", headers=keys.bearer(key), timeout=5.0)
    except httpx.HTTPError:
        return True
    served = answer.json()["release"] if answer.status_code == 200 else None
    return served != (champion.number if champion else None)


def _endpoint_state(settings: Settings) -> str:
    try:
        answer = httpx.get(f"{settings.endpoint_url}/readyz", timeout=5.0)
    except httpx.HTTPError:
        return "down"
    return "ready" if answer.status_code == 200 else "no model"


def _crash_unfinished_runs(settings: Settings) -> None:
    """Say of every run that nobody works on any more that it crashed, so that none stays Running for ever."""
    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}})
    with temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}), get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished):
            client.set_flow_run_state(run.id, Crashed(message="Its process ended with the platform."), force=True)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Two `affect up` at once would start everything twice."""
    with (settings.home / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
