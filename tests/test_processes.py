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


def test_free_ports_leave_out_what_listens_and_what_is_chosen() -> None:
    taken, left = processes.free_ports(2, "127.0.0.1")
    chosen = set(range(20_000, 30_000)) - {taken, left}
    with socket.create_server(("127.0.0.1", taken)):
        assert processes.free_ports(1, "127.0.0.1", besides=chosen) == [left]
        with pytest.raises(OSError, match="no 2 free ports from 20000 to 29999"):
            processes.free_ports(2, "127.0.0.1", besides=chosen)
