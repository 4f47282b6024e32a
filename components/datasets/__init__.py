"""Corpora: one module each, and its name is its address.

A corpus turns its release on disk into clips (`read`), or plans and renders recordings of its own (`plan`,
`render`). Adding one is adding a module with `TASKS`, `PROTOCOLS` and `read`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from components import params, protocols
from components import task as tasks
from components.clip import Clip
from components.protocols import EvaluationProtocol
from components.task import Task


@dataclass(frozen=True)
class Refusal:
    """Something in a release that is no clip, and why: it ends in `rejected.parquet` beside the broken files."""

    uri: str
    reason: str
    detail: str


class DatasetModule(Protocol):
    """What every module of this folder offers.

    `TASKS` are what can be asked of its clips, by name, the first the default; empty when nothing is labelled, None
    when the data name the labels (kind `classes`). `PROTOCOLS` are the published ways to divide it. `SOURCE` says
    where to get it. `read` yields the clips of a release with the labels of one task, and what it refuses; a clip
    that the task knows nothing about, and with no task each clip, is unlabelled, except that without `TASKS` labels
    are as the data say. URIs are absolute, or relative to the working folder as `root` is.
    """

    TASKS: Mapping[str, Task] | None
    PROTOCOLS: Mapping[str, EvaluationProtocol]
    SOURCE: str

    def read(self, root: Path, task: Task | None) -> Iterator[Clip | Refusal]: ...


class RecordingPlan(Protocol):
    """A recording that is still to be made."""

    @property
    def clip_id(self) -> str: ...


@runtime_checkable
class GeneratedModule(Protocol):
    """What a corpus offers beside `DatasetModule` when its recordings are made, not found."""

    def plan(self, settings: params.Synthetic) -> Sequence[RecordingPlan]: ...

    def render(self, plan: RecordingPlan, folder: Path) -> Clip: ...


def names() -> list[str]:
    """Names of the corpora that come with the project."""
    return params.dataset_names()


def load(name: str) -> DatasetModule:
    """The module of a corpus.

    Raises:
        ValueError: there is no such corpus.
    """
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"unknown dataset {name!r}{hint} There are: {', '.join(names())}")
    return cast(DatasetModule, importlib.import_module(f"{__name__}.{name}"))


def task_of(corpus: params.Corpus) -> Task | None:
    """The task that is asked of a labelled corpus; None when its data name the labels.

    Raises:
        ValueError: there is no such corpus, it has no such task, or it is not labelled.
    """
    known = load(corpus.dataset).TASKS
    if known is not None:
        return tasks.choose(known, corpus.task, corpus=corpus.dataset)
    if corpus.task is not None:
        raise ValueError(f"corpus {corpus.dataset}: task {corpus.task!r}: its data name their labels, leave task empty")
    return None


def protocol_of(corpus: params.Corpus, settings: params.Ingest) -> EvaluationProtocol | None:
    """How a corpus is cut into folds; None when its speakers are divided once.

    Raises:
        ValueError: there is no such corpus or protocol, or two settings say it differently.
    """
    known = load(corpus.dataset).PROTOCOLS
    if settings.protocol is None and settings.num_folds is None:
        if settings.fold:
            raise ValueError(f"ingest.fold = {settings.fold} without folds: set ingest.protocol or ingest.num_folds")
        return None
    if settings.test_speakers:
        raise ValueError("ingest.test_speakers is set beside folds: leave one of the two out")
    if settings.protocol is None:
        assert settings.num_folds is not None
        return protocols.by_speaker(settings.num_folds, validation_share=settings.validation_share)
    if settings.num_folds is not None:
        raise ValueError("ingest.protocol has its own number of folds: leave ingest.num_folds empty")
    return protocols.choose(known, settings.protocol, corpus=corpus.dataset)
