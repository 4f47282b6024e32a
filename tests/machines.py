"""Several machines on this one: each with an address, processes and a disk of its own, on a network between them.

They are namespaces of Linux, for which no rights are needed where its users may make them. All must be started below
`alone`, which makes the first of them: with it all others end, and nothing of them is seen outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ADDRESS = "10.77.0.1"
_HUB = "hub"
_APART = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def alone(command: list[str]) -> list[str]:
    """The command as the first process of a machine that has nothing to do with this one but its disk."""
    return [*_APART, *(["--map-root-user"] if os.getuid() else []), *command]


def are_possible() -> bool:
    """Whether this process may make machines."""
    tried = subprocess.run(alone(["ip", "link", "add", _HUB, "type", "bridge"]), capture_output=True, check=False)
    return tried.returncode == 0


def start_network() -> None:
    """Give this machine an address, and a network that others can be joined to."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", _HUB, "type", "bridge")
    _ip("address", "add", f"{ADDRESS}/24", "dev", _HUB)
    _ip("link", "set", _HUB, "up")


@dataclass
class Machine:
    """One machine beside this one.

    Attributes:
        number: of its address, from 2.
        disk: a folder in which it sees what it has written itself, and nobody else does.
    """

    number: int
    disk: Path
    _holder: subprocess.Popen[bytes] = field(init=False)
    _first: int = field(init=False)

    def __post_init__(self) -> None:
        self._holder = subprocess.Popen([*_APART, "sleep", "infinity"])
        until = time.monotonic() + 60
        while not (children := psutil.Process(self._holder.pid).children()):
            assert time.monotonic() < until, "a machine does not start"
            time.sleep(0.01)
        self._first = children[0].pid
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
        _ip("link", "set", self._cable, "master", _HUB, "up")
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{self.address}/24", "dev", "eth0"],
            ["ip", "link", "set", "eth0", "up"],
            ["mount", "-t", "tmpfs", "none", str(self.disk)],
        ):
            subprocess.run(self.command(command), check=True)

    @property
    def address(self) -> str:
        return ADDRESS.removesuffix("1") + str(self.number)

    @property
    def _cable(self) -> str:
        return f"cable{self.number}"

    def command(self, command: list[str]) -> list[str]:
        """A command as one of this machine's."""
        return ["nsenter", "--target", str(self._first), "--net", "--mount", "--pid", "--wdns=/", *command]

    def start(self, command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command there; what it says goes into a file here."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(command), env={**os.environ, **environment}, stdout=output, stderr=output
            )

    def files(self, pattern: str) -> list[Path]:
        """What is on its disk, as a path of this machine."""
        return sorted(Path(f"/proc/{self._first}/root{self.disk}").glob(pattern))

    def kill(self) -> None:
        """End all its processes at once."""
        os.kill(self._first, signal.SIGKILL)
        self._holder.wait()

    def cut_off(self) -> None:
        """Pull its cable: it goes on by itself, and nobody hears that."""
        _ip("link", "set", self._cable, "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
