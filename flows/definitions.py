"""Every flow that can be run from a form or by a schedule: what it is called, what its form holds, when it starts.

`flows.deployments` serves them on one machine or registers them in a work pool, `flows.prefect_file` writes them down
for `prefect deploy`: both from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefect import Flow
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron, Schedule

from components.monitoring import load_monitor
from components.params import load_choices
from components.schedules import load_schedules
from components.settings import PROJECT_ROOT
from components.study import StudyChoices
from flows import partial
from flows.monitor import monitor, on_drift
from flows.retrain import retrain
from flows.rollback import rollback
from flows.study import study


@dataclass(frozen=True)
class Definition:
    """One deployment. All have one run at a time: a second one waits for the first.

    Attributes:
        parameters: with which its form is filled.
        triggers: events that start it.
    """

    flow: Flow[..., Any]
    description: str
    parameters: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    triggers: tuple[DeploymentEventTrigger, ...] = ()

    @property
    def name(self) -> str:
        return self.flow.name

    @property
    def entrypoint(self) -> str:
        """Where to import the flow from."""
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"


def definitions() -> list[Definition]:
    """All deployments, their forms and schedules as `params.yaml` has them.

    Raises:
        ValueError: params.yaml is wrong.
    """
    file = PROJECT_ROOT / "params.yaml"
    choices, schedules = load_choices(file), load_schedules(file)
    filled = {"choices": choices.model_dump(mode="json")}
    of_study = {"choices": StudyChoices(recipe=choices.recipe).model_dump(mode="json")}

    def when(line: str | None) -> Schedule | None:
        return Cron(line, timezone=schedules.timezone, active=schedules.enabled) if line else None

    return [
        Definition(
            retrain,
            "Ingest, extract, pre-train, fine-tune, evaluate, gate, and promote when the gates pass.",
            filled,
            when(schedules.retrain),
            (on_drift(),),
        ),
        Definition(
            partial.ingest,
            "Take recordings in: check what is new, divide the speakers.",
            filled,
            when(schedules.ingest),
        ),
        Definition(partial.pretrain, "Up to the pre-trained model.", filled),
        Definition(partial.finetune, "Up to the fine-tuned model.", filled),
        Definition(partial.evaluate, "Up to the figures on test speakers; nothing is released.", filled),
        Definition(partial.promote, "Judge the model of a finished run again, and release it when the gates pass."),
        Definition(rollback, "Serve the model of an older release again."),
        Definition(
            study,
            "Folds x seeds x with and without pre-training x shares of the labels, and one report.",
            of_study,
        ),
        Definition(
            monitor,
            "Compare the last requests with what the live model was trained on; drift starts `retrain`.",
            {"settings": load_monitor(file).model_dump(mode="json")},
            when(schedules.monitor),
        ),
    ]
