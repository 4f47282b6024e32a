"""Where a model comes from: the commit of the code, and the versions of the data."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

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


def data_versions(folder: Path) -> dict[str, str]:
    """md5 of the data that a run's folder was built from, as DVC's lock file has it."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {
        out["path"]: out["md5"] for stage in ("ingest", "features") for out in stages.get(stage, {}).get("outs", [])
    }
