"""Callers of a real Ray Serve of two replicas, through swaps and through too much load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from components.settings import Settings
from serving.deploy import deploy
from serving.prediction import ClassPrediction, Request
from serving.runtime import Runtime
from serving.schema import ClassAnswer, Problem
from tests.bundles import class_predictions, requests, write_bundle
from tests.ray_endpoint import Load, replicas, running_ray

pytestmark = pytest.mark.slow

NUM_REPLICAS = 2


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(folder / name, seed=seed) for seed, name in enumerate("AB")}


@pytest.fixture(scope="module")
def expected(bundles: dict[str, Path]) -> dict[str, ClassPrediction]:
    """What each version makes of the video, by version."""
    answers = [class_predictions(Runtime(folder), [Request(video=_video())])[0] for folder in bundles.values()]
    return {answer.version: answer for answer in answers}


@pytest.fixture(scope="module")
def here(bundles: dict[str, Path]) -> Iterator[Settings]:
    """An endpoint of two replicas."""
    with running_ray() as settings:
        deploy(str(bundles["A"]), 1, here=settings, num_replicas=NUM_REPLICAS, deadline_s=300)
        _wait_for_replicas(settings)
        yield settings


def _video() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


def _wait_for_replicas(here: Settings) -> None:
    """Until all replicas take requests."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if len(replicas(here)) == NUM_REPLICAS:
            return
        time.sleep(0.2)
    pytest.fail(f"there are not {NUM_REPLICAS} replicas after 300 s")


def _post(here: Settings) -> httpx.Response:
    return httpx.post(f"{here.endpoint_url}/v1/emotion", files={"video": _video()}, timeout=120.0)


def test_a_swap_and_a_rollback_under_load_fail_no_request_and_mix_no_answer(
    here: Settings, bundles: dict[str, Path], expected: dict[str, ClassPrediction]
) -> None:
    with Load(here, _video()) as load:
        load.wait_for(5)
        for release, name in ((2, "B"), (3, "A")):
            deploy(str(bundles[name]), release, here=here, num_replicas=NUM_REPLICAS, deadline_s=300)
            load.wait_for(10)
    assert load.failures == []
    assert {answer.model.release for answer in load.answers} == {1, 2, 3}
    versions = {1: Runtime(bundles["A"]).version, 2: Runtime(bundles["B"]).version, 3: Runtime(bundles["A"]).version}
    for answer in load.answers:
        assert answer.model.version == versions[answer.model.release]
        assert answer.probabilities == pytest.approx(expected[answer.model.version].probabilities, abs=1e-5)


def test_beyond_the_limit_callers_are_told_when_to_come_again_and_the_others_are_answered(
    here: Settings, expected: dict[str, ClassPrediction]
) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=300.0) as http:
            posts = [http.post(f"{here.endpoint_url}/v1/emotion", files={"video": _video()}) for _ in range(200)]
            return await asyncio.gather(*posts)

    answers = asyncio.run(ask())
    judged = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert judged
    assert refused
    for answer in judged:
        found = ClassAnswer.model_validate_json(answer.content)
        assert found.probabilities == pytest.approx(expected[found.model.version].probabilities, abs=1e-5)
    for answer in refused:
        assert Problem.model_validate_json(answer.content).type == "urn:affect:problem:overloaded", answer.text
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
    # Recovered: nothing is left over from those who were refused.
    assert _post(here).status_code == 200
