"""The work behind a study, each piece once: what several runs share is a job that all of them wait for.

Two runs share a stage when the stage, its parameters and everything before it are equal; `dvc.yaml` says which
parameters and which outputs a stage depends on. The job brings the stage up to date in the workspace of the first of
them, and the others get it from the DVC cache that all workspaces share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from components.params import PARAMS_FILE, resolve
from components.study import StudyRun

# What a run leaves behind; told here, so that whoever looks for it needs nothing that makes it.
_FIGURES = Path("build/evaluation/predictions.parquet")
_RIDGE_FIGURES = Path("build/ridge/predictions.parquet")

_ORDER = ("ingest", "features", "pretrain", "finetune", "evaluate")
RIDGE = "ridge"


@dataclass(frozen=True)
class Job:
    """A command in the workspace of one run.

    Attributes:
        key: tells it from others; equal work has equal keys.
        stage: the DVC stage that is brought up to date with all before it, or `ridge`.
        run: name of the run whose workspace it works in.
        waits_for: keys of the jobs that must end well before.
        runs: names of all runs that need it.
    """

    key: str
    stage: str
    run: str
    waits_for: tuple[str, ...]
    runs: tuple[str, ...]


def read_pipeline(path: Path) -> dict[str, Any]:
    """The stages of a `dvc.yaml`."""
    stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return stages


def figures_of(run: StudyRun, workspace: Path) -> Path:
    """The file with a run's answers to the test part, which is there when the run is done."""
    return workspace / (_RIDGE_FIGURES if run.condition.learner == RIDGE else _FIGURES)


def jobs_of(runs: Sequence[StudyRun], pipeline: Mapping[str, Any]) -> list[Job]:
    """The jobs that bring these runs to their figures, each behind those that it waits for."""
    chains = {run.name: _chain(run, pipeline) for run in runs}
    sharing: dict[str, list[str]] = {}
    for run in runs:
        for _, key in chains[run.name]:
            sharing.setdefault(key, []).append(run.name)
    found: dict[str, Job] = {}
    for run in runs:
        chain = chains[run.name]
        before: tuple[str, ...] = ()
        for (stage, key), following in zip(chain, [*chain[1:], None], strict=True):
            # A stage whose runs all need the next one too is part of that one's job.
            if following is not None and sharing[following[1]] == sharing[key]:
                continue
            if key not in found:
                found[key] = Job(key, stage, sharing[key][0], before, tuple(sharing[key]))
            before = (key,)
    return list(found.values())


def _chain(run: StudyRun, pipeline: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The stages of a run with the keys of their work."""
    settings = resolve(run.choices)
    keys: dict[str, str] = {}
    is_ridge = run.condition.learner == RIDGE
    for stage in _ORDER[:2] if is_ridge else _ORDER:
        keys[stage] = _key(stage, pipeline, settings, keys)
    if is_ridge:
        # What ridge does is told by its features, the seed of the draw and the share of the labels.
        keys[RIDGE] = _digest([RIDGE, keys["features"], run.seed, run.condition.label_share])
    return list(keys.items())


def _key(stage: str, pipeline: Mapping[str, Any], settings: BaseModel, keys: Mapping[str, str]) -> str:
    places = {out: name for name in keys for out in pipeline[name]["outs"]}
    needs = [keys[places[dep]] for dep in pipeline[stage]["deps"] if dep in places]
    names = [name for entry in pipeline[stage].get("params", []) for name in entry[str(PARAMS_FILE)]]
    return _digest([stage, needs, {name: _value(settings, name) for name in names}])


def _value(settings: BaseModel, name: str) -> object:
    value: object = settings.model_dump(mode="json")
    for part in name.split("."):
        assert isinstance(value, dict), f"dvc.yaml names {name}, which the parameters do not have"
        value = value[part]
    return value


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
