"""No group of speakers or recordings pays for the gain of the others.

Each group (sex and age band of the speaker, corpus, length of the clip) that the test part knows and has enough clips
of is compared with the champion on the same clips. A first model has none to be compared with: there the group is
held against the whole, with a margin of its own, since some groups are harder for every model.

N clips.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components import metrics, params
from components.gates.evidence import Evidence, Gate, Slice
from components.gates.verdict import GateResult, on_loss
from components.metrics import Interval, Scored

_AGE_BANDS: Final = (30, 45, 60)
_LENGTH_BANDS_S: Final = (2, 4, 8)
# Of one speaker there is no interval that says anything about others.
_MIN_SPEAKERS: Final = 2


@dataclass(frozen=True)
class SliceNotWorse:
    """One group against the champion on the same clips, or, of a first model, against all clips."""

    group: Slice
    max_loss: float
    max_gap: float
    num_resamples: int

    @property
    def name(self) -> str:
        return f"slice/{self.group.name}"

    def judge(self, evidence: Evidence) -> GateResult:
        metric, words = evidence.headline.metric, evidence.headline.words
        if self.group.champion is not None:
            difference = metrics.paired_bootstrap(
                self.group.candidate, self.group.champion, metric=metric, num_resamples=self.num_resamples
            )
            return on_loss(self.name, f"{words} against the champion", difference, self.max_loss)
        own = metrics.bootstrap_by_speaker(self.group.candidate, metric=metric, num_resamples=self.num_resamples)
        whole = metrics.figure(evidence.candidate, metric)
        difference = Interval(own.value - whole, own.low - whole, own.high - whole)
        return on_loss(self.name, f"{words} against {whole:.3f} on all clips", difference, self.max_gap)


def gates(settings: params.Gates, evidence: Evidence) -> tuple[Gate, ...]:
    """One gate a group whose clips allow the headline figure."""
    metric = evidence.headline.metric

    def is_known(answers: Scored | None) -> bool:
        return answers is None or bool(np.isfinite(metrics.figure(answers, metric)))

    return tuple(
        SliceNotWorse(group, settings.max_slice_loss, settings.max_slice_gap, settings.num_resamples)
        for group in evidence.slices
        if is_known(group.candidate) and is_known(group.champion)
    )


def groups_of(rows: Sequence[Mapping[str, Any]], *, min_clips: int) -> dict[str, NDArray[np.bool_]]:
    """Which of some clips are in which group, (N,) each, from their rows of `clips.parquet`.

    What is not known of a clip puts it into no group. Groups of fewer clips than `min_clips`, of one speaker, or of
    all clips are left out.
    """
    speakers_N = np.asarray([row["speaker_id"] for row in rows])
    found = {}
    for attribute, value_of in _ATTRIBUTES.items():
        values_N = np.asarray([value_of(row) or "" for row in rows])
        for value in sorted(set(values_N.tolist()) - {""}):
            is_in_N = values_N == value
            num_speakers = len(set(speakers_N[is_in_N].tolist()))
            if min_clips <= is_in_N.sum() < len(rows) and num_speakers >= _MIN_SPEAKERS:
                found[f"{attribute}={value}"] = is_in_N
    return found


def _band(value: float | None, ends: tuple[int, ...], unit: str) -> str | None:
    if value is None:
        return None
    place = bisect_right(ends, value)
    if place == 0:
        return f"under {ends[0]} {unit}"
    return f"{ends[-1]} {unit} or more" if place == len(ends) else f"{ends[place - 1]} to {ends[place]} {unit}"


_ATTRIBUTES: Final[Mapping[str, Callable[[Mapping[str, Any]], str | None]]] = {
    "speaker_sex": lambda row: row["speaker_sex"],
    "speaker_age": lambda row: _band(row["speaker_age"], _AGE_BANDS, "years"),
    "corpus": lambda row: row["corpus"],
    "length": lambda row: _band(row["duration_s"], _LENGTH_BANDS_S, "s"),
}
