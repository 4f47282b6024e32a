"""Asking a person, in a form of the Prefect UI, whether a model that passed its gates is released."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from components import params
from components.gates import Verdict
from flows import report

_POLL_S = 2


class NotApproved(RuntimeError):
    """A person refused the model, or nobody decided in time; the message says which."""


class Approval(RunInput):
    """The form of a run that waits."""

    release: bool = Field(False, description="Release this model? Without a tick the champion stays.")
    decided_by: str = Field(min_length=1, description="Your name, for the release log.")
    reason: str = Field("", description="Why, for the release log.")


def ask(folder: Path, verdict: Verdict, settings: params.Gates) -> Approval:
    """Pause the run until somebody has filled the form; the approval that it holds.

    Raises:
        NotApproved: somebody said no, or nobody said anything in time.
    """
    get_run_logger().info("waiting for a person: open this run in the UI, and press Resume")
    form = Approval.with_initial_data(description=report.approval_markdown(folder, verdict))
    try:
        decision = pause_flow_run(
            wait_for_input=form, timeout=round(settings.approval_timeout_h * 3600), poll_interval=_POLL_S
        )
    except FlowPauseTimeout as error:
        raise NotApproved(
            f"nobody decided within {settings.approval_timeout_h:g} hours (gates.approval_timeout_h): not released"
        ) from error
    if not decision.release:
        raise NotApproved(f"{decision.decided_by} did not release it: {decision.reason or 'no reason given'}")
    return decision
