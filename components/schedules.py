"""When flows start by themselves: the section `schedules` of params.yaml."""

from __future__ import annotations

import zoneinfo
from pathlib import Path

from pydantic import Field, field_validator

from components.params import CHOICES_FILE, SCHEDULES, read_yaml
from components.sections import Section, parse


class Schedules(Section):
    """A cron line for each flow that starts by itself; null for one that does not."""

    enabled: bool = Field(False, description="Start runs by these schedules; else only people do.")
    timezone: str = Field("UTC", description="Name of the time zone in which the lines are meant, as Europe/Berlin.")
    retrain: str | None = Field("0 4 * * 1", description="Once a week.")
    ingest: str | None = Field("0 2 * * *", description="Every night: only what is new is inspected.")

    monitor: str | None = Field("10 * * * *", description="Every hour: the last requests beside the training part.")

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in zoneinfo.available_timezones():
            raise ValueError("there is no such time zone: name one as Europe/Berlin")
        return name

    @field_validator("retrain", "ingest", "monitor")
    @classmethod
    def _is_cron(cls, line: str | None) -> str | None:
        if line is not None and len(line.split()) != _NUM_FIELDS:
            raise ValueError("write five fields, as 0 4 * * 1 (minute, hour, day, month, day of the week)")
        return line


_NUM_FIELDS = 5


def load_schedules(path: Path = CHOICES_FILE) -> Schedules:
    """Read the schedules of `params.yaml`; what it does not say is the default.

    Raises:
        ValueError: a key or value is wrong.
    """
    values = read_yaml(path) if path.exists() else {}
    return parse(Schedules, values.get(SCHEDULES) or {}, source=f"{path}: {SCHEDULES}")
