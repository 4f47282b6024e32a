"""The report of a run: one HTML file that needs no other, also of a run that ended half-way.

    python -m components.run_report --record FILE --champion FILE --build build --output report.html

It is no stage, for it tells of the gates and of what is live; and it imports no PyTorch, so that it takes a second.
"""

from __future__ import annotations

from components.markup import element, page
from components.run_report import sections
from components.run_report.gathering import Run, gather

__all__ = ["Run", "build", "gather"]


def build(run: Run) -> str:
    """The page."""
    title = "A run of retrain" if run.params is None else f"{run.params.recipe} on {run.params.finetune_on.dataset}"
    return page(
        title,
        element("h1", title),
        sections.summary(run),
        sections.changes(run),
        sections.figures(run),
        sections.gates(run),
        sections.curves(run),
        sections.answers(run),
        sections.reliability(run),
        sections.slices(run),
        sections.cost(run),
        sections.parameters(run),
    )
