"""How requests are watched for drift, and what follows: the section `monitor` of params.yaml."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from components.params import CHOICES_FILE, MONITOR, read_yaml
from components.sections import Section, parse


class Monitor(Section):
    """What is compared, from when on it counts as drift, and how often drift may start a training."""

    window_h: float = Field(24.0, gt=0, description="Hours of requests that are compared with the training part.")
    min_clips: int = Field(100, ge=20, description="With fewer clips in the window nothing is said.")
    max_clips: int = Field(5000, ge=100, description="Of more clips the newest are taken.")
    min_speakers: int = Field(
        4, ge=1, description="Different people that a window is of, at the least: fewer look like drift by themselves."
    )
    significance: float = Field(
        0.01, gt=0, lt=1, description="Chance of a false alarm that is accepted, over all tests of a window."
    )
    min_psi: float = Field(
        0.2, ge=0, description="Population stability index below which no shift counts, however certain it is."
    )
    max_dead_share: float = Field(
        0.2, gt=0, le=1, description="Share of silent sounds or pictures without a face, beyond training, that alerts."
    )
    cooldown_h: float = Field(24.0, ge=0, description="Hours after a training that drift started until the next one.")
    max_retrains_per_week: int = Field(3, ge=0, description="Trainings that drift may start within seven days.")
    keep_days: int = Field(30, ge=1, description="Days after which samples are removed.")


def load_monitor(path: Path = CHOICES_FILE) -> Monitor:
    """Read the section of `params.yaml`; what it does not say is the default.

    Raises:
        ValueError: a key or value is wrong.
    """
    values = read_yaml(path) if path.exists() else {}
    return parse(Monitor, values.get(MONITOR) or {}, source=f"{path}: {MONITOR}")
