"""The laptop's long-lived processes: started apart from the terminal, found again, and ended without a trace.

Every process is started with a mark in its environment that its children inherit, so that `affect down` finds all
of them, also when their parents were killed and no file tells their numbers.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import psutil

from components.settings import Settings, inherited_environment
from components.storage import write_atomically

_MARK = "AFFECT_PLATFORM"
_ROLE = "AFFECT_ROLE"
_GRACE_S = 8.0
_LONGEST_QUOTE = 300
# None of these is given to a connection that goes out, by Linux or macOS, or taken by Ray for its workers and replicas:
# a port of them that was free stays so until its server listens, which may take a while.
_FREE_PORTS = range(20_000, 30_000)


def start(role: str, command: Sequence[str], settings: Settings, environment: Mapping[str, str]) -> None:
    """Start a process of the platform in a session of its own, its output going to `.affect/logs/ROLE.log`."""
    log = log_file(role, settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            cwd=settings.home,
            env={**inherited_environment(), **environment, _MARK: str(settings.home), _ROLE: role},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    record = json.dumps({"pid": process.pid, "started": started})
    write_atomically(_record_file(role, settings), record.encode())


def is_running(role: str, settings: Settings) -> bool:
    """Whether the process that was started for this role still lives."""
    try:
        record = json.loads(_record_file(role, settings).read_bytes())
        process = psutil.Process(record["pid"])
        return bool(abs(process.create_time() - record["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return False


def stop(settings: Settings, role: str | None = None) -> int:
    """End all processes of the platform, or of one role, and wait until they are gone. Returns how many there were."""
    found = marked(settings, role)
    _end(found)
    # What was started while the others ended.
    for process in marked(settings, role):
        _signal(process, "kill")
    return len(found)


def marked(settings: Settings, role: str | None = None) -> list[psutil.Process]:
    """The living processes of this platform, children included; never the calling process."""
    found = []
    this = psutil.Process()
    callers = {this.pid, *(parent.pid for parent in this.parents())}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get(_MARK) != str(settings.home) or process.pid in callers:
            continue
        if role is None or environment.get(_ROLE) == role:
            found.append(process)
    return found


def end_tree(pid: int) -> None:
    """End a process and all that it started, and wait until they are gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        _end([process, *process.children(recursive=True)])


def log_file(role: str, settings: Settings) -> Path:
    """Where the output of a role's processes goes."""
    return settings.home / "logs" / f"{role}.log"


def last_words(role: str, settings: Settings, num_lines: int = 3) -> str:
    """The end of a role's log, on one line, for the message about its failure."""
    try:
        lines = log_file(role, settings).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    return " | ".join([line.strip()[:_LONGEST_QUOTE] for line in lines if line.strip()][-num_lines:])


def require_free_port(port: int, what: str, variable: str, host: str) -> None:
    """Check that a server can be started on a port.

    Raises:
        ValueError: something listens there; the message names it and the variable that chooses another port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"port {port} for {what} is in use{_listener(port)}: end that program, or choose another port "
                f"with {variable}=PORT"
            ) from error


def free_ports(number: int, host: str, *, besides: Collection[int] = ()) -> list[int]:
    """Different ports that nothing listens on at this moment, none of them in `besides`.

    Raises:
        OSError: so many are not free.
    """
    ports: list[int] = []
    candidates = [port for port in _FREE_PORTS if port not in besides]
    # At random, so that two who ask at once seldom get the same.
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            ports.append(port)
        if len(ports) == number:
            return ports
    raise OSError(f"{host} has no {number} free ports from {_FREE_PORTS.start} to {_FREE_PORTS.stop - 1}")


def wait_until(ready: Callable[[], bool], role: str, settings: Settings, timeout_s: float) -> None:
    """Wait until `ready()` is true.

    Raises:
        RuntimeError: the process ended, or the time is over; the message quotes the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not is_running(role, settings):
            raise RuntimeError(
                f"{role} ended while it started: {last_words(role, settings)} (whole log: {log_file(role, settings)})"
            )
        if time.monotonic() > deadline:
            raise RuntimeError(f"{role} was not ready within {timeout_s:.0f} s; see {log_file(role, settings)}")
        time.sleep(0.1)


def _record_file(role: str, settings: Settings) -> Path:
    return settings.home / "platform" / f"{role}.json"


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr[1] == port and connection.status == psutil.CONN_LISTEN:
                process = psutil.Process(connection.pid)
                return f" by process {process.pid} ({process.name()})"
    except psutil.Error:
        pass
    return ""


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_S)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=_GRACE_S)


def _signal(process: psutil.Process, method: str) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        getattr(process, method)()
