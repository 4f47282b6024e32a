"""A window of requests beside the training part: what has drifted, what is dead, and what cannot be told.

Drift is what is significant and large at once, after the correction for many tests. A modality that brings nothing, by
a microphone that is off or a camera without a face, is no drift: no training helps it, so it is told apart, and its
clips are left out of what is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scipy import stats

from components import drift_answers, drift_windows
from components.clip import MODALITIES, Modality
from components.drift import DEAD_SHARE_OF_MOVEMENT, DriftReference
from components.drift_samples import Sample, answers_of, rows_of
from components.drift_windows import Test
from components.monitoring import Monitor
from components.task import Task

# Fewer say nothing about how much speakers differ.
MIN_REFERENCE_SPEAKERS: Final = 4
# By so much a statistic has to be beyond what 19 of 20 windows of other speakers make of it: the few speakers of a
# training part do not tell for certain how those differ who were in no part of it.
MARGIN: Final = 1.5
_STEP: Final = 20
# What says that a modality brought nothing, beside that nothing moves in it.
_DEAD_WARNINGS: Final[dict[Modality, str]] = {"audio": "silence", "video": "no-face"}


@dataclass(frozen=True)
class Part:
    """What was found of one modality, or of the answers.

    Attributes:
        num_clips: that were compared; dead ones are not.
        num_simulated, num_speakers: clips and speakers of the simulated windows that it was compared with.
        psi: population stability index, the mean over the columns.
        dead_share: of the clips that came with the modality; `usual_dead_share` in training.
        note: why it was not compared, where it was not.
    """

    name: str
    num_clips: int
    num_simulated: int = 0
    num_speakers: int = 0
    tests: tuple[Test, ...] = ()
    psi: float = 0.0
    drifted: bool = False
    dead_share: float = 0.0
    usual_dead_share: float = 0.0
    dead: bool = False
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """All parts of a window.

    Attributes:
        note: why nothing was compared, where nothing was.
    """

    num_clips: int
    parts: tuple[Part, ...] = ()
    note: str = ""

    @property
    def drifted(self) -> tuple[str, ...]:
        """Which modalities, or the answers, are no longer what they were."""
        return tuple(part.name for part in self.parts if part.drifted)

    @property
    def dead(self) -> tuple[str, ...]:
        """Which modalities bring nothing any more."""
        return tuple(part.name for part in self.parts if part.dead)


def compare(
    reference: DriftReference,
    samples: Sequence[Sample],
    settings: Monitor,
    *,
    task: Task,
    thresholds: tuple[float, ...] = (),
) -> Comparison:
    """Hold a window of requests against the reference of the bundle that answered them.

    Args:
        task, thresholds: of the bundle.
    """
    if not reference.clips:
        return Comparison(len(samples), note="the bundle is from before references held clips: retrain once")
    if len(samples) < settings.min_clips:
        return Comparison(len(samples), note=f"{len(samples)} clips in the window, fewer than {settings.min_clips}")
    dead = {name: {at for at, each in enumerate(samples) if _is_dead(each, name, reference)} for name in MODALITIES}
    parts = []
    for name in MODALITIES:
        alive = [each for at, each in enumerate(samples) if at not in dead[name]]
        part, usual_share = _modality(name, alive, reference, settings), reference.dead_shares.get(name, 0.0)
        parts.append(_dead_or_not(part, len(dead[name]), usual_share, settings))
    whole = [each for at, each in enumerate(samples) if not any(at in found for found in dead.values())]
    if reference.answers is not None and len(whole) >= settings.min_clips:
        for found in drift_answers.shifts(
            reference.answers,
            answers_of(whole, task.labels),
            task,
            thresholds=thresholds,
            num_speakers=settings.min_speakers,
        ):
            test = Test("chi_square", found.chi_square, found.expected, found.p_value)
            parts.append(Part(found.name, len(whole), tests=(test,), psi=found.psi))
    return Comparison(len(samples), _judged(parts, settings))


def _modality(name: Modality, alive: Sequence[Sample], reference: DriftReference, settings: Monitor) -> Part:
    known, rows_NF = reference.clips.get(name), rows_of(alive, name)
    if known is None or not len(known):
        return Part(name, len(rows_NF), note="training had none")
    if known.num_speakers < MIN_REFERENCE_SPEAKERS:
        return Part(name, len(rows_NF), note=f"training had {known.num_speakers} speakers, too few to know the usual")
    if len(rows_NF) < settings.min_clips:
        return Part(name, len(rows_NF), note=f"{len(rows_NF)} clips with it, fewer than {settings.min_clips}")
    # Of a few sizes, so that what is simulated serves again; a smaller window varies more.
    size = len(rows_NF) // _STEP * _STEP
    usual = drift_windows.usual(known, num_clips=size, num_speakers=settings.min_speakers)
    tests = usual.tests(rows_NF)
    return Part(name, len(rows_NF), size, settings.min_speakers, tests, tests[0].value)


def _is_dead(sample: Sample, name: Modality, reference: DriftReference) -> bool:
    usual = reference.movements.get(name, 0.0)
    stands_still = sample.summary.movements.get(name, usual) < DEAD_SHARE_OF_MOVEMENT * usual
    return stands_still or _DEAD_WARNINGS.get(name) in sample.warnings


def _dead_or_not(part: Part, num_dead: int, usual: float, settings: Monitor) -> Part:
    num_brought = part.num_clips + num_dead
    share = num_dead / num_brought if num_brought else 0.0
    is_dead = num_brought >= settings.min_clips and share > usual + settings.max_dead_share
    return replace(part, dead_share=share, usual_dead_share=usual, dead=is_dead)


def _judged(parts: Sequence[Part], settings: Monitor) -> tuple[Part, ...]:
    """The parts with their p-values corrected, all tests of the window together, by Benjamini and Hochberg."""
    p_values = [test.p_value for part in parts for test in part.tests]
    adjusted = iter(stats.false_discovery_control(p_values) if p_values else ())
    judged = []
    for part in parts:
        tests = tuple(replace(test, adjusted=float(next(adjusted))) for test in part.tests)
        is_beyond = any(test.adjusted <= settings.significance and test.value > MARGIN * test.usual for test in tests)
        judged.append(replace(part, tests=tests, drifted=is_beyond and part.psi > settings.min_psi))
    return tuple(judged)
