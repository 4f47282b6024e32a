"""What the laptop's processes are started with."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flows import processes


def test_free_ports_are_not_of_those_that_connections_are_given() -> None:
    # A server may listen long after its port was chosen, while others connect and are given ports of their own.
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())

    ports = processes.free_ports(50, "127.0.0.1")

    assert len(set(ports)) == 50
    assert not [port for port in ports if first <= port <= last]


def test_free_ports_leave_out_what_listens_and_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = int(server.getsockname()[1])
        monkeypatch.setattr(processes, "_FREE_PORTS", range(taken - 3, taken + 3))

        with pytest.raises(OSError, match=f"no 5 free ports from {taken - 3} to {taken + 2}"):
            processes.free_ports(5, "127.0.0.1", besides=[taken - 1])
