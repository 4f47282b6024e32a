"""A platform of the tests' own: real servers on free ports, its state in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from components.settings import Settings
from flows.processes import free_ports, marked
from tests.conftest import REPOSITORY

BIN = Path(sys.executable).parent

# The whole pipeline in about a minute, with enough steps of pre-training to be interrupted again and again.
SMALL = (
    # So many that training has speakers enough to tell how much they differ, which drift is held against.
    "synthetic.num_speakers=8",
    "synthetic.num_labelled=48",
    "synthetic.num_unlabelled=72",
    "features.clips_per_shard=16",
    "model.width=32",
    "pretrain.num_epochs=20",
    "pretrain.batch_size=8",
    "pretrain.checkpoint_every_steps=10",
    "finetune.num_epochs=2",
    "finetune.batch_size=8",
    "finetune.num_workers=1",
    # Such a model is hardly better than chance: what gates say of it is tested elsewhere.
    "gates.min_macro_f1=0",
    "gates.min_modality_share=-1",
    "gates.max_slice_loss=1",
    "gates.max_slice_gap=1",
    "gates.max_noise_loss=1",
    "gates.max_gain_loss=1",
    "gates.max_dropped_frames_loss=1",
    "gates.max_calibration_error=1",
    "gates.max_latency_s=60",
)


@dataclass(frozen=True)
class Platform:
    """One home folder, its ports and further variables, and the `affect` command on them."""

    home: Path
    ports: dict[str, int]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ports = {f"AFFECT_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        home = {"AFFECT_HOME": str(self.home), "PATH": f"{BIN}:{os.environ['PATH']}"}
        return {**os.environ, **ports, **home, **self.variables}

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(
            {"home": self.home, **{f"{name}_port": port for name, port in self.ports.items()}}
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['serve']}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `affect ARGUMENTS` and do not wait for it."""
        return subprocess.Popen(
            [str(BIN / "affect"), *arguments],
            env=self.environment,
            cwd=self.home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def affect(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `affect ARGUMENTS` and check its exit status."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=900)
        assert process.returncode == status, f"affect {' '.join(arguments)}: {output}\n{errors}"
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def json(self, *arguments: str, status: int = 0) -> Any:
        """What `affect ARGUMENTS --json` prints."""
        return json.loads(self.affect(*arguments, "--json", status=status).stdout)

    def processes(self, words: str = "") -> list[psutil.Process]:
        """Its living processes whose command line holds these words."""
        found = []
        for process in marked(Settings(home=self.home)):
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def new_platform(home: Path, variables: Mapping[str, str] | None = None) -> Platform:
    """A platform that is not started yet."""
    ports = free_ports(4, "127.0.0.1")
    return Platform(home, dict(zip(("prefect", "ray", "dashboard", "serve"), ports, strict=True)), variables or {})


def settings(*assignments: str) -> list[str]:
    """Arguments of `affect retrain` that set these settings."""
    return [argument for assignment in assignments for argument in ("--set", assignment)]


def checkout(folder: Path) -> Path:
    """A copy of the project's files as a git checkout of its own, with changes that are not committed yet."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, names):
        source = REPOSITORY / name
        if source.exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "checkout"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder
