"""The flow behind `affect rollback`: what was live before is live again."""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from components.settings import load as load_settings
from flows import releasing, report


@flow(name="rollback", persist_result=False)
def rollback(
    release: Annotated[int | None, Field(ge=1, description="Number to go back to; none: the last other model.")] = None,
    reason: Annotated[str, Field(description="Why, for the release log.")] = "",
) -> None:
    """Serve the bundle of an older release again. It is a release of its own: the log only grows.

    Raises:
        ValueError: there is no such release, or it is what is live.
        ReleaseConflict: somebody else makes a release now.
        ReleaseFailed: the endpoint did not come up with it; what was live still is.
    """
    settings, log = load_settings(), get_run_logger()
    holder = f"the rollback of run {flow_run.id}"
    made = releasing.roll_back(release, note=reason, holder=holder, settings=settings, tell=log.error)
    log.info("release %d serves model %s of run %s", made.number, made.version, made.run)
    report.publish_release(made)
