"""What gates judge by, and what a gate is. Light to import: whoever gathers evidence is in `gathering.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from components.gates.verdict import GateResult
from components.metrics import Scored
from components.metrics_calibration import Calibration
from components.report import HEADLINES, Headline, SelectedOn
from components.task import Kind

# How `python -m serving.package_check` is asked for what it measures.
MEASURE: Final = "python -m serving.package_check"


@dataclass(frozen=True, eq=False)
class Slice:
    """The answers on one group of the test clips, such as those of women.

    Attributes:
        name: what the clips have in common, as `speaker_sex=female`.
        champion: None when there is none that could be compared.
    """

    name: str
    candidate: Scored
    champion: Scored | None


DisturbanceKind = Literal["noise", "gain", "dropped_frames", "silence"]


@dataclass(frozen=True, eq=False)
class Disturbed:
    """The answers on recordings that were made worse.

    Attributes:
        kind: what there is a limit for; there may be several of a kind.
        reference: the answers on the same clips that they are held against.
        against: what these clips were, in words.
    """

    name: str
    kind: DisturbanceKind
    answers: Scored
    reference: Scored
    against: str


@dataclass(frozen=True)
class Package:
    """What the bundle is like in a server of its own, asked over HTTP on this machine by one caller.

    Attributes:
        version: of the bundle that was asked.
        latencies_s: of single requests, the golden ones in turn.
        memory_bytes: of the server and its decoders after these requests, what they share counted once.
        size_bytes: of the bundle's files.
        golden_error: largest distance between a golden answer and what came over HTTP.
        failure: why it does not answer; nothing else is known then.
    """

    version: str
    size_bytes: int
    latencies_s: tuple[float, ...] = ()
    memory_bytes: int = 0
    golden_error: float = 1.0
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the gates judge by: answers of both systems on the same held-out clips, and the bundle as it is served.

    Attributes:
        champion: None when nothing has been released yet, or when the champion cannot be compared.
        golden_error: largest distance between a golden answer and what the freshly loaded bundle answers.
        kind, champion_kind: of the tasks; a champion of another kind cannot be compared.
        selected_on: the part whose figures chose the candidate's epoch.
        constant: the headline figure of always giving the same answer.
        slices: groups of the test clips that are large enough to be judged.
        by_modalities: the candidate's answers from these modalities alone, as "audio+text"; all of them last.
        disturbed: its answers on recordings that were made worse.
        calibration: its probabilities and what came of them; None where the task has no probabilities.
        package: None when it was not measured.
    """

    candidate: Scored
    candidate_version: str
    champion: Scored | None
    champion_version: str | None
    golden_error: float
    kind: Kind = "classes"
    champion_kind: Kind = "classes"
    selected_on: SelectedOn = "validation"
    constant: float = 0.0
    slices: tuple[Slice, ...] = ()
    by_modalities: Mapping[str, Scored] = field(default_factory=dict)
    disturbed: tuple[Disturbed, ...] = ()
    calibration: Calibration | None = None
    package: Package | None = None

    @property
    def headline(self) -> Headline:
        """The figure that systems of this kind are judged by."""
        return HEADLINES[self.kind]


class Gate(Protocol):
    """One condition of release. Each module of this folder makes its own with `gates(settings, evidence)`."""

    @property
    def name(self) -> str: ...

    def judge(self, evidence: Evidence) -> GateResult: ...


def read_package(path: Path) -> Package:
    """Read what `serving.package_check` wrote.

    Raises:
        FileNotFoundError: it has not run.
        ValueError: the file is damaged.
    """
    try:
        return TypeAdapter(Package).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: run `{MEASURE}` first") from error
    except ValidationError as error:
        raise ValueError(f"{path} holds no measurements of a bundle: run `{MEASURE}` again") from error
