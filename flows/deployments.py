"""Every flow as a deployment with its Run form; run as a module it serves them all from one process.

Given a work pool, it registers them there instead and ends: whoever works for the pool then starts a pod for each run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

from flows.definitions import Definition, definitions


def deployments() -> list[RunnerDeployment]:
    """All deployments, their forms filled with `params.yaml`."""
    return [_deployment(each) for each in definitions()]


def _deployment(each: Definition) -> RunnerDeployment:
    made = each.flow.to_deployment(
        each.name,
        parameters=each.parameters,
        description=each.description,
        schedules=[each.schedule] if each.schedule else [],
        triggers=list(each.triggers),
        # Two runs share the processors and the release log: the second waits for the first.
        concurrency_limit=1,
    )
    # The method serves callers with and without an event loop; this one has none.
    assert isinstance(made, RunnerDeployment)
    return made


def register(work_pool: str, image: str, job_variables: Mapping[str, str]) -> None:
    """Register all deployments in a work pool, whose runs get this image and these variables of the pool's template."""
    for deployment in deployments():
        deployment.job_variables.update(job_variables)
        deployment.apply(work_pool_name=work_pool, image=image)


def serve_from_here(ready_file: Path) -> None:
    """Serve all deployments until the process ends; `ready_file` tells when they are registered."""
    registered = deployments()
    # `serve` registers them too, but tells nobody when it has; doing it before changes nothing there.
    for deployment in registered:
        deployment.apply()
    ready_file.write_text("ready\n", encoding="utf-8")
    serve(*registered, print_starting_message=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    here = parser.add_mutually_exclusive_group(required=True)
    here.add_argument("--ready-file", type=Path, help="created when the deployments are registered")
    here.add_argument("--work-pool", help="register the deployments in this pool and end")
    parser.add_argument("--image", help="of the pool's runs")
    parser.add_argument(
        "--job-variable", action="append", default=[], metavar="NAME=VALUE", help="of the pool's template"
    )
    given = parser.parse_args()
    if given.work_pool is None:
        serve_from_here(given.ready_file)
        return
    if not given.image:
        parser.error("--work-pool needs --image")
    variables = [each.partition("=") for each in given.job_variable]
    for name, sign, _ in variables:
        if not (name and sign):
            parser.error(f"--job-variable {name}: write NAME=VALUE")
    register(given.work_pool, given.image, {name: value for name, _, value in variables})


if __name__ == "__main__":
    main()
