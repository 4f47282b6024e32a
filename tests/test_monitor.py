"""From requests to a training that starts by itself, on real servers: drift starts one, a dead input does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from components import drift, drift_samples, predictor
from components.bundle_files import DRIFT_REFERENCE
from components.drift import DriftReference, Summary
from components.drift_samples import Sample
from components.params import load_choices
from components.registry import Registry, Release
from components.storage import Storage
from flows import following
from tests.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.platform]

NUM_CLIPS = 120


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.2)


class Traffic:
    """What the live release's endpoint would have kept, written where it writes."""

    def __init__(self, platform: Platform) -> None:
        self._storage = Storage(platform.settings.storage_url)
        registry = Registry(self._storage)
        champion = registry.champion()
        assert champion is not None
        self.release: Release = champion
        folder = registry.fetch_bundle(champion.bundle, platform.home / "bundles")
        self._reference: DriftReference = drift.load(folder / DRIFT_REFERENCE)
        self._labels = predictor.read_task(folder).labels

    def plant(self, age: timedelta, *, louder: float = 0.0, warnings: tuple[str, ...] = ()) -> None:
        """Clips and answers as training had them, but for so much in each band, and with these warnings."""
        generator = np.random.default_rng(0)
        clips, answers = self._reference.clips["audio"].rows_NF, self._reference.answers
        assert answers is not None
        at = datetime.now(UTC) - age
        samples = [
            Sample(
                at,
                self.release.number,
                self.release.version,
                Summary({"audio": clips[generator.integers(len(clips))] + np.float32(louder)}, {}),
                warnings,
                dict(zip(self._labels, answers.rows_NF[generator.integers(len(answers))].tolist(), strict=True)),
            )
            for _ in range(NUM_CLIPS)
        ]
        drift_samples.write(self._storage, samples, replica="test")


def trainings(platform: Platform) -> list[FlowRun]:
    """Runs of `retrain` that an automation started."""
    with following.prefect_client(platform.settings) as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}})
        runs = client.read_flow_runs(flow_run_filter=chosen)
    return [run for run in runs if run.created_by is not None and run.created_by.type == "AUTOMATION"]


def events(platform: Platform, name: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{platform.ports['prefect']}/api/events/filter"
    asked = {"filter": {"event": {"name": [name]}, "order": "ASC"}}
    found: list[dict[str, Any]] = httpx.post(url, json=asked, timeout=60.0).raise_for_status().json()["events"]
    return found


def state_of(run: FlowRun, platform: Platform) -> str:
    with following.prefect_client(platform.settings) as client:
        state = client.read_flow_run(run.id).state
        return state.type.value if state else ""


def test_a_dead_input_alerts_and_drift_trains_once(first_run: dict[str, Any], platform: Platform) -> None:
    traffic = Traffic(platform)
    # Silence in the morning, and only then.
    traffic.plant(timedelta(hours=20), warnings=("silence",))
    dead = platform.json("monitor")
    assert (dead["verdict"], dead["dead"], dead["retrain"]) == ("dead-input", ["audio"], "no")
    wait_for(lambda: bool(events(platform, "model.dead-input")), "the alert")
    assert events(platform, "model.dead-input")[0]["payload"]["modalities"] == ["audio"]

    traffic.plant(timedelta(hours=1), louder=8.0)
    found = platform.json("monitor", "--set", "window_h=12")
    assert (found["verdict"], found["drifted"], found["retrain"]) == ("drift", ["audio"], "due")
    assert "audio: drift" in Path(found["report"]).read_text()
    wait_for(lambda: bool(trainings(platform)), "a training to start by itself")
    [run] = trainings(platform)
    wait_for(lambda: state_of(run, platform) in {"RUNNING", "FAILED", "COMPLETED"}, "it to run", 240)
    # Another training of what is live, and of nothing else.
    own = load_choices(Path(first_run["folder"]) / "params.yaml")
    assert run.parameters["choices"] == own.model_dump(mode="json")
    with following.prefect_client(platform.settings) as client:
        client.set_flow_run_state(run.id, Cancelling())
    wait_for(lambda: state_of(run, platform) == "CANCELLED", "it to be cancelled", 240)

    again = platform.json("monitor", "--set", "window_h=12")
    assert (again["verdict"], again["retrain"]) == ("drift", "cooldown")
    wait_for(lambda: len(events(platform, "model.drift")) == 2, "the second event")
    # An automation acts within a second or two.
    time.sleep(4)
    assert len(trainings(platform)) == 1
    told = platform.json("status")["monitor"]
    assert (told["verdict"], told["report"]) == ("drift", again["report"])
    assert "no training for it (cooldown)" in platform.affect("status").stdout
