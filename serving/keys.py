"""API keys: kept as hashes, compared in constant time, each with a rate of its own.

A list of keys is text, one key a line: its name, the SHA-256 of the key, and the requests a minute that it may make.
Keys are 256 random bits, so that a plain hash cannot be turned round. The list comes from a file, which is read
again when it changes, or from a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.settings import Settings
from components.storage import write_atomically

DEFAULT_PER_MINUTE: Final = 600
# What the platform itself calls its endpoint with; only its hash is in the list.
PLATFORM: Final = "platform"
_PREFIX: Final = "affect_"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PRIVATE: Final = 0o600


@dataclass(frozen=True)
class Key:
    """What is kept of a key.

    Attributes:
        name: who it was given to.
        digest: SHA-256 of it, in hexadecimal.
        per_minute: requests that it may make in a minute.
    """

    name: str
    digest: str
    per_minute: int


def new_key(name: str, *, per_minute: int = DEFAULT_PER_MINUTE) -> tuple[str, Key]:
    """A fresh key, and what to keep of it.

    Raises:
        ValueError: the name or the rate cannot stand in a list.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: use up to 64 letters, digits, dots, hyphens and underscores")
    if per_minute < 1:
        raise ValueError(f"per_minute {per_minute}: give at least 1, or remove the key")
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, Key(name, digest_of(key), per_minute)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", errors="replace")).hexdigest()


def parse(text: str, *, source: str) -> tuple[Key, ...]:
    """Read a list of keys.

    Raises:
        ValueError: a line is not a key; names source and line, and quotes nothing of it.
    """
    found: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        rate = parts[2] if len(parts) > 2 else str(DEFAULT_PER_MINUTE)
        whole = len(parts) in (2, 3) and _NAME.fullmatch(parts[0]) and _DIGEST.fullmatch(parts[1])
        if not whole or not re.fullmatch("[1-9][0-9]{0,8}", rate):
            raise ValueError(f"{source}, line {number}: write NAME SHA256 PER_MINUTE, as `affect keys add` does")
        if parts[0] in {key.name for key in found}:
            raise ValueError(f"{source}, line {number}: {parts[0]} is there twice: remove one")
        found.append(Key(parts[0], parts[1], int(rate)))
    return tuple(found)


def to_text(keys: Iterable[Key]) -> str:
    """A list as `parse` reads it."""
    return "".join(f"{key.name} {key.digest} {key.per_minute}\n" for key in keys)


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file; none where there is no file.

    Raises:
        ValueError: a line of it is not a key.
        OSError: it cannot be read.
    """
    try:
        return parse(path.read_bytes().decode("utf-8", errors="replace"), source=str(path))
    except FileNotFoundError:
        return ()


def write(path: Path, keys: Iterable[Key]) -> None:
    """Replace the list at once, for its owner's eyes alone."""
    write_private(path, to_text(keys))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    path.chmod(_PRIVATE)


class Keys:
    """The keys of an endpoint as they are now, and how often each was used. Safe to use from several threads.

    Args:
        path: of the list; it is read again when it changes. Where there was one, its loss admits nobody.
        secret: a list as text; it is used instead of the file.

    Raises:
        ValueError: the secret, or the file as it is now, is no list.
    """

    def __init__(self, path: Path | None = None, *, secret: str = "") -> None:
        self._path, self._lock = (None if secret else path), threading.Lock()
        self._keys = parse(secret, source="AFFECT_API_KEYS")
        if secret and not self._keys:
            raise ValueError("AFFECT_API_KEYS holds no key: leave it out, or write NAME SHA256 PER_MINUTE")
        self._stamp: tuple[int, ...] = ()
        self._were_set = bool(self._keys)
        self._buckets: dict[str, _Bucket] = {}
        self._refresh()

    @property
    def are_set(self) -> bool:
        """Whether callers need a key.

        Raises:
            ValueError, OSError: the list has changed and cannot be read.
        """
        with self._lock:
            self._refresh()
            return self._were_set

    def find(self, given: str) -> Key | None:
        """Whose key it is; takes as long whatever was given.

        Raises:
            ValueError, OSError: the list has changed and cannot be read.
        """
        digest, found = digest_of(given), None
        with self._lock:
            self._refresh()
            keys = self._keys
        for key in keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def wait_s(self, key: Key) -> int:
        """Count a request of a key: 0, or the seconds to wait when it has made too many."""
        with self._lock:
            bucket = self._buckets.setdefault(key.name, _Bucket(float(key.per_minute), time.monotonic()))
            return bucket.take(key.per_minute)

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
            stamp: tuple[int, ...] = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            stamp = ()
        if stamp == self._stamp:
            return
        self._keys = ()
        self._keys = read(self._path)
        self._stamp = stamp
        self._were_set = self._were_set or bool(self._keys)


@dataclass
class _Bucket:
    """A minute's requests at once, refilled evenly."""

    left: float
    at_s: float

    def take(self, per_minute: int) -> int:
        now_s = time.monotonic()
        self.left = min(float(per_minute), self.left + (now_s - self.at_s) * per_minute / 60)
        self.at_s = now_s
        if self.left >= 1:
            self.left -= 1
            return 0
        return max(1, math.ceil((1 - self.left) * 60 / per_minute))


def of_settings(here: Settings) -> Keys:
    """The keys that an endpoint with these settings asks for.

    Raises:
        ValueError: the list cannot be read.
    """
    return Keys(here.api_keys_file, secret=here.api_keys)


def own_key(here: Settings, url: str) -> str:
    """The key that this machine asks an endpoint with; empty where it has none.

    The platform's own key goes to the platform's own endpoint and nowhere else.
    """
    if here.api_key or url.rstrip("/") != here.endpoint_url:
        return here.api_key
    try:
        return platform_key_file(here).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def platform_key_file(here: Settings) -> Path:
    return here.home / "platform-key"


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key; none for an empty one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def require_for(host: str, here: Settings) -> None:
    """Refuse to open an endpoint to other machines without keys.

    Raises:
        ValueError: `host` is not a loopback address, and there is no key.
    """
    if not is_loopback(host) and not of_settings(here).are_set:
        raise ValueError(
            f"host {host} can be reached from other machines, and the endpoint has no API keys: make one with "
            "`affect keys add NAME`, or give a list in AFFECT_API_KEYS or AFFECT_API_KEYS_FILE"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
