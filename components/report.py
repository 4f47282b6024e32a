"""The figures of one evaluation, as `build/evaluation/metrics.json` holds them, by the kind of task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from components import metrics, metrics_multilabel, metrics_regression
from components.metrics import Interval, Metric
from components.task import Kind

FILE: Final = "metrics.json"

SelectedOn = Literal["validation", "test"]


@dataclass(frozen=True)
class Headline:
    """The figure that a kind of task is judged by: what gates hold against a floor and a champion.

    Attributes:
        name: its key among the figures.
        words: for people.
        constant: what always giving the same answer reaches; None where it depends on the labels.
    """

    name: str
    words: str
    metric: Metric
    constant: float | None = None


HEADLINES: Final[Mapping[Kind, Headline]] = {
    "classes": Headline("macro_f1", "macro-F1", metrics.macro_f1_of),
    "multilabel": Headline(
        "mean_weighted_accuracy", "mean weighted accuracy", metrics_multilabel.mean_weighted_accuracy_of, 0.5
    ),
    "values": Headline("mean_ccc", "mean CCC", metrics_regression.mean_ccc_of, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """What every report tells.

    Attributes:
        synthetic: the recordings were generated: the figures say nothing about people.
        subsets: the headline figure by what was left to the system, as "audio+text"; only modalities that the data has.
        selected_on: the part whose figures chose the epoch. "test" marks a report whose figures are too good.
        task, label_source: which labels of the corpus, and where they come from, in words.
    """

    dataset: str
    synthetic: bool
    num_clips: int
    num_speakers: int
    subsets: Mapping[str, float]
    selected_on: SelectedOn = "validation"
    task: str = "emotion"
    label_source: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class ClassReport(_Evaluation):
    """What a classifier reaches on speakers that it has never met.

    Attributes:
        macro_f1, ua, wa: with their 95 % intervals over speakers; unweighted accuracy is the mean recall.
        per_class_f1: by label.
        calibration_error: expected calibration error in 15 bins.
        majority_macro_f1, majority_wa: what always answering the most frequent label would reach.
    """

    macro_f1: Interval
    ua: Interval
    wa: Interval
    per_class_f1: Mapping[str, float]
    calibration_error: float
    majority_macro_f1: float
    majority_wa: float
    kind: Literal["classes"] = "classes"
    headline: str = "macro_f1"

    @property
    def figures(self) -> Mapping[str, Interval]:
        return {"macro_f1": self.macro_f1, "ua": self.ua, "wa": self.wa}


@dataclass(frozen=True, kw_only=True)
class LabelReport(_Evaluation):
    """What a system of several labels, or of values, reaches on speakers that it has never met.

    Attributes:
        headline: the name among `figures` of the one that it is judged by.
        figures: over all labels, each defined in `metrics_multilabel` or `metrics_regression`, with 95 % intervals.
        by_label: the same label by label; a figure that the clips do not allow is not there.
        constant: what always giving the most frequent answer, or the mean value, would reach.
        thresholds: multilabel: the probability from which on a label counts as present, chosen on validation clips.
        scale: values: its ends.
    """

    kind: Literal["multilabel", "values"]
    headline: str
    figures: Mapping[str, Interval]
    by_label: Mapping[str, Mapping[str, Interval]]
    constant: Mapping[str, float]
    thresholds: Mapping[str, float] | None = None
    scale: tuple[float, float] | None = None


def _family(value: Any) -> str:
    """Which of the two a document is; reports from before there were kinds are of classes."""
    kind = value.get("kind", "classes") if isinstance(value, Mapping) else getattr(value, "kind", "classes")
    return "classes" if kind == "classes" else "labels"


Report = Annotated[
    Annotated[ClassReport, Tag("classes")] | Annotated[LabelReport, Tag("labels")], Discriminator(_family)
]
_REPORT: Final[TypeAdapter[ClassReport | LabelReport]] = TypeAdapter(Report)


def read(path: Path) -> ClassReport | LabelReport:
    """Read `metrics.json`.

    Raises:
        FileNotFoundError: the evaluation has not run.
        ValueError: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the evaluation first (`dvc repro evaluate`)")
    try:
        return _REPORT.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} holds no figures of an evaluation: run it again (`dvc repro evaluate`)") from error
