"""What several test files share: small settings and one Ray for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from components.settings import NODE_ENVIRONMENT, Settings

if TYPE_CHECKING:
    from tests.finished_run import FinishedRun
    from tests.platform import Platform

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# A shell without job control lets what it starts in the background ignore Ctrl-C, and all that this starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing in a test may look for a network.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        **NODE_ENVIRONMENT,
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)


# How fast a machine is, is nothing that a test may fail of.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")

# Whichever test comes first waits for the platform's first run, which takes minutes.
_PLATFORM_TIMEOUT_S = 1500


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of the running platform the time that the platform takes."""
    for item in items:
        if item.get_closest_marker("platform"):
            item.add_marker(pytest.mark.timeout(_PLATFORM_TIMEOUT_S))


@pytest.fixture(scope="session")
def ray_node() -> Iterator[Settings]:
    """Settings of a Ray that lives as long as the test session, for stages and for the endpoint."""
    from tests.ray_endpoint import running_ray

    with running_ray() as settings:
        yield settings


@pytest.fixture(scope="session")
def ray_address(ray_node: Settings) -> Iterator[str]:
    """Address of that Ray, to which the tests' own process is connected too."""
    import ray

    ray.init(address=ray_node.ray_address, log_to_driver=False)
    yield ray_node.ray_address
    ray.shutdown()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A running platform for the whole session."""
    from tests.platform import new_platform

    running = new_platform(tmp_path_factory.mktemp("platform") / "home")
    running.affect("up")
    yield running
    running.affect("down")
    assert not running.processes()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A small run as its first five stages leave it. Shared by all tests: copy what you change."""
    from tests import finished_run

    return finished_run.make(tmp_path_factory.mktemp("finished") / "build")


@pytest.fixture(scope="session")
def first_run(platform: Platform) -> dict[str, Any]:
    """The outcome of that platform's first run, which goes on after every interruption there is."""
    from tests.interruptions import interrupted_run

    return interrupted_run(platform)
