"""dvc.yaml against the code: each stage names every module that it imports, since DVC does not follow imports."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.stages import STAGES
from tests.conftest import REPOSITORY

PIPELINE: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def _module_file(name: str) -> Path | None:
    path = REPOSITORY / Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _project_imports(path: Path) -> set[Path]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{name.name}" for name in node.names)]
        found |= {file for name in names if name.startswith("components") and (file := _module_file(name))}
    return found


def import_closure(module: str) -> set[Path]:
    """Files of the project that running a module reads, its own included."""
    start = _module_file(module)
    assert start is not None, module
    open_files, closure = [start], {start}
    while open_files:
        for file in _project_imports(open_files.pop()) - closure:
            closure.add(file)
            open_files.append(file)
    return {file for file in closure if file.read_text(encoding="utf-8").strip().count("\n") > 0}


def test_the_flow_runs_the_stages_of_the_pipeline_in_its_order() -> None:
    assert list(PIPELINE) == list(STAGES)


@pytest.mark.parametrize("stage", list(PIPELINE))
def test_dependencies_name_the_import_closure(stage: str) -> None:
    command = PIPELINE[stage]["cmd"].split()
    assert command[:2] == ["python", "-m"]
    named = [REPOSITORY / dep for dep in PIPELINE[stage]["deps"]]
    for file in import_closure(command[2]):
        covered = any(file == dep or dep in file.parents for dep in named)
        assert covered, f"stage {stage}: add {file.relative_to(REPOSITORY)} to its deps"


@pytest.mark.parametrize("stage", list(PIPELINE))
def test_code_dependencies_exist_and_are_needed(stage: str) -> None:
    closure = import_closure(PIPELINE[stage]["cmd"].split()[2])
    for dep in PIPELINE[stage]["deps"]:
        if not dep.startswith("components/"):
            continue
        path = REPOSITORY / dep
        assert path.exists(), f"stage {stage}: {dep} does not exist"
        if path.suffix == ".py":
            assert path in closure, f"stage {stage}: {dep} is not imported; a change of it would rebuild for nothing"
