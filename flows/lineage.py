"""Where a model comes from: the commit of the code."""

from __future__ import annotations

import subprocess

from components.settings import PROJECT_ROOT, Settings


def code_commit(settings: Settings) -> str:
    """Commit of the project's code, with `+` behind it when files differ; from the settings where there is no git."""
    if settings.commit:
        return settings.commit
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()
