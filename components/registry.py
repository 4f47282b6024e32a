"""The release log and the bundles that it names: what was live when can always be answered.

`bundles/VERSION/` holds bundles by the digest of their content; `releases/NNNNNN.json` is append-only, each record
made by exclusive create. The champion is what the last record names; a rollback is a record too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from components.bundle_files import CONFIG, version_of
from components.gates import GateResult
from components.metrics import Interval
from components.storage import AlreadyExists, Storage

_BUNDLES = "bundles"
_RELEASES = "releases"
_RECORD_NAME = re.compile(r"(\d{6})\.json")


class ReleaseConflict(AlreadyExists):
    """Somebody else released first: judge against the new champion, then try again."""


@dataclass(frozen=True)
class Release:
    """One record of the log. `number` and `created_at` are given by `Registry.append`.

    Attributes:
        number: 1, 2, 3, ... without a gap.
        kind: a promotion names a new bundle, a rollback an older one.
        bundle: name in the storage, as `bundles/VERSION`.
        version: of the bundle, a digest of its files.
        run: digest of parameters, data and code that made it.
        commit: of the code, empty when not known.
        data: md5 by name of the data that went in.
        params: the run's resolved parameters; empty in records from before they were kept.
        metrics: figures on held-out speakers by name (macro_f1, ua, wa).
        created_at: ISO 8601 in UTC.
        note: a person's reason.
        approved_by: who said yes, where a person was asked.
    """

    kind: Literal["promotion", "rollback"]
    bundle: str
    version: str
    run: str = ""
    recipe: str = ""
    dataset: str = ""
    commit: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Interval] = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    note: str = ""
    approved_by: str = ""
    number: int = 0
    created_at: str = ""

    def to_json(self) -> str:
        """The record as the log holds it."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Registry:
    """Bundles and the release log in one storage."""

    storage: Storage

    def store_bundle(self, folder: Path) -> str:
        """Put a bundle into the storage, and return its name there. Storing it again changes nothing.

        Raises:
            ValueError: the bundle is not complete.
        """
        name = f"{_BUNDLES}/{version_of(folder)}"
        if not self.has_bundle(name):
            self.storage.upload_folder(folder, name)
        return name

    def has_bundle(self, name: str) -> bool:
        """Whether a bundle is there as a whole: its configuration arrives last."""
        return self.storage.exists(f"{name}/{CONFIG}")

    def bundle_uri(self, name: str) -> str:
        """The bundle's full address, for a server that fetches it itself."""
        return self.storage.uri(name)

    def fetch_bundle(self, name: str, into: Path) -> Path:
        """A local folder with the bundle: its own folder in a local storage, else a copy below `into`.

        Raises:
            FileNotFoundError: there is no such bundle.
            ValueError: its content is not what its version says.
        """
        if not self.has_bundle(name):
            raise FileNotFoundError(f"there is no bundle {self.storage.uri(name)}")
        version = name.rsplit("/", 1)[-1]
        into.mkdir(parents=True, exist_ok=True)
        folder = self.storage.download_folder(name, into / version)
        found = version_of(folder)
        if found != version:
            raise ValueError(f"bundle {folder} is damaged (its content gives version {found}): roll back to another")
        return folder

    def releases(self) -> tuple[Release, ...]:
        """All records, oldest first.

        Raises:
            ValueError: a record is damaged or has been removed.
        """
        return tuple(self._read(number) for number in range(1, self._last_number() + 1))

    def release(self, number: int) -> Release:
        """One record of the log.

        Raises:
            ValueError: it is missing or damaged.
        """
        return self._read(number)

    def champion(self) -> Release | None:
        """The last record, or None before the first release.

        Raises:
            ValueError: that record is damaged.
        """
        last = self._last_number()
        return self._read(last) if last else None

    def append(self, release: Release, *, after: int | None = None) -> Release:
        """Add a record to the log, and return it with its number and time.

        Args:
            after: number of the release that the decision was made against, 0 for none; not given, the last one.

        Raises:
            ReleaseConflict: there is a later release than `after`.
            ValueError: the bundle is not in the storage, or `after` is not in the log.
        """
        if not self.has_bundle(release.bundle):
            raise ValueError(f"release of {release.bundle}: no such bundle in the storage; store it first")
        last = self._last_number()
        if after is not None and after > last:
            raise ValueError(f"after = {after}: the last release is {last}; read the log again")
        number = (last if after is None else after) + 1
        numbered = replace(release, number=number, created_at=datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            self.storage.create(_record(number), numbered.to_json().encode())
        except AlreadyExists as error:
            raise ReleaseConflict(
                f"release {number} was made by somebody else in the meantime: judge against it, then try again"
            ) from error
        return numbered

    def roll_back(self, number: int, *, note: str = "", after: int | None = None) -> Release:
        """Add a record that makes the bundle of release `number` the champion again.

        Raises:
            ReleaseConflict: there is a later release than `after`.
            ValueError: there is no such release, or its bundle is gone.
        """
        return self.append(self.rollback_to(number, note=note), after=after)

    def rollback_to(self, number: int, *, note: str = "") -> Release:
        """The record, not yet in the log, that makes the bundle of release `number` the champion again.

        Raises:
            ValueError: there is no such release.
        """
        if not 1 <= number <= self._last_number():
            raise ValueError(f"release {number}: no such release; `affect releases` lists them")
        return replace(self._read(number), kind="rollback", note=note, approved_by="")

    def require_last(self, number: int) -> None:
        """Check that a decision was made against what is live.

        Raises:
            ReleaseConflict: there is a later release than `number`.
        """
        if self._last_number() != number:
            raise ReleaseConflict(
                f"release {number + 1} was made by somebody else in the meantime: judge against it, then try again"
            )

    def _last_number(self) -> int:
        found = (_RECORD_NAME.fullmatch(name) for name in self.storage.names(_RELEASES))
        last = max((int(match[1]) for match in found if match), default=0)
        # Some object stores list a new file late; asking for it by name is always right.
        while self.storage.exists(_record(last + 1)):
            last += 1
        return last

    def _read(self, number: int) -> Release:
        name = _record(number)
        where = self.storage.uri(name)
        try:
            release = TypeAdapter(Release).validate_json(self.storage.read(name))
        except FileNotFoundError as error:
            raise ValueError(f"{where} is missing: the log is append-only, so restore the record") from error
        except ValidationError as error:
            raise ValueError(f"{where} is damaged: restore the record from a copy") from error
        if release.number != number:
            raise ValueError(f"{where} is damaged: it says that it is release {release.number}; restore the record")
        return release


def _record(number: int) -> str:
    return f"{_RELEASES}/{number:06d}.json"
