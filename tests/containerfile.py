"""infra/image/Containerfile as instructions, and the files of locked packages that it goes by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Instruction:
    """One instruction of a stage.

    Attributes:
        stage: its name; empty before the first.
        name: RUN, COPY, ...
        value: what follows, on one line.
    """

    stage: str
    name: str
    value: str


def instructions() -> list[Instruction]:
    """All of them, in order."""
    text = (REPOSITORY / "infra" / "image" / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Instruction] = []
    stage = ""
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, value = line.partition(" ")
        if name == "FROM":
            stage = value.split(" AS ")[1]
        found.append(Instruction(stage, name, value.strip()))
    return found


def locked(file: str) -> dict[NormalizedName, str]:
    """The version of each package that a file of the repository locks, whatever the condition.

    A line that locks none fails.
    """
    found = {}
    for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            [lock] = (wanted := Requirement(line)).specifier
            assert lock.operator in ("==", "==="), line
            found[canonicalize_name(wanted.name)] = lock.version
    return found
