"""The main flow: build what is out of date, judge the new model, and serve it when the gates let it pass."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from components.params import Choices
from components.settings import load as load_settings
from flows import approval, records, report
from flows.promotion import find_champion, judge, promote
from flows.stages import STAGES, run_stage
from flows.workspace import prepare


class GateFailed(RuntimeError):
    """The new model may not be served; the message says which gate, and by how much."""


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
    with record:
        for stage in STAGES:
            record.add_stage(run_stage(stage, workspace.folder, settings))
        report.publish_training(workspace.folder)

        champion = find_champion(settings)
        verdict = judge(workspace.folder, champion, settings)
        record.update(gates=verdict.gates)
        report.publish_gates(verdict.gates)
        if not verdict.passed:
            reasons = "; ".join(f"gate {gate.name}: {gate.message}" for gate in verdict.failures)
            raise GateFailed(f"{reasons}; {'the champion stays' if champion else 'nothing is served'}")
        if champion and champion.release.version == verdict.candidate_version:
            log.info("release %d is this very model: nothing to promote", champion.release.number)
            record.update(outcome="unchanged", release=champion.release.number)
            return
        approved = approval.ask(workspace.folder, verdict, choices.gates) if choices.gates.approval else None
        release = promote(workspace, champion, verdict, settings, approved=approved)
        record.update(outcome="promoted", release=release.number)
        report.publish_release(release)
