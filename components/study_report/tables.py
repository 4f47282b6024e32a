"""The tables of a study: its conditions beside the published numbers, what pre-training gains, and ridge."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from components.markup import Html, element, joined, table
from components.metrics import Interval
from components.study import Condition, Learner
from components.study_report.figures import NAMES
from components.study_report.kinds import Figure
from components.study_report.references import Reference
from components.study_report.results import ConditionResult, Difference, intervals

NO_FIGURE = "–"


def condition_name(condition: Condition, *, learner: bool = True) -> str:
    """A condition in words."""
    share = f"{100 * condition.label_share:g} % of labels"
    return ", ".join([condition.modality_name, share, *([NAMES[condition.learner]] if learner else [])])


def main_table(
    conditions: Sequence[ConditionResult], published: Sequence[Reference], recipe: str, figures: Sequence[Figure]
) -> Html:
    """Every condition with its figures, the paper's own number for it beside them, and other systems below."""
    head = ["condition", *(f"#{figure.title}" for figure in figures), "the paper's own", "runs"]
    rows: list[tuple[str, Sequence[object]]] = []
    for each in conditions:
        own = [one for one in published if is_same(one, each.condition, recipe)]
        cells = [figure_cell(each, figure) for figure in figures]
        told = joined(element("div", _published(one, figures)) for one in own) if own else NO_FIGURE
        kind = "" if each.figures else "failed"
        rows.append((kind, [condition_name(each.condition), *cells, told, runs_cell(each)]))
    others = [one for one in published if one.quantity == "figure" and recipe not in one.recipes]
    if others:
        rows.append(("group", ["published systems on this corpus, for orientation"]))
    for one in others:
        cells = [f"{one.told}" if one.metric == figure.key else NO_FIGURE for figure in figures]
        other = one.metric not in {figure.key for figure in figures}
        name = joined([f"{one.system}, {one.modalities}; {one.protocol}"])
        told = joined(
            [f"{one.metric} {one.told} " if other else "", tags(one), " ", element("span", one.where, kind="soft")]
        )
        rows.append(("published", [name, *cells, told, ""]))
    return table(
        head,
        rows,
        caption="In points: the figure on the answers of all runs together, [its 95 % interval by bootstrap over "
        "speakers], and below it mean ± standard deviation over folds. "
        + "; ".join(f"{figure.title} is {figure.words}" for figure in figures)
        + ". A number tagged recalled was never checked against its source.",
    )


def gain_table(
    differences: Sequence[Difference], published: Sequence[Reference], recipe: str, figures: Sequence[Figure]
) -> Html:
    """What pre-training adds to the same system, run by run on the same clips."""
    rows = []
    for each in differences:
        own = [one for one in published if is_same(one, each.better, recipe, quantity="gain")]
        told = joined(element("div", _published(one, figures)) for one in own) if own else NO_FIGURE
        cells = [difference_cell(each, figure) for figure in figures]
        pairs = f"{each.num_pairs} of {each.num_planned}"
        rows.append(
            ("" if each.figures else "failed", [condition_name(each.better, learner=False), *cells, told, pairs])
        )
    return table(
        [
            "pre-trained minus from scratch",
            *(f"#{figure.title}" for figure in figures),
            "the paper's own",
            "pairs of runs",
        ],
        rows,
        caption="Points, with 95 % intervals by a paired bootstrap over speakers: both learners on the same resampled "
        "speakers, folds and seeds. An interval that holds zero shows no difference.",
    )


def ridge_table(
    conditions: Sequence[ConditionResult], differences: Sequence[Difference], figures: Sequence[Figure]
) -> Html:
    """The system beside ridge on statistics of the very same features, folds and labels."""
    rows: list[tuple[str, Sequence[object]]] = []
    for each in conditions:
        if each.condition.learner != "ridge":
            continue
        cells = [figure_cell(each, figure) for figure in figures]
        rows.append(("", [condition_name(each.condition), *cells, runs_cell(each)]))
        for minus in differences:
            if minus.worse == each.condition:
                cells = [difference_cell(minus, figure) for figure in figures]
                pairs = f"{minus.num_pairs} of {minus.num_planned}"
                rows.append(("", [f"{NAMES[minus.better.learner]} minus ridge", *cells, pairs]))
    return table(
        ["", *(f"#{figure.title}" for figure in figures), "runs"],
        rows,
        caption="Ridge sees the mean and the deviation of each feature over the clip and how often each word is said. "
        "It learns from the same share of the labels, of training and validation speakers, and its strength is chosen "
        "by leaving those speakers out in groups.",
    )


def fusion_table(differences: Sequence[Difference], figures: Sequence[Figure]) -> Html:
    """Systems trained on several modalities beside those trained on one of them."""
    rows = []
    for each in differences:
        cells = [difference_cell(each, figure) for figure in figures]
        name = f"{condition_name(each.better)} minus {each.worse.modality_name} alone"
        rows.append(("" if each.figures else "failed", [name, *cells, f"{each.num_pairs} of {each.num_planned}"]))
    return table(
        ["", *(f"#{figure.title}" for figure in figures), "pairs of runs"],
        rows,
        caption="Points, with 95 % intervals by a paired bootstrap over speakers. Each side is a system of its own, "
        "trained on those modalities.",
    )


def label_table(conditions: Sequence[ConditionResult], by_label: Mapping[str, Figure]) -> Html:
    """Each condition label by label."""
    rows: list[tuple[str, Sequence[object]]] = []
    for each in conditions:
        if each.pooled is not None:
            found = intervals(each.pooled, tuple(by_label.values()))
            cells = [
                _interval(found[figure.key], figure, signed=False) if figure.key in found else NO_FIGURE
                for figure in by_label.values()
            ]
            rows.append(("", [condition_name(each.condition), *cells]))
    words = next(iter(by_label.values())).words
    caption = f"{words} of each label, all runs together, with 95 % intervals over speakers."
    return table(["condition", *(f"#{label}" for label in by_label)], rows, caption=caption[0].upper() + caption[1:])


def figure_cell(each: ConditionResult, figure: Figure) -> Html | str:
    if figure.key not in each.figures:
        return NO_FIGURE
    lines: list[object] = [_interval(each.figures[figure.key], figure, signed=False)]
    folds = [value for value in each.by_fold[figure.key] if math.isfinite(value)]
    if len(folds) > 1:
        spread = f"{figure.told(statistics.fmean(folds))} ± {figure.told(statistics.stdev(folds))}"
        lines.append(element("div", spread, kind="spread"))
    return joined(lines)


def difference_cell(each: Difference, figure: Figure) -> Html | str:
    return _interval(each.figures[figure.key], figure, signed=True) if figure.key in each.figures else NO_FIGURE


def runs_cell(each: ConditionResult) -> str:
    failed = f", {each.num_failed} without figures" if each.num_failed else ""
    return f"{len(each.done)} of {len(each.results)}{failed}"


def is_same(reference: Reference, condition: Condition, recipe: str, *, quantity: str = "figure") -> bool:
    """Whether a published number is of this very condition of this very system."""
    learner: Learner = "pretrained"
    return (
        reference.quantity == quantity
        and recipe in reference.recipes
        and reference.modalities == condition.modality_name
        and math.isclose(reference.labels, condition.label_share)
        and condition.learner == learner
    )


def tags(reference: Reference) -> Html:
    """How a published number is known, and whether its epoch was chosen on the test part."""
    found = [element("span", reference.source, kind=f"tag {reference.source}")]
    if reference.selection == "test":
        found += [Html(" "), element("span", "epoch chosen on test", kind="tag test")]
    return joined(found)


def _published(reference: Reference, figures: Sequence[Figure]) -> Html:
    title = next((figure.title for figure in figures if figure.key == reference.metric), reference.metric)
    name = "" if reference.metric == "any" else f"{title} "
    return joined(
        [
            f"{reference.system}: {name}{reference.told} ",
            tags(reference),
            " ",
            element("span", reference.where, kind="soft"),
        ]
    )


def _interval(interval: Interval, figure: Figure, *, signed: bool) -> Html:
    value, low, high = (figure.told(each, signed=signed) for each in (interval.value, interval.low, interval.high))
    return joined([f"{value} ", element("span", f"[{low}, {high}]", kind="interval")])
