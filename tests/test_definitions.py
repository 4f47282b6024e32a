"""Deployments: prefect.yaml says what `affect up` serves, forms refuse bad values, and schedules are of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools import ValidationError, validate

from components import params
from components.monitoring import Monitor, load_monitor
from components.params import load_choices
from components.schedules import Schedules, load_schedules
from flows import prefect_file
from flows.definitions import definitions
from flows.deployments import deployments
from tests.conftest import REPOSITORY

FILE = REPOSITORY / "prefect.yaml"
ENTRIES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
NAMES = ["retrain", "ingest", "pretrain", "finetune", "evaluate", "promote", "rollback", "study", "monitor"]


def test_prefect_yaml_is_made_of_what_is_served() -> None:
    assert FILE.read_text(encoding="utf-8") == prefect_file.text(), "run `python -m flows.prefect_file > prefect.yaml`"
    served = {deployment.name: deployment for deployment in deployments()}
    assert [entry["name"] for entry in ENTRIES] == list(served) == NAMES
    for entry in ENTRIES:
        deployment = served[entry["name"]]
        assert entry["parameters"] == deployment.parameters
        assert entry["description"] == deployment.description
        assert deployment.concurrency_limit == entry["concurrency_limit"]["limit"] == 1
        found = []
        for each in deployment.schedules or []:
            assert isinstance(each.schedule, CronSchedule)
            found.append({"cron": each.schedule.cron, "timezone": each.schedule.timezone, "active": each.active})
        assert found == entry["schedules"]
        # Which events start it: the same automation on a laptop and in a work pool.
        triggers = [DeploymentEventTrigger.model_validate(each) for each in entry.get("triggers", [])]
        assert [each.model_dump() for each in triggers] == [each.model_dump() for each in deployment.triggers]
    assert [name for name, deployment in served.items() if deployment.triggers] == ["retrain"]


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_entrypoints_are_flows_whose_forms_take_their_parameters(entry: dict[str, Any]) -> None:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
    assert flow.name == entry["name"]
    # As the API does when somebody presses Run.
    validate(entry["parameters"], flow.parameters.model_dump(), raise_on_error=True)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ingest", {"choices": {"seed": -1}}),
        ("retrain", {"choices": {"gates": {"max_latency_s": 0}}}),
        ("monitor", {"settings": {"window_h": 0}}),
        ("rollback", {"release": 0}),
        ("rollback", {"release": "the last"}),
        ("promote", {"run": 7}),
    ],
)
def test_forms_refuse_bad_values(name: str, parameters: dict[str, Any]) -> None:
    [definition] = [each for each in definitions() if each.name == name]
    with pytest.raises(ValidationError):
        validate(parameters, definition.flow.parameters.model_dump(), raise_on_error=True)


def test_schedules_are_off_until_they_are_switched_on() -> None:
    assert not load_schedules(REPOSITORY / "params.yaml").enabled
    scheduled = {each.name: each.schedule for each in definitions() if each.schedule}
    assert set(scheduled) == {"retrain", "ingest", "monitor"}
    assert not any(schedule.active for schedule in scheduled.values())


def test_schedules_are_no_choice_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(
        "seed: 3\nschedules: {enabled: true, timezone: Europe/Berlin, ingest: null}\nmonitor: {window_h: 1}\n"
    )
    assert load_choices(file) == params.Choices(seed=3)
    assert load_monitor(file) == Monitor(window_h=1)
    assert load_schedules(file) == Schedules(enabled=True, timezone="Europe/Berlin", ingest=None)
    assert load_schedules(tmp_path / "none.yaml") == Schedules()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{timezone: Europe/Berlim}", "there is no such time zone"),
        ("{retrain: weekly}", "write five fields"),
        ("{monitr: null}", "unknown key monitr; did you mean monitor"),
    ],
)
def test_a_wrong_schedule_is_told(tmp_path: Path, section: str, words: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"schedules: {section}\n")
    with pytest.raises(ValueError, match=words):
        load_schedules(file)
