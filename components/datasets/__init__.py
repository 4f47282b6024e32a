"""Corpora: one module each, and its name is its address.

A corpus turns its release on disk into clips (`read`), or plans and renders recordings of its own (`plan`,
`render`). Adding one is adding a module with `LABELS` and `read`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from components import params
from components.clip import Clip


@dataclass(frozen=True)
class Refusal:
    """Something in a release that is no clip, and why: it ends in `rejected.parquet` beside the broken files."""

    uri: str
    reason: str
    detail: str


class DatasetModule(Protocol):
    """What every module of this folder offers.

    `LABELS` are the label names in their fixed order, or None when the data name them. `read` yields the clips
    of a release and what it refuses; URIs are absolute, or relative to the working folder as `root` is.
    """

    LABELS: tuple[str, ...] | None

    def read(self, root: Path) -> Iterator[Clip | Refusal]: ...


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
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


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
