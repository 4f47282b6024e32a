"""What became of one run, as the store keeps it: `flows.records` writes it, the command line and the report read it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from components.gates import GateResult

StageOutcome = Literal["ran", "restored", "unchanged"]
Outcome = Literal["running", "promoted", "unchanged", "failed"]


@dataclass(frozen=True)
class StageResult:
    """What became of one stage, and what it used.

    Attributes:
        cpu_s: of the processes that did the work, on Ray too; 0 where nothing had to be done.
        gpu_s: for which GPUs were held.
    """

    stage: str
    outcome: StageOutcome
    duration_s: float
    cpu_s: float = 0.0
    gpu_s: float = 0.0


@dataclass(frozen=True)
class RunRecord:
    """One run of the `retrain` flow.

    Attributes:
        run_id: the Prefect flow run.
        digest: name of the run's parameters, data and code.
        folder: the run's workspace.
        outcome: `unchanged` when the model is the one that is live already.
        checks: what is no stage of DVC: the bundle in a server of its own, and the gates.
        release: number of the release that is live afterwards.
        champion: number of the release that it was judged against; None before the first.
        commit: of the code, with `+` behind it where files differed.
        error: why it failed, on one line.
        report: address of its page, below that of the Prefect UI.
    """

    run_id: str
    digest: str
    folder: str
    started_at: str
    outcome: Outcome = "running"
    stages: tuple[StageResult, ...] = ()
    checks: tuple[StageResult, ...] = ()
    gates: tuple[GateResult, ...] = ()
    release: int | None = None
    champion: int | None = None
    commit: str = ""
    error: str = ""
    ended_at: str = ""
    report: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def parse(content: bytes) -> RunRecord:
    """Read what `RunRecord.to_json` wrote.

    Raises:
        ValueError: the record is damaged.
    """
    try:
        return TypeAdapter(RunRecord).validate_json(content)
    except ValidationError as error:
        raise ValueError(f"no record of a run: {error.errors()[0]['msg']}") from error


def data_versions(folder: Path) -> dict[str, str]:
    """md5 by name of the data in a run's folder, as DVC's lock file has it; empty before the first stage.

    Raises:
        ValueError: the lock file is damaged.
    """
    path = folder / "dvc.lock"
    if not path.exists():
        return {}
    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        found = [out for stage in ("ingest", "features") for out in stages.get(stage, {}).get("outs", [])]
        return {out["path"]: out["md5"] for out in found}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: run `dvc repro` in its folder") from error
