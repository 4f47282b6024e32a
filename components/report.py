"""The figures of one evaluation, as `build/evaluation/metrics.json` holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from components.metrics import Interval

FILE: Final = "metrics.json"


@dataclass(frozen=True)
class Report:
    """What a system reaches on speakers that it has never met.

    Attributes:
        synthetic: the recordings were generated: the figures say nothing about people.
        macro_f1, ua, wa: with their 95 % intervals over speakers; unweighted accuracy is the mean recall.
        per_class_f1: by label.
        calibration_error: expected calibration error in 15 bins.
        majority_macro_f1, majority_wa: what always answering the most frequent label would reach.
        subsets: macro-F1 by what was left to the system, as "audio+text"; only modalities that the data has.
    """

    dataset: str
    synthetic: bool
    num_clips: int
    num_speakers: int
    macro_f1: Interval
    ua: Interval
    wa: Interval
    per_class_f1: Mapping[str, float]
    calibration_error: float
    majority_macro_f1: float
    majority_wa: float
    subsets: Mapping[str, float]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Report:
    """Read `metrics.json`.

    Raises:
        FileNotFoundError: the evaluation has not run.
        ValueError: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the evaluation first (`dvc repro evaluate`)")
    try:
        return TypeAdapter(Report).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} holds no figures of an evaluation: run it again (`dvc repro evaluate`)") from error
