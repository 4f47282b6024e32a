"""`prefect.yaml`, with which `prefect deploy --all` registers every flow in a work pool.

python -m flows.prefect_file > prefect.yaml
"""

from __future__ import annotations

import sys
from typing import Any, Final

import yaml

from flows.definitions import Definition, definitions

WORK_POOL: Final = "affect"

_HEAD: Final = """\
# All flows as deployments of a work pool: `prefect deploy --all` with AFFECT_IMAGE, the image that runs them.
# Made by `python -m flows.prefect_file` from what `affect up` serves; change params.yaml or flows/definitions.py.
"""


def text() -> str:
    """The content of `prefect.yaml`."""
    document = {
        "name": "crossmodal-affect",
        # The image holds the code.
        "pull": [],
        "deployments": [_entry(each) for each in definitions()],
    }
    return _HEAD + yaml.safe_dump(document, sort_keys=False, width=120)


def _entry(each: Definition) -> dict[str, Any]:
    schedule = each.schedule
    triggers = [trigger.model_dump(mode="json", exclude_unset=True) for trigger in each.triggers]
    return {
        "name": each.name,
        "entrypoint": each.entrypoint,
        "description": each.description,
        "parameters": each.parameters,
        "schedules": [{"cron": schedule.cron, "timezone": schedule.timezone, "active": schedule.active}]
        if schedule
        else [],
        **({"triggers": triggers} if triggers else {}),
        "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
        "work_pool": {"name": WORK_POOL, "job_variables": {"image": "{{ $AFFECT_IMAGE }}"}},
    }


if __name__ == "__main__":
    sys.stdout.write(text())
