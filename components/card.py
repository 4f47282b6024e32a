"""The model card: what a person should know before using a bundle, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from components import params
from components.metrics import Interval
from components.provenance import Provenance
from components.report import HEADLINES, ClassReport, LabelReport
from components.task import Kind, Task

_SYNTHETIC_NOTICE = """\
> **SYNTHETIC DATA.** This model was trained and measured on generated recordings: drawn faces and synthesized
> voices. Its figures say that the platform works; they say nothing about how well it recognises people's emotions.
"""

_TEST_NOTICE = """\
> **CHOSEN ON THE TEST PART.** The epoch of this model is the one that did best on the very clips that the figures
> below are from. They are better than what it reaches on people it has not met.
"""

_SAYS: Final[Mapping[Kind, str]] = {
    "classes": "names one of {num} emotions: {labels}",
    "multilabel": "says of each of {num} emotions whether it is there: {labels}",
    "values": "rates {num} dimension(s) from {low:g} to {high:g}: {labels}",
}

_INTENDED_USE = """\
## Intended use
To estimate which of the labels above fits how a short recording of one talking person sounds, looks and reads.
Any subset of audio, video and words is accepted.

Not intended: decisions about people (hiring, insurance, policing, schooling, health), recordings of people who did
not agree to it, or any claim about what somebody truly feels. A label describes expression, not feeling.

## Limits
- Figures hold for speakers who were held out of the same corpus; other languages, ages, microphones, cameras and
  spontaneous speech may be far worse, and nobody has measured it.
- One answer a recording: a change of emotion within it is averaged.
- Recordings are cut at {max_duration_s:g} s and {max_words} words; several people in one recording are not told apart.
- Probabilities are not calibrated beyond what the calibration error below says.
"""


_TRANSCRIBED = """\
- Words that are not given are recognized from the sound, in training as in serving, and the answer says so
  (`transcribed`); what the recognizer mishears counts as said. Its folder is not in the bundle: it must lie where
  `preprocess.json` names it, and hold the very same files.
"""


def write(
    figures: ClassReport | LabelReport,
    origin: Provenance,
    *,
    task: Task,
    features: params.Features,
    num_parameters: int,
) -> str:
    """The card's text; equal arguments give equal text."""
    low, high = task.scale or (0.0, 1.0)
    says = _SAYS[task.kind].format(num=len(task.labels), labels=", ".join(task.labels), low=low, high=high)
    parts = [
        f"# Emotion recognition from audio, video and words ({origin.recipe})\n",
        _SYNTHETIC_NOTICE if figures.synthetic else "",
        _TEST_NOTICE if figures.selected_on == "test" else "",
        f"A cross-modal transformer ({origin.system}, {num_parameters:,} parameters) that {says}.\n",
        _INTENDED_USE.format(max_duration_s=features.max_duration_s, max_words=features.text.max_words),
        _TRANSCRIBED if features.text.transcribe is not None else "",
        _class_figures(figures) if isinstance(figures, ClassReport) else _label_figures(figures),
        _making(origin),
    ]
    return "\n".join(part for part in parts if part)


def _class_figures(figures: ClassReport) -> str:
    named = {
        "macro-F1": figures.macro_f1,
        "unweighted accuracy (mean recall)": figures.ua,
        "weighted accuracy": figures.wa,
    }
    lines = [
        *_table_of_figures(figures, named),
        f"Always answering the most frequent label: macro-F1 {figures.majority_macro_f1:.3f}, weighted accuracy "
        f"{figures.majority_wa:.3f}. Expected calibration error {figures.calibration_error:.3f}.",
        "",
        "| label | F1 |",
        "|---|---|",
        *(f"| {label} | {value:.3f} |" for label, value in figures.per_class_f1.items()),
        "",
        *_table_of_subsets(figures),
    ]
    return "\n".join(lines)


def _label_figures(figures: LabelReport) -> str:
    columns = list(dict.fromkeys(name for found in figures.by_label.values() for name in found))
    lines = [
        *_table_of_figures(figures, {name.replace("_", " "): interval for name, interval in figures.figures.items()}),
        "Always giving the same answer: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.constant.items())
        + ".",
        "",
        f"| label | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(
            f"| {label} | {' | '.join(f'{found[name].value:.3f}' if name in found else '' for name in columns)} |"
            for label, found in figures.by_label.items()
        ),
        "",
        *_table_of_subsets(figures),
    ]
    if figures.thresholds is not None:
        chosen = ", ".join(f"{label} {value:.3f}" for label, value in figures.thresholds.items())
        lines += [f"A label counts as there from these probabilities on, chosen on validation speakers: {chosen}.", ""]
    return "\n".join(lines)


def _table_of_figures(figures: ClassReport | LabelReport, named: Mapping[str, Interval]) -> list[str]:
    said = " (synthetic)" if figures.synthetic else ""
    return [
        "## Figures",
        f"On {figures.num_clips} clips of {figures.num_speakers} held-out speakers of `{figures.dataset}`{said}; "
        "95 % intervals by resampling speakers.",
        "",
        "| figure | value | low | high |",
        "|---|---|---|---|",
        *(
            f"| {name} | {interval.value:.3f} | {interval.low:.3f} | {interval.high:.3f} |"
            for name, interval in named.items()
        ),
        "",
    ]


def _table_of_subsets(figures: ClassReport | LabelReport) -> list[str]:
    return [
        f"| what the model is given | {HEADLINES[figures.kind].words} |",
        "|---|---|",
        *(f"| {subset} | {value:.3f} |" for subset, value in figures.subsets.items()),
        "",
    ]


def _making(origin: Provenance) -> str:
    pretrained = (
        f"Pre-trained on `{origin.pretrained_on}` without labels (masked modelling), then fine-tuned"
        if origin.pretrained_on
        else "Trained from scratch"
    )
    lines = [
        "## How it was made",
        f"{pretrained} on `{origin.dataset}`, seed {origin.seed}. Speakers of the training, validation and test parts "
        "are different people.",
        "",
        "| what | digest or version |",
        "|---|---|",
        f"| parameters | {origin.params_digest[:16]} |",
        f"| code | {origin.code_digest[:16]} |",
        *(f"| data: {name} | {digest} |" for name, digest in origin.data.items()),
        *(f"| {name} | {version} |" for name, version in origin.packages.items()),
        "",
    ]
    return "\n".join(lines)
