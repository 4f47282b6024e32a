"""Parts of the main flow that are of use by themselves: taking recordings in, training, evaluating, promoting.

They work in the workspace that the same choices give the main flow, which then finds their stages done.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from components.params import Choices
from components.settings import load as load_settings
from flows import report
from flows.promotion import decide
from flows.records import Recorder, find_record
from flows.run_report import Reported
from flows.stages import STAGES, run_stage
from flows.workspace import Workspace, held, prepare, reopen


@flow(name="ingest", persist_result=False)
def ingest(choices: Choices = Choices()) -> None:  # noqa: B008  # Prefect makes the form from this default
    """Check every recording and divide the speakers; what was inspected before is not decoded again."""
    _bring(choices, "ingest")


@flow(name="pretrain", persist_result=False)
def pretrain(choices: Choices = Choices()) -> None:  # noqa: B008  # as above
    """Everything up to the pre-trained model."""
    _bring(choices, "pretrain")


@flow(name="finetune", persist_result=False)
def finetune(choices: Choices = Choices()) -> None:  # noqa: B008  # as above
    """Everything up to the fine-tuned model."""
    _bring(choices, "finetune")


@flow(name="evaluate", persist_result=False)
def evaluate(choices: Choices = Choices()) -> None:  # noqa: B008  # as above
    """Everything up to the figures on test speakers, which the UI shows; nothing is judged or released."""
    report.publish_training(_bring(choices, "evaluate").folder)


@flow(name="promote", persist_result=False)
def promote(
    run: Annotated[str, Field(description="A run of retrain: its id or its digest; last: the latest.")] = "last",
) -> None:
    """Let the gates judge a finished run again, against what is live now, and release its model if they pass.

    Raises:
        ValueError: there is no such run, or it has no bundle.
        GateFailed, NotApproved: as for retrain.
    """
    settings = load_settings()
    workspace = reopen(find_record(settings, run).digest, settings)
    record = Recorder(settings, run_id=str(flow_run.id), digest=workspace.digest, folder=workspace.folder)
    with held(workspace, get_run_logger().info), Reported(record, settings):
        decide(workspace, settings, record=record)


def _bring(choices: Choices, last: str) -> Workspace:
    """Bring the stages up to and with `last` up to date."""
    settings = load_settings()
    workspace = prepare(choices, settings)
    with held(workspace, get_run_logger().info):
        for stage in STAGES[: STAGES.index(last) + 1]:
            run_stage(stage, workspace.folder, settings)
    return workspace
