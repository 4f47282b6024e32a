"""The README against the project: its file map, its commands, its settings."""

from __future__ import annotations

import re
import subprocess

import click
import pytest
import typer

from components.settings import Settings
from flows.cli import app
from flows.stages import STAGES
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = typer.main.get_command(app)


def _shell_lines() -> list[str]:
    return [
        line.split("#")[0].strip()
        for language, block in BLOCKS
        if language == "sh"
        for line in block.splitlines()
        if line.split("#")[0].strip()
    ]


def test_file_map_names_what_exists() -> None:
    [tree] = [block for language, block in BLOCKS if not language and "components/" in block]
    folder = REPOSITORY
    named = set()
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = REPOSITORY / name
            named.add(name.rstrip("/"))
            assert folder.exists(), name
        else:
            assert (folder / name).exists(), f"{folder.name}/{name}"
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    tops = {name.split("/")[0] for name in listed.splitlines() if not name.startswith(".")}
    known_by_convention = {"README.md", "LICENSE", "CHANGELOG.md"}
    assert tops - known_by_convention <= named, "give every top-level file its line in the README's map"


def _affect_lines() -> list[str]:
    inline = re.findall(r"`(affect [^`]+)`", TEXT)
    return [line for line in [*_shell_lines(), *inline] if line.startswith("affect ")]


@pytest.mark.parametrize("line", _affect_lines())
def test_affect_commands_exist_with_their_options(line: str) -> None:
    assert isinstance(COMMANDS, click.Group) or hasattr(COMMANDS, "commands")
    name, *arguments = line.split()[1:]
    command = COMMANDS.commands[name]
    if hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    for argument in arguments:
        if argument.startswith("--"):
            assert argument in options, f"affect {name} has no {argument}"


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in {line.split()[1] for line in _shell_lines() if line.startswith("make ")}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_variables_are_settings() -> None:
    known = {f"AFFECT_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"AFFECT_[A-Z]+(?:_[A-Z]+)*", TEXT))
    assert named <= known
    internal = {f"AFFECT_{name}" for name in ("HOST", "PARENT_PID", "COMMIT", "SHARE_FRAMES", "SHARE_INSPECTIONS")}
    assert known - named <= internal


def test_stages_are_listed_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert [row for row in rows if row in STAGES] == list(STAGES)


def test_continuous_integration_calls_the_test_command() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert script[-3:] == ["make test", "make test-long", "make test-machines"]
