"""Every flow as a deployment with its Run form; run as a module it serves them all from one process."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

from components.params import load_choices
from components.settings import PROJECT_ROOT
from components.study import StudyChoices
from flows.retrain import retrain
from flows.study import study


def deployments() -> list[RunnerDeployment]:
    """All deployments, their forms filled with `params.yaml`."""
    choices = load_choices(PROJECT_ROOT / "params.yaml")
    deployment = retrain.to_deployment(
        "retrain",
        parameters={"choices": choices.model_dump(mode="json")},
        description="Ingest, extract, pre-train, fine-tune, evaluate, gate, and promote when the gates pass.",
        # Two runs share the processors and the release log: the second waits for the first.
        concurrency_limit=1,
    )
    of_study = study.to_deployment(
        "study",
        parameters={"choices": StudyChoices(recipe=choices.recipe).model_dump(mode="json")},
        description="Folds x seeds x with and without pre-training x shares of the labels, and one report.",
        # A second study would take the processors from under the first, and share its workspaces where they agree.
        concurrency_limit=1,
    )
    # The method serves callers with and without an event loop; this one has none.
    assert isinstance(deployment, RunnerDeployment)
    assert isinstance(of_study, RunnerDeployment)
    return [deployment, of_study]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-file", type=Path, required=True, help="created when the deployments are registered")
    ready_file: Path = parser.parse_args().ready_file
    registered = deployments()
    # `serve` registers them too, but tells nobody when it has; doing it before changes nothing there.
    for deployment in registered:
        deployment.apply()
    ready_file.write_text("ready\n", encoding="utf-8")
    serve(*registered, print_starting_message=False)


if __name__ == "__main__":
    main()
