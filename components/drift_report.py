"""The page that shows a window of requests beside the training part: one HTML file that refers to nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from components import drawing, drift_windows, markup
from components.clip import MODALITIES, Modality
from components.drift import DriftReference
from components.drift_comparison import MARGIN, Comparison, Part
from components.drift_samples import Sample, rows_of
from components.markup import Html

_KNOWN, _SEEN = "#8a94a6", "#a3195b"
_NAMES: Final = {"audio": "Sound", "video": "Picture", "text": "Words"}


def build(
    comparison: Comparison,
    reference: DriftReference,
    samples: Sequence[Sample],
    *,
    title: str,
    facts: Mapping[str, str],
) -> str:
    """The page, as HTML."""
    parts: list[Html] = [markup.element("h1", title), markup.facts(facts)]
    if comparison.note:
        parts.append(markup.element("p", comparison.note, kind="notice"))
    if comparison.parts:
        parts.append(markup.section("What was found", _table(comparison), name="found"))
    by_name = {part.name: part for part in comparison.parts}
    for name in MODALITIES:
        if name in by_name and by_name[name].tests:
            picture = markup.picture(
                drawing.svg(_picture(name, by_name[name], reference, samples)),
                alt=f"{_NAMES[name]} of the window beside training",
                caption=_CAPTION,
            )
            parts.append(markup.section(_NAMES[name], picture, name=name))
    parts.append(markup.section("How it is judged", markup.element("p", _HOW), name="how"))
    return markup.page(title, *parts)


_CAPTION: Final = (
    "Left: the middle of each column over the clips, in the window and in training, with the range of eight of ten "
    "training clips. Right: the discrepancy of whole clips (mmd) of the window (line), of windows made of some of the "
    "training speakers (bars), and what it has to pass to count (dashes)."
)
_HOW: Final = (
    "A shift counts as drift when it is significant and large at once. Significant: windows of as many clips, of a few "
    "training speakers and held against the others, hardly ever have as large a statistic, after the correction for "
    "all tests of the page by Benjamini and Hochberg. Large: that statistic is half as large again as what 95 of 100 "
    "windows of other speakers stay below, and the population stability index (psi) passes its limit in params.yaml. "
    "Silent sounds, and pictures without a face, are counted apart and are no part of the comparison."
)


def _table(comparison: Comparison) -> Html:
    head = ("", "test", "#value", "#usual", "#p, corrected", "#clips", "#dead, in training")
    rows: list[tuple[str, Sequence[object]]] = []
    for part in comparison.parts:
        dead = f"{part.dead_share:.0%}, {part.usual_dead_share:.0%}" if part.name in MODALITIES else ""
        words = "dead input" if part.dead else "drift" if part.drifted else part.note
        kind = "failed" if part.dead or part.drifted else ""
        rows.append(("group", (f"{part.name}: {words or 'as in training'}",)))
        for test in part.tests:
            figures_told = [f"{test.value:.3f}", f"{test.usual:.3f}", f"{test.adjusted:.4f}"]
            rows.append((kind, ("", test.name, *figures_told, part.num_clips, dead)))
        if not part.tests:
            rows.append((kind, ("", "not compared", "", "", "", part.num_clips, dead)))
    return markup.table(head, rows, caption="Usual: what 95 of 100 windows of other speakers stay below.")


def _picture(name: Modality, part: Part, reference: DriftReference, samples: Sequence[Sample]) -> Figure:
    rows_NF, known = rows_of(samples, name), reference.clips[name]
    low_F, middle_F, high_F = np.quantile(known.rows_NF, (0.1, 0.5, 0.9), axis=0)
    columns = np.arange(len(middle_F))
    canvas = Figure(figsize=(9.7, 3.2), layout="constrained")
    profile, usual_axes = canvas.subplots(1, 2, width_ratios=(2.2, 1))
    profile.fill_between(columns, low_F, high_F, color=_KNOWN, alpha=0.3, linewidth=0, step="mid")
    profile.plot(columns, middle_F, color=_KNOWN, label="training")
    profile.plot(columns, np.median(rows_NF, axis=0), color=_SEEN, label="window")
    profile.set(xlabel="column", title=_NAMES[name])
    profile.legend(frameon=False)
    usual = drift_windows.usual(known, num_clips=part.num_simulated, num_speakers=part.num_speakers)
    usual_axes.hist(usual.statistics_B3[:, 2], bins=30, color=_KNOWN)
    [mmd] = [test for test in part.tests if test.name == "mmd"]
    usual_axes.axvline(mmd.value, color=_SEEN)
    usual_axes.axvline(MARGIN * mmd.usual, color=_SEEN, linestyle="--")
    usual_axes.set(xlabel="mmd", ylabel="windows", title="Beside other speakers")
    return canvas
