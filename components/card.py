"""The model card: what a person should know before using a bundle, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from components import params
from components.provenance import Provenance
from components.report import Report

_SYNTHETIC_NOTICE = """\
> **SYNTHETIC DATA.** This model was trained and measured on generated recordings: drawn faces and synthesized
> voices. Its figures say that the platform works; they say nothing about how well it recognises people's emotions.
"""

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


def write(
    figures: Report, origin: Provenance, *, labels: Sequence[str], features: params.Features, num_parameters: int
) -> str:
    """The card's text; equal arguments give equal text."""
    parts = [
        f"# Emotion recognition from audio, video and words ({origin.recipe})\n",
        _SYNTHETIC_NOTICE if figures.synthetic else "",
        f"A cross-modal transformer ({origin.system}, {num_parameters:,} parameters) that names one of "
        f"{len(labels)} emotions: {', '.join(labels)}.\n",
        _INTENDED_USE.format(max_duration_s=features.max_duration_s, max_words=features.text.max_words),
        _figures(figures),
        _making(origin),
    ]
    return "\n".join(part for part in parts if part)


def _figures(figures: Report) -> str:
    said = " (synthetic)" if figures.synthetic else ""
    lines = [
        "## Figures",
        f"On {figures.num_clips} clips of {figures.num_speakers} held-out speakers of `{figures.dataset}`{said}; "
        "95 % intervals by resampling speakers.",
        "",
        "| figure | value | low | high |",
        "|---|---|---|---|",
        *(
            f"| {name} | {interval.value:.3f} | {interval.low:.3f} | {interval.high:.3f} |"
            for name, interval in (
                ("macro-F1", figures.macro_f1),
                ("unweighted accuracy (mean recall)", figures.ua),
                ("weighted accuracy", figures.wa),
            )
        ),
        "",
        f"Always answering the most frequent label: macro-F1 {figures.majority_macro_f1:.3f}, weighted accuracy "
        f"{figures.majority_wa:.3f}. Expected calibration error {figures.calibration_error:.3f}.",
        "",
        "| label | F1 |",
        "|---|---|",
        *(f"| {label} | {value:.3f} |" for label, value in figures.per_class_f1.items()),
        "",
        "| what the model is given | macro-F1 |",
        "|---|---|",
        *(f"| {subset} | {value:.3f} |" for subset, value in figures.subsets.items()),
        "",
    ]
    return "\n".join(lines)


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
