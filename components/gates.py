"""Gates: what a new bundle must show before it may be served. Every gate judges, and every verdict is shown.

    python -m components.gates --champion FOLDER --output build/gates.json

The status is 0 whatever the verdict: the caller reads it from the file and decides.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from components import metrics, params, report
from components.bundle_files import GOLDEN_TOLERANCE
from components.metrics import Scored
from components.report import HEADLINES, Headline, SelectedOn
from components.stage import run_stage
from components.storage import write_atomically
from components.task import Kind


@dataclass(frozen=True)
class GateResult:
    """One gate's verdict.

    Attributes:
        value, threshold: what was measured and what it was held against; None where there was nothing to measure.
        low, high: ends of the value's 95 % interval, where it has one.
        message: one line for people, with the distance from the threshold.
    """

    name: str
    passed: bool
    value: float | None
    threshold: float
    low: float | None
    high: float | None
    message: str


@dataclass(frozen=True)
class Verdict:
    """What all gates said about one candidate."""

    candidate_version: str
    champion_version: str | None
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def failures(self) -> tuple[GateResult, ...]:
        return tuple(gate for gate in self.gates if not gate.passed)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the gates judge by: answers of both systems on the same held-out clips, and the golden requests.

    Attributes:
        champion: None when nothing has been released yet, or when the champion cannot be compared.
        golden_error: largest distance between a golden answer and what the freshly loaded bundle answers.
        kind, champion_kind: of the tasks; a champion of another kind cannot be compared.
        selected_on: the part whose figures chose the candidate's epoch.
    """

    candidate: Scored
    candidate_version: str
    champion: Scored | None
    champion_version: str | None
    golden_error: float
    kind: Kind = "classes"
    champion_kind: Kind = "classes"
    selected_on: SelectedOn = "validation"

    @property
    def headline(self) -> Headline:
        """The figure that systems of this kind are judged by."""
        return HEADLINES[self.kind]


class Gate(Protocol):
    """One condition of release."""

    @property
    def name(self) -> str: ...

    def judge(self, evidence: Evidence) -> GateResult: ...


@dataclass(frozen=True)
class HeadlineFloor:
    """The headline figure on held-out speakers, such as the macro-F1 of classes, reaches a floor.

    A figure on clips that the epoch was chosen on is none on held-out speakers, and never passes.
    """

    floor: float
    num_resamples: int
    kind: Kind = "classes"

    @property
    def name(self) -> str:
        return f"{HEADLINES[self.kind].name}_floor"

    def judge(self, evidence: Evidence) -> GateResult:
        assert evidence.kind == self.kind
        headline = evidence.headline
        figure = metrics.bootstrap_by_speaker(
            evidence.candidate, metric=headline.metric, num_resamples=self.num_resamples
        )
        passed = figure.value >= self.floor
        distance = abs(figure.value - self.floor)
        side = "above" if passed else "below"
        message = f"{headline.words} {figure} is {distance:.3f} {side} the floor of {self.floor:.3f}"
        if evidence.selected_on == "test":
            passed = False
            message += "; but the epoch was chosen on these clips: train with finetune.select_on_test=false"
        return GateResult(self.name, passed, figure.value, self.floor, figure.low, figure.high, message)


@dataclass(frozen=True)
class NotWorseThanChampion:
    """The interval of candidate - champion does not reach below the loss that is allowed."""

    max_loss: float
    num_resamples: int
    name: str = "not_worse_than_champion"

    def judge(self, evidence: Evidence) -> GateResult:
        threshold = -self.max_loss
        if evidence.champion is None:
            message = "there is no champion to beat: this is the first release"
            if evidence.champion_version is not None:
                message = f"the champion (version {evidence.champion_version}) knows none of these labels"
            if evidence.champion_version is not None and evidence.champion_kind != evidence.kind:
                message = (
                    f"the champion (version {evidence.champion_version}) answers {evidence.champion_kind}, "
                    f"this one {evidence.kind}: they cannot be compared"
                )
            return GateResult(self.name, True, None, threshold, None, None, message)
        if evidence.candidate_version == evidence.champion_version:
            message = f"candidate and champion are identical (version {evidence.champion_version})"
            return GateResult(self.name, True, 0.0, threshold, 0.0, 0.0, message)
        headline = evidence.headline
        figure = metrics.paired_bootstrap(
            evidence.candidate, evidence.champion, metric=headline.metric, num_resamples=self.num_resamples
        )
        passed = figure.low >= threshold
        reach = f"the low end is {abs(figure.low - threshold):.3f} {'above' if passed else 'below'} {threshold:+.3f}"
        ends = f"[{figure.low:+.3f}, {figure.high:+.3f}]"
        message = f"{headline.words} against the champion {figure.value:+.3f} {ends}: {reach}"
        if len(set(evidence.candidate.speaker_ids)) == 1:
            message += "; one test speaker only, so this says nothing about others"
        return GateResult(self.name, passed, figure.value, threshold, figure.low, figure.high, message)


@dataclass(frozen=True)
class GoldenReproduced:
    """The bundle, loaded from its files, answers its golden requests as it did when it was made."""

    tolerance: float = GOLDEN_TOLERANCE
    name: str = "golden_reproduced"

    def judge(self, evidence: Evidence) -> GateResult:
        error = evidence.golden_error
        passed = error <= self.tolerance
        what = "values, in lengths of the scale," if evidence.kind == "values" else "probabilities"
        message = f"golden {what} differ by at most {error:.1e}, allowed {self.tolerance:.1e}"
        if not passed:
            message += f": {error - self.tolerance:.1e} too much"
        return GateResult(self.name, passed, error, self.tolerance, None, None, message)


def gates_of(settings: params.Gates, kind: Kind = "classes") -> tuple[Gate, ...]:
    """The gates of a run, as its parameters set them for a task of this kind."""
    floors: dict[Kind, float] = {
        "classes": settings.min_macro_f1,
        "multilabel": settings.min_mean_weighted_accuracy,
        "values": settings.min_mean_ccc,
    }
    return (
        HeadlineFloor(floors[kind], settings.num_resamples, kind),
        NotWorseThanChampion(settings.max_champion_loss, settings.num_resamples),
        GoldenReproduced(),
    )


def judge(gates: Sequence[Gate], evidence: Evidence) -> Verdict:
    """Let every gate judge, also after one has failed: whoever reads it wants to know all that is wrong."""
    results = tuple(gate.judge(evidence) for gate in gates)
    return Verdict(evidence.candidate_version, evidence.champion_version, results)


def gather(bundle_folder: Path, champion_folder: Path | None, *, build: Path = Path("build")) -> Evidence:
    """Collect what the gates judge by: both bundles, loaded from their files, in front of the same test clips.

    Raises:
        ValueError: a bundle is damaged or not complete.
        FileNotFoundError: a stage before has not run.
    """
    # torch takes seconds to import, and the release log reads this module's dataclasses.
    from components import bundle, evaluate

    candidate = bundle.load(bundle_folder)
    outcomes = evaluate.score_bundle(candidate, build=build).outcomes
    champion = bundle.load(champion_folder) if champion_folder else None
    rescored = None
    if champion is not None:
        with contextlib.suppress(evaluate.NoSharedLabels):
            same = champion.version == candidate.version
            rescored = outcomes if same else evaluate.score_bundle(champion, build=build).outcomes
    return Evidence(
        candidate=outcomes,
        candidate_version=candidate.version,
        champion=rescored,
        champion_version=champion.version if champion else None,
        golden_error=candidate.golden_error(),
        kind=candidate.task.kind,
        champion_kind=champion.task.kind if champion else candidate.task.kind,
        selected_on=report.read(build / "evaluation" / report.FILE).selected_on,
    )


def to_json(verdict: Verdict) -> str:
    """The verdict as `gates.json` holds it."""
    return json.dumps({"passed": verdict.passed, **asdict(verdict)}, indent=2) + "\n"


def read_verdict(path: Path) -> Verdict:
    """Read `gates.json`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return TypeAdapter(Verdict).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no verdict of the gates: run `python -m components.gates` again") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge a bundle and write the verdict."""
    parser = argparse.ArgumentParser(prog="python -m components.gates", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="the candidate")
    parser.add_argument("--champion", default="none", help="folder of the champion's bundle, or none")
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder of the stages' outputs")
    parser.add_argument("--output", type=Path, default=Path("build/gates.json"))
    asked = parser.parse_args(arguments)
    champion = None if asked.champion == "none" else Path(asked.champion)
    settings = params.load_params(asked.build / "params.yaml").gates
    evidence = gather(asked.bundle, champion, build=asked.build)
    verdict = judge(gates_of(settings, evidence.kind), evidence)
    write_atomically(asked.output, to_json(verdict).encode())
    for result in verdict.gates:
        print(f"{'passed' if result.passed else 'FAILED'}  {result.name}: {result.message}")


if __name__ == "__main__":
    run_stage(main)
