"""The main flow: build what is out of date, judge the new model, and serve it when the gates let it pass."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from components.params import Choices
from components.settings import load as load_settings
from flows import records, report
from flows.promotion import decide
from flows.run_report import Reported
from flows.stages import STAGES, run_stage
from flows.workspace import held, keep, prepare


@flow(name="retrain", persist_result=False)
def retrain(choices: Choices = Choices()) -> None:  # noqa: B008  # Prefect makes the form from this default
    """Bring every stage up to date, judge the model, and promote it when every gate passes.

    Raises:
        ValueError: the choices name something that does not exist.
        StageFailed: a stage ended with an error.
        GateFailed: a gate refused the model; the champion stays.
        NotApproved: a person was asked, and did not let it pass; the champion stays.
    """
    settings = load_settings()
    log = get_run_logger()
    workspace = prepare(choices, settings)
    record = records.Recorder(settings, run_id=str(flow_run.id), digest=workspace.digest, folder=workspace.folder)
    log.info("run %s in %s", workspace.digest, workspace.folder)
    with held(workspace, log.info), Reported(record, settings):
        for stage in STAGES:
            record.add_stage(run_stage(stage, workspace.folder, settings))
        keep(workspace, settings)
        report.publish_training(workspace.folder)
        decide(workspace, settings, record=record)
