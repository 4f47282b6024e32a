"""Where reports are opened: below the address of the Prefect UI, so that its links work wherever that is reached."""

from __future__ import annotations

import re
from typing import Final

PREFIX: Final = "/reports/"
_RUN: Final = re.compile(r"runs/([0-9a-f-]{36})")
_STUDY: Final = re.compile(r"studies/([0-9a-f]+)")


def of_run(run_id: str) -> str:
    """Address of a run's report, without the host."""
    return f"{PREFIX}runs/{run_id}"


def of_study(digest: str) -> str:
    """Address of a study's report, without the host."""
    return f"{PREFIX}studies/{digest}"


def file_of_run(run_id: str) -> str:
    """Name of a run's report in the store."""
    return f"runs/{run_id}.html"


def file_of(path: str) -> str | None:
    """Name in the store of what an address shows; None for an address of nothing."""
    name = path.removeprefix(PREFIX)
    if run := _RUN.fullmatch(name):
        return file_of_run(run[1])
    if study := _STUDY.fullmatch(name):
        return f"studies/{study[1]}/report.html"
    return None
