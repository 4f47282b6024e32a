"""What a run has that the release did not which was live when it was judged: data, code, parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Of a run's own: where its corpus lies, and what was found there.
_PLACES = ("fingerprint", "root")


@dataclass(frozen=True)
class Change:
    """One thing that differs; empty where one side has none."""

    name: str
    before: str
    now: str


def of_params(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The parameters that differ, by their names as `--set` takes them."""
    return _of(dict(_flat(before)), dict(_flat(now)))


def of_data(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    """The md5 of what differs."""
    return _of(before, now)


def _of(before: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    names = sorted({*before, *now})
    return [
        Change(name, before.get(name, ""), now.get(name, "")) for name in names if before.get(name) != now.get(name)
    ]


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        elif key not in _PLACES:
            yield f"{path}{key}", value if isinstance(value, str) else json.dumps(value)
