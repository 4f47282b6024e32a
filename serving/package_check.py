"""What a bundle is like once it is served: started in a server of its own, and asked over HTTP.

    python -m serving.package_check --bundle build/bundle --output build/package.json

A bundle that cannot be served is a finding, not an error: the gates read of it, beside everything else that is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import psutil
from pydantic import TypeAdapter

from components import settings
from components.bundle_files import files_of, version_of
from components.gates.evidence import Package, read_package
from components.stage import progress, run_stage
from components.storage import write_atomically
from serving import smoke
from serving.client import Client, ServingError

_START_TIMEOUT_S: Final = 180.0
_NUM_ROUNDS: Final = 10
# A large model on a small machine: a few requests have to do.
_ENOUGH_S: Final = 20.0


def measure(folder: Path) -> Package:
    """Serve a bundle, ask it one request after another, and say what that took.

    Raises:
        ValueError: the folder is no complete bundle.
    """
    found = Package(version_of(folder), sum((folder / name).stat().st_size for name in files_of(folder)))
    try:
        with _served(folder) as (url, server), Client(url, patience_s=0) as client:
            golden_error, latencies_s = _ask(client, folder)
            memory_bytes = _memory_bytes(server)
    except ServingError as error:
        return Package(found.version, found.size_bytes, failure=str(error))
    return Package(found.version, found.size_bytes, tuple(latencies_s), memory_bytes, golden_error)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server of the bundle, and its process.

    Raises:
        ServingError: it ended, or does not answer in time.
    """
    # Whoever connects before the server takes it over waits in the queue of the socket.
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryFile("w+") as log:
        url = "http://{}:{}".format(*listener.getsockname())
        # It ends with this process, which ends with the run.
        environment = {**settings.inherited_environment(), "AFFECT_PARENT_PID": str(os.getpid())}
        command = [sys.executable, "-m", "serving.alone", "--bundle", str(folder), "--socket", str(listener.fileno())]
        with subprocess.Popen(
            command, env=environment, pass_fds=[listener.fileno()], stdout=log, stderr=log
        ) as process:
            try:
                listener.close()
                _wait(url, log)
                yield url, psutil.Process(process.pid)
            finally:
                process.terminate()


def _wait(url: str, log: IO[str]) -> None:
    """Ask once: the answer comes when the server is up, or the connection breaks when it ended."""
    try:
        with Client(url, timeout_s=_START_TIMEOUT_S, patience_s=0) as client:
            client.model()
    except ServingError as error:
        log.seek(0)
        lines = [line.strip() for line in log.read().splitlines() if line.strip()]
        why = lines[-1].removeprefix("error: ") if lines else str(error)
        raise ServingError(f"a server of the bundle does not come up: {why}") from error


def _ask(client: Client, folder: Path) -> tuple[float, list[float]]:
    """The largest distance of an answer from the recorded one, and how long single requests took."""
    requests, worst, latencies_s = smoke.read(folder).requests, 0.0, []
    began = time.monotonic()
    for number in range(_NUM_ROUNDS + 1):
        for request in requests:
            started = time.perf_counter()
            answer = smoke.ask(client, request)
            # The first round warms up what the golden requests of the start have not.
            if number:
                latencies_s.append(time.perf_counter() - started)
            worst = max(worst, smoke.distance(answer, request.probabilities))
        progress(stage="package", done=number, total=_NUM_ROUNDS, message=f"{len(latencies_s)} requests")
        if latencies_s and time.monotonic() - began > _ENOUGH_S:
            break
    return worst, latencies_s


def _memory_bytes(server: psutil.Process) -> int:
    """Of the server and its decoders, each shared page counted once."""
    return sum(process.memory_full_info().pss for process in (server, *server.children(recursive=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a bundle, unless its output tells of this very bundle already."""
    parser = argparse.ArgumentParser(prog="python -m serving.package_check", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--output", type=Path, default=Path("build/package.json"))
    asked = parser.parse_args(arguments)
    if asked.output.exists():
        before = read_package(asked.output)
        if before.version == version_of(asked.bundle) and not before.failure:
            print(f"bundle {before.version} was measured before")
            return
    found = measure(asked.bundle)
    write_atomically(asked.output, TypeAdapter(Package).dump_json(found, indent=2) + b"\n")
    print(found.failure or f"bundle {found.version}: {len(found.latencies_s)} requests answered")


if __name__ == "__main__":
    run_stage(main)
