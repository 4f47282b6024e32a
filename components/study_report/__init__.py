"""The report of a study: one HTML file that needs no other, and its figures as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.markup import element, page, section
from components.study import Learner, StudyRun
from components.study_records import RunRecord
from components.study_report import sections, tables
from components.study_report.kinds import figures_of
from components.study_report.provenance import Study, obtained
from components.study_report.references import references
from components.study_report.results import Difference, by_condition, difference, read_results, read_task
from components.study_report.sections import Content, headline

__all__ = ["Built", "Study", "build"]


# What is compared with what, run by run on the same clips.
_COMPARED: tuple[tuple[tuple[Learner, ...], Learner], ...] = (
    (("pretrained",), "scratch"),
    (("pretrained", "scratch"), "ridge"),
)


@dataclass(frozen=True)
class Built:
    """The page, and what a program wants of it."""

    html: str
    summary: dict[str, Any]


def build(study: Study, outcomes: Sequence[tuple[StudyRun, RunRecord | None]]) -> Built:
    """Read what the runs of a study left, and write its report."""
    results = read_results(outcomes)
    asked = read_task(results)
    figures = figures_of(asked)
    conditions = by_condition(results, figures)
    by = {each.condition: each for each in conditions}
    gains, beside_ridge = (
        [
            difference(each, by[each.condition.beside(worse)], figures)
            for each in conditions
            if each.condition.learner in better and each.condition.beside(worse) in by
        ]
        for better, worse in _COMPARED
    )
    beside_single = [
        difference(each, single, figures)
        for each in conditions
        if len(each.condition.modalities) > 1 and each.condition.learner != "ridge"
        for single in conditions
        if single.condition in each.condition.singles()
    ]
    published = references(study.choices.finetune_on.dataset)
    figure = headline(figures, published, study.choices.recipe, asked)
    content = Content(study, results, conditions, gains, beside_ridge, beside_single, published, asked, figures, figure)
    title = f"{study.choices.recipe} on {study.choices.finetune_on.dataset}"
    html = page(
        title,
        element("h1", title),
        sections.summary(content),
        sections.failures(content),
        sections.results(content),
        sections.pretraining(content),
        sections.ridge(content),
        sections.fusion(content),
        sections.curves(content),
        sections.by_label(content),
        sections.contributions(content),
        sections.runs(content),
        section("How each number was obtained", obtained(study, content.asked, results), name="obtained"),
    )
    return Built(html, _plain(content))


def _plain(content: Content) -> dict[str, Any]:
    return {
        "recipe": content.recipe,
        "dataset": content.study.choices.finetune_on.dataset,
        "study": content.study.digest,
        "commit": content.study.commit,
        "division": content.study.division.name,
        "figures": {figure.key: {"title": figure.title, "scale": figure.scale} for figure in content.figures},
        "headline": content.figure.key,
        "runs": {"planned": len(content.results), "done": len(content.results) - len(content.failed)},
        "failed": {each.run.name: each.error for each in content.failed},
        "conditions": [
            {
                "name": tables.condition_name(each.condition),
                "modalities": list(each.condition.modalities),
                "label_share": each.condition.label_share,
                "learner": each.condition.learner,
                "num_runs": len(each.done),
                "figures": {key: asdict(interval) for key, interval in each.figures.items()},
            }
            for each in content.conditions
        ],
        "gains": [_compared(each) for each in content.gains],
        "beside_ridge": [_compared(each) for each in content.beside_ridge],
        "beside_single": [_compared(each) for each in content.beside_single],
    }


def _compared(each: Difference) -> dict[str, Any]:
    return {
        "name": tables.condition_name(each.better, learner=False),
        "modalities": list(each.better.modalities),
        "worse_modalities": list(each.worse.modalities),
        "label_share": each.better.label_share,
        "better": each.better.learner,
        "worse": each.worse.learner,
        "num_pairs": each.num_pairs,
        "figures": {key: asdict(interval) for key, interval in each.figures.items()},
    }
