"""Processes that decode what strangers send, and may die of it: how they are started, confined, and ended.

They hold no secret of the server, write no file, take no more memory than they are given, and end with the server.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from components import settings

_SET_NO_NEW_PRIVILEGES: Final = 38  # PR_SET_NO_NEW_PRIVS of <linux/prctl.h>


def start(module: str, **arguments: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start `python -m module --socket=N`, and each argument as an option of its name.

    Returns:
        The process and the server's end of its socket.
    """
    ours, theirs = socket.socketpair()
    options = {"socket": theirs.fileno(), **arguments}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=settings.bare_environment(),
            cwd="/",
        )
    return process, ours


def connect(file_descriptor: int) -> socket.socket:
    """The process's end of its socket; it ends when the server does, in the middle of a recording too."""
    # Ctrl-C in a terminal reaches all of a group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=file_descriptor)
    threading.Thread(target=_end_with_the_server, args=(connection,), daemon=True).start()
    return connection


def confine(memory_bytes: int) -> None:
    """Give up what decoding does not need, and take no more memory than that beyond what is in use now."""
    # Under memory pressure the kernel takes this process before the server.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    used_bytes = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, used_bytes + memory_bytes),
        # Neither a file nor a core dump of a caller's recording.
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    ctypes.CDLL(None).prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _end_with_the_server(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll()
    os._exit(0)
