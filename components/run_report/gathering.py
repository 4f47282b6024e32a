"""What a run's report tells of: its record, and what its stages left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components import params, report
from components.drawing import Curve, read_curve
from components.params import Params
from components.registry import Release
from components.report import ClassReport, LabelReport
from components.run_record import RunRecord, data_versions
from components.run_report.answers import StoredAnswers
from components.run_report.answers import read as read_answers

# A run that only judges what another has built has no stages of its own.
_ALL = frozenset({"pretrain", "finetune", "evaluate"})


@dataclass(frozen=True, eq=False)
class Run:
    """What a report tells of: the run's record, and what its stages left; None where one was not reached.

    Attributes:
        build: the folder of the stages' outputs.
        champion: what was live when it was judged; None before the first release.
        data: md5 by name.
        curves: of the trainings, by stage.
    """

    record: RunRecord
    champion: Release | None
    build: Path
    params: Params | None
    data: dict[str, str]
    curves: dict[str, Curve]
    figures: ClassReport | LabelReport | None
    answers: StoredAnswers | None


def gather(record: RunRecord, champion: Release | None, build: Path) -> Run:
    """Read what the stages of a run left below `build`.

    What a stage left that this run did not reach is of another run, and is not read.

    Raises:
        ValueError: a file is damaged.
    """
    done = {each.stage for each in record.stages} or _ALL
    curves = {
        stage: curve
        for stage in ("pretrain", "finetune")
        if stage in done and (build / stage / "losses.csv").exists()
        if (curve := read_curve(build / stage / "losses.csv")) is not None
    }
    is_evaluated = "evaluate" in done and (build / "evaluation" / report.FILE).exists()
    return Run(
        record,
        champion,
        build,
        params.load_params(build / "params.yaml") if (build / "params.yaml").exists() else None,
        data_versions(build.parent),
        curves,
        report.read(build / "evaluation" / report.FILE) if is_evaluated else None,
        read_answers(build) if is_evaluated else None,
    )
