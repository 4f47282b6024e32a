"""What every stage shares as a process: one-line errors, progress lines, and ending with the run that started it."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NoReturn

from components import settings

PROGRESS_MARK = "@progress "

# Status of a stage that may succeed when it is run again (EX_TEMPFAIL of <sysexits.h>).
TRANSIENT_STATUS = 75
# Status of a stage that was only to be brought from the store, which does not have what it makes.
NOT_THERE_STATUS = 3


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total`, in units that the message names."""

    stage: str
    done: float
    total: float
    message: str


def progress(*, stage: str, done: float, total: float, message: str) -> None:
    """Tell whoever follows the run how far it is: one line on standard output, also from a Ray worker."""
    line = json.dumps(asdict(Progress(stage, done, total, message)))
    print(f"{PROGRESS_MARK}{line}", flush=True)


def read_progress(line: str) -> Progress | None:
    """The progress that a line of a stage's output tells, or None for any other line.

    Ray puts its worker's name before a worker's line, so the mark may stand anywhere in it.
    """
    _, mark, text = line.partition(PROGRESS_MARK)
    if not mark:
        return None
    try:
        values = json.loads(text.strip().removesuffix("\x1b[0m"))
        return Progress(**values)
    except (json.JSONDecodeError, TypeError):
        return None


@dataclass(frozen=True)
class Cost:
    """What a stage used: seconds of processors, and of GPUs that were held for it."""

    cpu_s: float = 0.0
    gpu_s: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu_s + other.cpu_s, self.gpu_s + other.gpu_s)


# Of this process's workers on Ray, which are not its children.
_elsewhere = Cost()


def spend(cost: Cost) -> None:
    """Count what a worker of this stage used on Ray; the stage tells the sum when it ends."""
    global _elsewhere
    _elsewhere += cost


def own_cost() -> Cost:
    """What this process and its children that have ended used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Cost(sum(each.ru_utime + each.ru_stime for each in used))


def read_cost(line: str) -> Cost | None:
    """The cost that a line of a stage's output tells, or None for any other line."""
    found = _COST.fullmatch(line.strip())
    return Cost(float(found[1]), float(found[2])) if found else None


_COST = re.compile(r"cost: ([0-9.]+) s of processors, ([0-9.]+) s of GPUs")


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main` as a process of its own, which tells its cost when it has done its work.

    A mistake in the input ends it with status 1 and one line on standard error, a connection that failed with
    `TRANSIENT_STATUS` and such a line; a mistake in the program keeps its traceback.
    """
    _end_with_parent(settings.load().parent_pid)
    with one_line_errors():
        main()
    cost = own_cost() + _elsewhere
    print(f"cost: {cost.cpu_s:.1f} s of processors, {cost.gpu_s:.1f} s of GPUs", flush=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End this process as `run_stage` says when a mistake in the input or a failed connection ends the block."""
    try:
        yield
    except (ValueError, OSError) as error:
        _end(error)
    except _store_errors() as error:
        _end(error)


def _end(error: BaseException) -> NoReturn:
    print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    sys.exit(TRANSIENT_STATUS if is_transient(error) else 1)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: a server did not answer, or not in time."""
    return isinstance(error, (ConnectionError, TimeoutError, *_store_errors()))


def _store_errors() -> tuple[type[Exception], ...]:
    """What the client of an object store raises on its way there, once somebody has imported it."""
    client = sys.modules.get("botocore.exceptions")
    return () if client is None else (client.ConnectionError, client.HTTPClientError)


def one_line(error: BaseException) -> str:
    """An error's message on one line, with its type where the message alone says too little."""
    text = " ".join(str(error).split())
    return text if text else type(error).__name__


def _end_with_parent(parent_pid: int) -> None:
    """End this process when `parent_pid` is gone: a killed run must not leave a trainer that writes on."""
    if not parent_pid:
        return
    try:
        descriptor = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        sys.exit(f"error: the run that started this stage (process {parent_pid}) is gone")

    def wait() -> None:
        select.select([descriptor], [], [])
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
