"""The endpoint's list of API keys on this machine: what `affect keys` does to it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from components.settings import Settings
from serving import keys
from serving.keys import Key

_PLATFORM_PER_MINUTE: Final = 6_000


def add(name: str, per_minute: int, here: Settings) -> tuple[str, str]:
    """Make a key; the key itself, which is nowhere else, and the line that was kept of it.

    With the first key the platform gets one too, for it asks its own endpoint.

    Raises:
        ValueError: the name is taken or cannot be used, or the list comes from a secret.
    """
    with _changing(here):
        listed = list(keys.read(here.api_keys_file))
        if name in {key.name for key in listed} | {keys.PLATFORM}:
            raise ValueError(f"name {name}: there is such a key; remove it first with `affect keys remove {name}`")
        made, kept = keys.new_key(name, per_minute=per_minute)
        if keys.PLATFORM not in {key.name for key in listed}:
            own, own_kept = keys.new_key(keys.PLATFORM, per_minute=_PLATFORM_PER_MINUTE)
            keys.write_private(keys.platform_key_file(here), f"{own}\n")
            listed.append(own_kept)
        keys.write(here.api_keys_file, [*listed, kept])
    return made, keys.to_text([kept]).strip()


def listed(here: Settings) -> tuple[Key, ...]:
    """The keys that the endpoint takes.

    Raises:
        ValueError: the list is damaged.
    """
    if here.api_keys:
        return keys.parse(here.api_keys, source="AFFECT_API_KEYS")
    return keys.read(here.api_keys_file)


def remove(name: str, here: Settings) -> None:
    """Take a key from the list.

    Raises:
        ValueError: there is none of that name, or the list comes from a secret.
    """
    with _changing(here):
        listed = keys.read(here.api_keys_file)
        rest = [key for key in listed if key.name != name]
        if len(rest) == len(listed):
            known = ", ".join(key.name for key in listed) or "none"
            raise ValueError(f"name {name}: there is no such key; there are: {known}")
        keys.write(here.api_keys_file, rest)


@contextmanager
def _changing(here: Settings) -> Iterator[None]:
    """One at a time, so that no key is lost between two commands."""
    if here.api_keys:
        raise ValueError("AFFECT_API_KEYS is set, and the endpoint reads that: change it there, or unset it")
    here.api_keys_file.parent.mkdir(parents=True, exist_ok=True)
    with here.api_keys_file.with_name(f"{here.api_keys_file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
