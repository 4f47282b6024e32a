"""What `affect monitor` does beside starting the flow: its options as settings, and what it shows at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import yaml
from prefect.client.schemas.objects import State

from components.monitoring import Monitor, load_monitor
from components.params import parse
from components.settings import PROJECT_ROOT, Settings
from flows import watching


def settings_of(assignments: Sequence[str]) -> Monitor:
    """The settings of params.yaml with these on top, each `name=value`.

    Raises:
        ValueError: one does not exist, or has no such value.
    """
    values = load_monitor(PROJECT_ROOT / "params.yaml").model_dump(mode="json")
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not (name and sign):
            raise ValueError(f"--set {assignment}: write NAME=VALUE, such as window_h=1")
        values[name] = yaml.safe_load(text)
    return parse(Monitor, values, source="affect monitor")


def outcome_of(run_id: UUID, state: State[Any], settings: Settings) -> dict[str, Any]:
    """What a run of the monitor found, as plain values."""
    told: dict[str, Any] = {"run_id": str(run_id), "state": state.name}
    found = watching.last(settings, run_id=str(run_id))
    if found is None:
        return {**told, "error": (not state.is_completed() and state.message) or "nothing is live: nothing to watch"}
    return {**told, **found}


def show(outcome: dict[str, Any]) -> None:
    """Print what a run of the monitor found for a person."""
    if "told" not in outcome:
        print(outcome["error"])
        return
    print(f"release {outcome['release']}, {outcome['comparison']['num_clips']} clips: {outcome['told']}")
    for part in outcome["comparison"]["parts"]:
        tests = ", ".join(f"{test['name']} {test['value']:.3f} (usual {test['usual']:.3f})" for test in part["tests"])
        word = "dead input" if part["dead"] else "drift" if part["drifted"] else part["note"] or "as in training"
        print(f"  {part['name']:<10} {word:<16} {part['num_clips']:5d} clips  {tests}")
    print(f"page: {outcome['report']}")
