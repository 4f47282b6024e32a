"""What the monitor found, kept in the store, and whether drift may start a training now.

The store remembers, so a cooldown and a budget outlive every process and every database.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from components.monitoring import Monitor
from components.settings import Settings
from components.storage import Storage

if TYPE_CHECKING:
    # Torch comes with it, and whoever asks for the status waits for nothing of it.
    from components.drift_comparison import Comparison

_FOLDER: Final = "monitor"
_RECORDS: Final = f"{_FOLDER}/records"
_RETRAINS: Final = f"{_FOLDER}/retrains"
_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_TIME_LENGTH: Final = len("20260101T000000.000000Z")
_BUDGET_SPAN: Final = timedelta(days=7)

Verdict = Literal["quiet", "drift", "dead-input", "unknown"]
Retrain = Literal["no", "due", "dead-input", "cooldown", "budget"]


@dataclass(frozen=True)
class Watch:
    """One look at the requests of a release.

    Attributes:
        at: when, ISO 8601 in UTC.
        retrain: whether a training is due; if drift was found and none is, what is in its way.
        report: address of the page, where there is one.
    """

    at: str
    run_id: str
    release: int
    version: str
    verdict: Verdict
    retrain: Retrain
    comparison: Comparison
    report: str = ""

    @property
    def told(self) -> str:
        """What was found, in a sentence."""
        found = self.comparison
        if self.verdict == "unknown":
            reasons = [found.note] if found.note else [f"{part.name}: {part.note}" for part in found.parts if part.note]
            return f"nothing can be said ({'; '.join(reasons)})"
        parts = []
        if found.dead:
            parts.append(f"dead input in {', '.join(found.dead)}")
        if found.drifted:
            what = "a training is due" if self.retrain == "due" else f"no training for it ({self.retrain})"
            parts.append(f"drift in {', '.join(found.drifted)}, {what}")
        return "; ".join(parts) or "as in training"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **asdict(self),
            "told": self.told,
            "drifted": list(self.comparison.drifted),
            "dead": list(self.comparison.dead),
        }


def verdict_of(comparison: Comparison) -> Verdict:
    """The comparison in a word: a dead input before drift, for it may be what drifts the rest."""
    if comparison.dead:
        return "dead-input"
    if comparison.drifted:
        return "drift"
    return "quiet" if any(part.tests for part in comparison.parts) else "unknown"


def retrain_now(comparison: Comparison, settings: Monitor, storage: Storage, now: datetime) -> Retrain:
    """Whether drift may start a training, by what it has started before."""
    if not comparison.drifted:
        return "no"
    if comparison.dead:
        return "dead-input"
    before = _retrains(storage)
    if before and now - before[-1] < timedelta(hours=settings.cooldown_h):
        return "cooldown"
    if sum(now - each < _BUDGET_SPAN for each in before) >= settings.max_retrains_per_week:
        return "budget"
    return "due"


def note_retrain(storage: Storage, now: datetime, run_id: str) -> None:
    """Count a training that drift starts."""
    storage.create(f"{_RETRAINS}/{now.astimezone(UTC).strftime(_TIME)}-{run_id}.json", b"{}\n")


def keep(storage: Storage, watch: Watch, page: str) -> Watch:
    """Keep what was found, and its page; returns it with the page's address."""
    name = f"{_RECORDS}/{datetime.fromisoformat(watch.at).strftime(_TIME)}-{watch.run_id}"
    kept = replace(watch, report=storage.uri(f"{name}.html"))
    storage.write(f"{name}.html", page.encode())
    storage.write(f"{name}.json", json.dumps(kept.to_json(), indent=1).encode())
    return kept


def last(settings: Settings, *, run_id: str = "") -> dict[str, Any] | None:
    """What was found last, or by one run, as plain values; None where nothing was."""
    storage = Storage(settings.storage_url)
    names = [name for name in storage.names(_RECORDS) if name.endswith(f"{run_id}.json")]
    found: dict[str, Any] | None = json.loads(storage.read(f"{_RECORDS}/{names[-1]}")) if names else None
    return found


def forget(storage: Storage, *, before: datetime) -> None:
    """Remove what was found before a time. What counts for the budget is kept as long as it counts."""
    for folder, end in ((_RECORDS, before), (_RETRAINS, min(before, datetime.now(UTC) - _BUDGET_SPAN))):
        for name in storage.names(folder):
            if name < end.astimezone(UTC).strftime(_TIME):
                storage.remove(f"{folder}/{name}")


def _retrains(storage: Storage) -> list[datetime]:
    """When drift started a training, oldest first."""
    return [datetime.strptime(name[:_TIME_LENGTH], _TIME).replace(tzinfo=UTC) for name in storage.names(_RETRAINS)]
