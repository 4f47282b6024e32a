"""Who makes a release at this moment: for each number of the log one, and everybody else is told who.

A claim is a file made by exclusive create before the endpoint is touched, and removed when the release is made or
given up. One that outlived its holder counts for nothing after a while: the next attempt is a file of its own, so
that nobody has to remove what another may just have made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import TypeAdapter

from components.registry import ReleaseConflict
from components.storage import AlreadyExists, Storage

# Longer than a swap and its way back may take.
LIFETIME: Final = timedelta(minutes=10)

_FOLDER: Final = "claims"


@dataclass(frozen=True)
class _Claim:
    holder: str
    taken_at: datetime


@contextmanager
def claimed(storage: Storage, number: int, *, holder: str, lifetime: timedelta = LIFETIME) -> Iterator[None]:
    """Hold the right to make release `number` for as long as the block takes.

    Args:
        holder: who it is, in words for whoever is refused meanwhile.

    Raises:
        ReleaseConflict: somebody else holds it.
    """
    name = _take(storage, number, holder, lifetime)
    try:
        yield
    finally:
        storage.remove(name)


def forget(storage: Storage) -> None:
    """Remove all claims: for whoever knows that nobody who made one still lives."""
    storage.remove(_FOLDER)


def _take(storage: Storage, number: int, holder: str, lifetime: timedelta) -> str:
    claim = json.dumps({"holder": holder, "taken_at": datetime.now(UTC).isoformat()}).encode()
    attempt = 1
    while True:
        name = f"{_FOLDER}/{number:06d}-{attempt:03d}.json"
        try:
            storage.create(name, claim)
        except AlreadyExists as error:
            other = _read(storage, name)
            if other is None:
                continue  # It was given up in this instant.
            if datetime.now(UTC) - other.taken_at < lifetime:
                raise ReleaseConflict(
                    f"release {number} is being made by {other.holder} since {other.taken_at:%H:%M:%S} UTC: try again "
                    "when that has ended"
                ) from error
            attempt += 1
        else:
            return name


def _read(storage: Storage, name: str) -> _Claim | None:
    try:
        return TypeAdapter(_Claim).validate_json(storage.read(name))
    except FileNotFoundError:
        return None
