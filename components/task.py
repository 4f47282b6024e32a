"""What a model is asked to tell about a clip, and the two files that carry it from stage to stage."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

Kind = Literal["classes", "multilabel", "values"]

FILE: Final = "task.json"
LABELS_FILE: Final = "labels.json"


@dataclass(frozen=True)
class Task:
    """What a model is asked to tell about a clip. An invalid one cannot be built.

    Attributes:
        kind: one class of several (a clip's labels are shares), any of several labels (annotated intensities), or
            values on a scale.
        labels: the names, in the order of the model's outputs.
        name: of the label set within its corpus.
        source: where the labels come from, in words, for reports.
        threshold: multilabel: a label is present when its annotated value exceeds this.
        scale: values: the ends of the scale.

    Raises:
        ValueError: a label is missing, empty or there twice, or the scale does not fit the kind.
    """

    kind: Kind
    labels: tuple[str, ...]
    name: str = "emotion"
    source: str = ""
    threshold: float = 0.0
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"task {self.name}: kind {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if not self.labels or not all(self.labels) or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"task {self.name}: labels {self.labels!r} must be names, each there once")
        if (self.kind == "values") != (self.scale is not None):
            raise ValueError(f"task {self.name}: a scale is needed for kind values, and for no other")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError(f"task {self.name}: scale {self.scale} must be two numbers, the lower first")
        if not math.isfinite(self.threshold):
            raise ValueError(f"task {self.name}: threshold {self.threshold} is no number to compare with")

    def row(self, labels: Mapping[str, float]) -> tuple[float, ...]:
        """A clip's labels in the order of the outputs, as shards keep them: what is not known is NaN.

        A class that a labelled clip does not name has no share of it; a value or an intensity that it does not
        name was not annotated.
        """
        unnamed = 0.0 if self.kind == "classes" and labels else math.nan
        return tuple(labels.get(name, unnamed) for name in self.labels)

    def present(self, labels: Mapping[str, float]) -> set[str]:
        """What is there to be recognised in a clip: its main class, or the labels over the threshold.

        Of equally large shares the first by name counts. Values have no such names.
        """
        known = {name: value for name, value in labels.items() if name in self.labels}
        if self.kind == "values" or not known:
            return set()
        if self.kind == "multilabel":
            return {name for name, value in known.items() if value > self.threshold}
        return {min(known, key=lambda name: (-known[name], name))}


def choose(tasks: Mapping[str, Task], name: str | None, *, corpus: str) -> Task:
    """The named task of a corpus, or its first.

    Raises:
        ValueError: there is no such task, or no task at all.
    """
    if not tasks:
        raise ValueError(f"corpus {corpus} has no labels: use it as pretrain_on, and fine-tune on another")
    if name is None:
        return next(iter(tasks.values()))
    if name not in tasks:
        nearest = difflib.get_close_matches(name, tasks, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"corpus {corpus} has no task {name!r}{hint} There are: {', '.join(tasks)}")
    return tasks[name]


def write(folder: Path, task: Task) -> None:
    """Write `task.json` and `labels.json` into a folder that is not handed on yet."""
    values = {
        "kind": task.kind,
        "name": task.name,
        "source": task.source,
        "threshold": task.threshold,
        "scale": task.scale,
    }
    (folder / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / LABELS_FILE).write_text(json.dumps(task.labels) + "\n", encoding="utf-8")


def read(folder: Path) -> Task:
    """The task that a folder's labels belong to; a folder without `task.json` asks for classes.

    Raises:
        FileNotFoundError: there is no `labels.json`.
        ValueError: one of the files is damaged.
    """
    path = folder / LABELS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the stage again that writes {folder}")
    labels = _parse(path)
    values: Any = _parse(folder / FILE) if (folder / FILE).exists() else {"kind": "classes"}
    try:
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("labels.json is no list of names")
        values["labels"] = tuple(labels)
        if values.get("scale") is not None:
            low, high = values["scale"]
            values["scale"] = (float(low), float(high))
        return Task(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: no task can be read ({error}): run the stage again that writes it") from error


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): run the stage again that writes it") from error
