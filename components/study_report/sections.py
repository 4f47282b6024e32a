"""The sections of a study's report, each from the same content; one without anything to show is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure as Canvas

from components import datasets, drawing, metrics
from components.drawing import Curve
from components.markup import Html, details, element, joined, picture, section, table
from components.study_report import figures, tables
from components.study_report.kinds import HEADLINES, Figure, figures_by_label
from components.study_report.provenance import Study
from components.study_report.references import Reference
from components.study_report.results import ConditionResult, Difference, Result
from components.task import Task


@dataclass(frozen=True, eq=False)
class Content:
    """What the sections draw from."""

    study: Study
    results: list[Result]
    conditions: list[ConditionResult]
    gains: list[Difference]
    beside_ridge: list[Difference]
    beside_single: list[Difference]
    published: list[Reference]
    asked: Task | None
    figures: tuple[Figure, ...]
    figure: Figure

    @property
    def recipe(self) -> str:
        return self.study.choices.recipe

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.outcomes is None]

    def learnt(self) -> list[ConditionResult]:
        """The conditions of the system itself that have the headline figure."""
        return [
            each for each in self.conditions if each.condition.learner != "ridge" and self.figure.key in each.figures
        ]


def headline(figures: Sequence[Figure], published: Sequence[Reference], recipe: str, asked: Task | None) -> Figure:
    """What the report is told in: the paper's own figure, or the one that the kind of task is judged by."""
    by_key = {figure.key: figure for figure in figures}
    own = [each.metric for each in published if recipe in each.recipes and each.metric in by_key]
    return by_key[own[0] if own else HEADLINES[asked.kind if asked else "classes"]]


def summary(content: Content) -> Html:
    figure, found = content.figure, content.learnt()
    parts: list[object] = []
    if found:
        best = next((each for each in found if each.condition.learner == "pretrained"), found[0])
        interval = best.figures[figure.key]
        low, value, high = (figure.told(end) for end in (interval.low, interval.value, interval.high))
        assert best.pooled is not None
        parts.append(
            element(
                "p",
                f"{figure.title} {value} [{low}, {high}] ({tables.condition_name(best.condition)}), on "
                f"{best.pooled.num_speakers} held-out speakers; {content.study.division.name}, "
                f"seeds {', '.join(map(str, content.study.choices.seeds))}.",
                kind="lead",
            )
        )
    parts += [element("p", _told_gain(each, figure)) for each in content.gains if figure.key in each.figures]
    if isinstance(datasets.load(content.study.choices.finetune_on.dataset), datasets.GeneratedModule):
        parts.append(
            element("p", "The recordings are synthetic: no figure here says anything about people.", kind="notice")
        )
    if any(result.evaluation and result.evaluation.selected_on == "test" for result in content.results):
        parts.append(element("p", "Epochs were chosen on the test speakers: the figures are too good.", kind="notice"))
    return joined(parts)


def _told_gain(each: Difference, figure: Figure) -> str:
    interval = each.figures[figure.key]
    low, value, high = (figure.told(end, signed=True) for end in (interval.low, interval.value, interval.high))
    verdict = "no difference is shown"
    if not interval.low <= 0 <= interval.high:
        verdict = "a difference is shown"
    name = tables.condition_name(each.better, learner=False)
    return f"Pre-training, {name}: {value} {figure.title} [{low}, {high}], in {figure.unit}: {verdict}."


def failures(content: Content) -> Html:
    failed = content.failed
    if not failed:
        return Html("")
    told = [element("li", element("b", each.run.name), f" {each.state}: {each.error}") for each in failed]
    return element(
        "div",
        element("p", f"{len(failed)} of {len(content.results)} runs have no figures; nothing below counts them."),
        element("ul", *told),
        kind="notice failure",
    )


def results(content: Content) -> Html:
    main = tables.main_table(content.conditions, content.published, content.recipe, content.figures)
    rows = [
        (tables.condition_name(each.condition), each.condition.learner, each.figures[content.figure.key])
        for each in content.conditions
        if content.figure.key in each.figures
    ]
    parts: list[object] = [main]
    if rows:
        marks = [
            (f"{one.system} ({one.source})", one.value)
            for one in content.published
            if content.recipe in one.recipes and one.metric == content.figure.key and one.value is not None
        ]
        canvas = figures.intervals(rows, label=_label(content.figure), scale=content.figure.scale, marks=marks)
        parts.append(_picture(canvas, f"{content.figure.title} of every condition", "The figures of the table."))
    return section("Results beside the paper's", *parts, name="results")


def pretraining(content: Content) -> Html:
    if not content.gains:
        return Html("")
    parts: list[object] = [tables.gain_table(content.gains, content.published, content.recipe, content.figures)]
    drawn = [
        (tables.condition_name(each.better, learner=False), each)
        for each in content.gains
        if content.figure.key in each.figures
    ]
    if drawn:
        label = f"{_label(content.figure)}: what pre-training adds, with its 95 % interval"
        canvas = figures.gains(drawn, key=content.figure.key, label=label, scale=content.figure.scale)
        parts.append(_picture(canvas, "What pre-training adds", "Right of the line pre-training helps."))
    return section("What pre-training adds", *parts, name="pretraining")


def ridge(content: Content) -> Html:
    if not any(each.condition.learner == "ridge" for each in content.conditions):
        return Html("")
    return section(
        "Beside ridge on the same features",
        tables.ridge_table(content.conditions, content.beside_ridge, content.figures),
        name="ridge",
    )


def fusion(content: Content) -> Html:
    if not content.beside_single:
        return Html("")
    return section("Together and alone", tables.fusion_table(content.beside_single, content.figures), name="fusion")


def curves(content: Content) -> Html:
    scores: dict[str, list[tuple[str, Curve]]] = {}
    losses: dict[str, list[Curve]] = {}
    for each in content.learnt():
        for result in each.done:
            if result.finetuning and result.finetuning.score:
                name = tables.condition_name(each.condition, learner=False)
                scores.setdefault(name, []).append((each.condition.learner, result.finetuning))
            if result.finetuning:
                losses.setdefault(f"fine-tuning, {_in_two_lines(each)}", []).append(result.finetuning)
            if result.pretraining and each.condition.label_share == content.study.choices.label_shares[0]:
                losses.setdefault(f"pre-training, {each.condition.modality_name}", []).append(result.pretraining)
    if not losses:
        return Html("")
    parts = []
    if scores:
        canvas = figures.learning_curves(scores, score=f"{_judged(content).title} on validation")
        caption = "Thin: a run; thick: the mean of the runs. The epoch is chosen by this score, run by run."
        parts.append(_picture(canvas, "Score on validation speakers by epoch", caption))
    canvas = drawing.losses(losses)
    parts.append(_picture(canvas, "Losses by epoch", "Losses of pre-training and of fine-tuning."))
    return section("Learning curves", *parts, name="curves")


def by_label(content: Content) -> Html:
    """Label by label: a table, and for classes the confusion matrices."""
    found = content.learnt()
    if content.asked is None or not found:
        return Html("")
    parts: list[object] = [tables.label_table(found, figures_by_label(content.asked))]
    if content.asked.kind == "classes":
        largest = [each for each in found if each.condition.modalities == found[0].condition.modalities]
        panels = [(_in_two_lines(each), each) for each in largest]
        canvas = figures.confusions(panels, content.asked.labels)
        caption = "Percent of each actual label's clips, all folds and seeds together; each row sums to 100."
        parts.append(_picture(canvas, "Confusion matrices", caption))
    return section("Label by label", *parts, name="labels")


def contributions(content: Content) -> Html:
    panels = []
    for each in content.learnt():
        subsets: dict[str, list[float]] = {}
        for result in each.done:
            for name, value in (result.evaluation.subsets if result.evaluation else {}).items():
                subsets.setdefault(name, []).append(value)
        if len(subsets) > 1:
            panels.append((_in_two_lines(each), each.condition.learner, subsets))
    if not panels:
        return Html("")
    judged = _judged(content)
    canvas = figures.contributions(panels, label=_label(judged), scale=judged.scale)
    told = (
        "One trained system, answering with some modalities left out: bars are the mean over runs, dots the runs. "
        "Systems trained on fewer modalities have rows of their own in the first table."
    )
    return section("What each modality contributes", _picture(canvas, "Modalities", told), name="modalities")


def runs(content: Content) -> Html:
    rows: list[tuple[str, Sequence[object]]] = []
    for each in content.results:
        condition = each.run.condition
        fold = "–" if each.run.fold is None else each.run.fold
        cells = [tables.condition_name(condition), fold, each.run.seed, each.state]
        record = each.record
        told: object = each.error or (f"run {record.digest}, {record.duration_s:.0f} s" if record else "")
        numbers = [
            figure.told(metrics.figure(each.outcomes, figure.metric)) if each.outcomes else tables.NO_FIGURE
            for figure in content.figures
        ]
        rows.append(("" if each.outcomes else "failed", [*cells, *numbers, told]))
    head = [
        "condition",
        "fold",
        "seed",
        "state",
        *(f"#{figure.title}" for figure in content.figures),
        "workspace, or why not",
    ]
    title = f"all {len(rows)} runs, {len(rows) - len(content.failed)} with figures"
    return section("Every run", details(title, table(head, rows), is_open=bool(content.failed)), name="runs")


def _in_two_lines(each: ConditionResult) -> str:
    return tables.condition_name(each.condition).replace(", ", "\n", 1)


def _judged(content: Content) -> Figure:
    """The figure that chooses the epoch and that an evaluation gives for each subset of modalities."""
    key = HEADLINES[content.asked.kind if content.asked else "classes"]
    return next(figure for figure in content.figures if figure.key == key)


def _label(figure: Figure) -> str:
    return f"{figure.title} in points" if figure.scale == 100 else figure.title


def _picture(canvas: Canvas, alt: str, caption: str) -> Html:
    return picture(drawing.svg(canvas), alt=alt, caption=caption)
