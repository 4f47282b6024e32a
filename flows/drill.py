"""`affect drill`: the whole story on a platform of its own, from a first model to a rollback, under constant traffic.

A model is trained and promoted; callers ask without end; their recordings become noisy; the monitor sees it, and a
training starts by itself. Its labels are spoiled, so a gate refuses it; with the labels mended the next one is
promoted, and at last rolled back. Servers, trainings, events and requests are what they always are, and the platform
that the user may be running is another one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State

from components import drift_samples
from components.params import Choices, Corpus, Gates
from components.settings import Settings
from components.storage import Storage
from flows import drill_world, following, laptop, processes, records, releasing, watching
from flows.drill_world import Spoken, Traffic

Tell = Callable[[str], None]

# Enough for a model far above chance, which is a third; labels in another order leave it there.
_FLOOR: Final = 0.5
_CHOICES: Final[dict[str, Any]] = {
    "features": {"clips_per_shard": 32},
    "model": {"width": 32},
    "pretrain": {"num_epochs": 1, "batch_size": 16, "num_workers": 1},
    "finetune": {"num_epochs": 4, "batch_size": 16, "num_workers": 1},
}
_NUM_WATCHED: Final = 60
# A monitor that looks at minutes, and not at a day, need not wait long for what was asked last.
_SAMPLE_AGE_S: Final = 15.0
_WAIT_S: Final = 900.0
_POLL_S: Final = 1.0


class DrillFailed(RuntimeError):
    """A step of the story did not happen; the message says which."""


@dataclass(frozen=True)
class Event:
    """One line of the timeline; `at_s` counts from the start."""

    at_s: float
    what: str


@dataclass
class Drill:
    """What happened.

    Attributes:
        failures: of requests, as their callers saw them.
        error: the step that did not happen; empty when all did.
    """

    timeline: list[Event] = field(default_factory=list)
    num_answers: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and not self.failures and self.num_answers > 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "passed": self.passed}


def run(settings: Settings, tell: Tell) -> Drill:
    """Go through the story, telling each step as it happens.

    Raises:
        ValueError: a drill is running already.
    """
    here = _own(settings)
    if processes.marked(here):
        raise ValueError(f"a drill is running already, in {here.home}: let it end")
    shutil.rmtree(here.home, ignore_errors=True)
    drill, started_s = Drill(), time.monotonic()

    def happened(what: str) -> None:
        drill.timeline.append(Event(round(time.monotonic() - started_s, 1), what))
        tell(f"{drill.timeline[-1].at_s:7.1f} s  {what}")

    try:
        with _platform(here, tell):
            _Story(here, drill, happened).go()
    except (RuntimeError, ValueError, OSError) as error:
        drill.error = str(error)
        happened(f"failed: {error}")
    return drill


def _own(settings: Settings) -> Settings:
    """The settings of a platform beside the user's: a home of its own, free ports, samples of every request."""
    ports = processes.free_ports(4, settings.host)
    names = ("prefect_port", "ray_port", "dashboard_port", "serve_port")
    home = settings.home / "drill"
    own = {"home": home, "storage_url": str(home / "store"), "api_keys": "", "api_keys_file": home / "api-keys"}
    elsewhere = {"rayjob": "", "rayservice": "", "endpoint_address": "", "ray_address": "", "scratch": Path()}
    samples = {"sample_share": 1.0, "sample_age_s": _SAMPLE_AGE_S}
    given = {**settings.model_dump(), **own, **elsewhere, **dict(zip(names, ports, strict=True)), **samples}
    return Settings.model_validate(given)


@contextmanager
def _platform(here: Settings, tell: Tell) -> Iterator[None]:
    try:
        laptop.up(here, tell)
        yield
    finally:
        laptop.down(here)


class _Story:
    def __init__(self, here: Settings, drill: Drill, happened: Tell) -> None:
        self._here, self._drill, self._happened = here, drill, happened
        self._table = here.home / "recordings.csv"

    def go(self) -> None:
        self._happened("the platform is up")
        known = self._record("known", num_speakers=14, clips_per_speaker=8, seed=1)
        drill_world.write_table(self._table, known)
        corpus = Corpus(dataset="table", root=str(self._table))
        choices = Choices(finetune_on=corpus, gates=_gates(), overrides=_CHOICES)
        first = following.start("retrain/retrain", {"choices": choices.model_dump(mode="json")}, self._here)
        self._expect_promoted(first, "v1 is trained")
        calling = self._record("calling", num_speakers=6, clips_per_speaker=6, seed=3)
        with Traffic(self._here.endpoint_url, calling) as traffic:
            try:
                self._under_traffic(traffic, known)
            finally:
                self._drill.num_answers, self._drill.failures = traffic.num_answers, traffic.failures
                self._drill.slowest_s = round(traffic.slowest_s, 2)
        self._happened(
            f"{self._drill.num_answers} requests were answered, the slowest in {self._drill.slowest_s:.1f} s; "
            f"{len(self._drill.failures)} failed"
        )

    def _under_traffic(self, traffic: Traffic, known: list[Spoken]) -> None:
        self._happened("three callers ask without end")
        noisy = self._record("noisy", num_speakers=6, clips_per_speaker=6, seed=4, is_noisy=True)
        learned = self._record("learned", num_speakers=8, clips_per_speaker=6, seed=2, is_noisy=True)
        self._gather(traffic)
        self._watch("quiet", since_s=3600.0)
        traffic.recordings = noisy
        drill_world.write_table(self._table, [*known, *learned], is_spoiled=True)
        self._happened(
            "the callers are in a noisy room now; such recordings come in, with their labels in another order"
        )
        planted_s = time.monotonic()
        self._gather(traffic)
        self._watch("drift", since_s=time.monotonic() - planted_s)
        second = self._started_by_itself(1)
        self._expect_refused(second)
        drill_world.write_table(self._table, [*known, *learned])
        self._happened("the labels are mended")
        self._watch("drift", since_s=time.monotonic() - planted_s)
        third = self._started_by_itself(2)
        release = self._expect_promoted(third, "v3 is trained")
        started_s = time.monotonic()
        made = releasing.roll_back(
            None, note="drill", holder="affect drill", settings=laptop.on_platform(self._here), tell=self._happened
        )
        took_s = time.monotonic() - started_s
        self._happened(f"release {release} is rolled back in {took_s:.1f} s: release {made.number} is v1 again")

    def _record(
        self, name: str, *, num_speakers: int, clips_per_speaker: int, seed: int, is_noisy: bool = False
    ) -> list[Spoken]:
        return drill_world.record(
            self._here.home / "recordings" / name,
            num_speakers=num_speakers,
            clips_per_speaker=clips_per_speaker,
            seed=seed,
            is_noisy=is_noisy,
        )

    def _gather(self, traffic: Traffic) -> None:
        """Wait until samples of more requests from now on than the monitor asks for are in the store."""
        storage, release = Storage(self._here.storage_url), releasing.last_release(self._here)[1]
        since, wanted = datetime.now(UTC), 2 * _NUM_WATCHED

        def gathered() -> bool:
            found = drift_samples.read(storage, release, since=since, until=datetime.now(UTC), max_clips=wanted)
            return len(found) == wanted or bool(traffic.failures)

        _wait(gathered, "samples of the callers' requests")

    def _watch(self, expected: str, *, since_s: float) -> None:
        """Let the monitor look at the last seconds, and check what it says."""
        asked = {"window_h": since_s / 3600, "min_clips": _NUM_WATCHED, "cooldown_h": 0}
        run_id = following.start("monitor/monitor", {"settings": asked}, self._here)
        state = self._ended(run_id)
        found = watching.last(self._here, run_id=str(run_id))
        if found is None or found["verdict"] != expected:
            raise DrillFailed(f"the monitor was to say {expected}: {found['told'] if found else state.message}")
        self._happened(f"the monitor looks at {found['comparison']['num_clips']} clips: {found['told']}")

    def _started_by_itself(self, number: int) -> UUID:
        """The training that the automation has started by then."""
        with following.prefect_client(self._here) as client:
            deployment = client.read_deployment_by_name("retrain/retrain")
            chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}})

            def found() -> list[UUID]:
                runs = client.read_flow_runs(flow_run_filter=chosen)
                mine = [run for run in runs if run.created_by is not None and run.created_by.type == "AUTOMATION"]
                return [run.id for run in sorted(mine, key=lambda run: run.created.timestamp() if run.created else 0)]

            _wait(lambda: len(found()) == number, "a training to start by itself")
            run_id = found()[-1]
        self._happened(f"a training has started by itself, run {run_id}")
        return run_id

    def _expect_promoted(self, run_id: UUID, what: str) -> int:
        state, record = self._ended(run_id), records.read_record(self._here, str(run_id))
        if record is None or record.outcome != "promoted" or record.release is None:
            raise DrillFailed(f"{what}, and was to be promoted: {record.error if record else state.message}")
        self._happened(f"{what} and passed {len(record.gates)} gates: release {record.release} is live")
        return record.release

    def _expect_refused(self, run_id: UUID) -> None:
        state, record = self._ended(run_id), records.read_record(self._here, str(run_id))
        failed = [gate.name for gate in record.gates if not gate.passed] if record else []
        if record is None or record.outcome != "failed" or not failed:
            raise DrillFailed(f"v2 was to be refused by a gate: {(record and record.error) or state.message}")
        live = releasing.last_release(self._here)[1]
        self._happened(f"v2 is refused by {', '.join(failed)}: release {live} stays live")

    def _ended(self, run_id: UUID) -> State[Any]:
        """The state in which a run has ended."""
        with following.prefect_client(self._here) as client:
            _wait(lambda: _is_final(client.read_flow_run(run_id).state), f"run {run_id} to end")
            state = client.read_flow_run(run_id).state
        assert state is not None
        return state


def _gates() -> Gates:
    """The floor decides; the rest of the gates judge too, but of a model that few recordings made."""
    return Gates(
        min_macro_f1=_FLOOR,
        max_champion_loss=1,
        max_slice_loss=1,
        max_slice_gap=1,
        min_modality_share=-1,
        max_noise_loss=1,
        max_gain_loss=1,
        max_dropped_frames_loss=1,
        max_silence_loss=1,
        max_calibration_error=1,
        max_latency_s=30,
    )


def _is_final(state: State[Any] | None) -> bool:
    return state is not None and state.is_final()


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise DrillFailed(f"waited {_WAIT_S:.0f} s for {what}")
        time.sleep(_POLL_S)
