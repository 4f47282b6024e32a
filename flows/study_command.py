"""What `affect study` does beside starting the flow: its options as choices, and what it shows at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import yaml
from prefect.client.schemas.objects import State
from rich.table import Table

from components.params import Choices, Corpus, load_choices, parse, with_setting
from components.settings import PROJECT_ROOT, Settings
from components.storage import Storage
from components.study import StudyChoices, plan
from components.study_records import REPORT, SUMMARY, started_by
from flows.consoles import plain_console
from flows.study import told
from flows.workspace import check_corpus


def choices_of(
    recipe: str | None, corpus: Corpus, *, options: Mapping[str, Any], assignments: Sequence[str]
) -> StudyChoices:
    """The choices that the command's options make; what is not given comes from params.yaml.

    Each assignment is `name=value`: a choice of the study, or a setting of the recipe as `section.key=value`.

    Raises:
        ValueError: an option or a setting does not exist, or has no such value.
    """
    base = load_choices(PROJECT_ROOT / "params.yaml")
    name_of_recipe = recipe or base.recipe
    settings = Choices(recipe=name_of_recipe, overrides=base.overrides if name_of_recipe == base.recipe else {})
    values: dict[str, Any] = {
        "recipe": name_of_recipe,
        "finetune_on": corpus.model_dump(mode="json"),
        "pretrain_on": base.pretrain_on and base.pretrain_on.model_dump(mode="json"),
        **{name: value for name, value in options.items() if value is not None},
    }
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name in StudyChoices.model_fields:
            values[name] = yaml.safe_load(text)
        elif name.split(".")[0] in Choices.model_fields:
            raise ValueError(f"--set {assignment}: a study chooses {name} itself, see `affect study --help`")
        else:
            settings = with_setting(settings, assignment)
    if "overrides" not in values:
        values["overrides"] = settings.overrides
    choices = parse(StudyChoices, values, source="affect study")
    choices = choices.model_copy(update={"finetune_on": check_corpus(choices.finetune_on)})
    plan(choices)  # Refuse here what the flow would refuse later.
    return choices


def outcome_of(run_id: UUID, state: State[Any], settings: Settings) -> dict[str, Any]:
    """Everything worth telling about a study that has ended, as plain values."""
    told: dict[str, Any] = {"run_id": str(run_id), "state": state.name}
    storage = Storage(settings.storage_url)
    digest = started_by(storage, str(run_id))
    summary = f"studies/{digest}/{SUMMARY}"
    if digest is None or not storage.exists(summary):
        return {**told, "error": state.message or "the study ended before it had a report"}
    if not state.is_completed():
        told["error"] = state.message or state.name
    return {**told, "report": storage.uri(f"studies/{digest}/{REPORT}"), **json.loads(storage.read(summary))}


def show(outcome: dict[str, Any]) -> None:
    """Print a study's outcome for a person."""
    console = plain_console()
    if "conditions" in outcome:
        figures, headline = outcome["figures"], outcome["headline"]
        table = Table("condition", "runs", *(figure["title"] for figure in figures.values()))
        for each in outcome["conditions"]:
            cells = [told(each["figures"].get(key), figure["scale"]) for key, figure in figures.items()]
            table.add_row(each["name"], str(each["num_runs"]), *cells)
        console.print(table)
        for gain in outcome["gains"]:
            figure = told(gain["figures"].get(headline), figures[headline]["scale"], sign="+")
            console.print(f"  pre-training, {gain['name']}: {figures[headline]['title']} {figure}")
        for name, error in outcome["failed"].items():
            console.print(f"  failed: {name}: {error}")
        console.print(f"report: {outcome['report']}")
    if "error" in outcome:
        console.print(f"{outcome['state']}: {outcome['error']}")
