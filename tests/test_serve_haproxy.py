"""A real HAProxy with the configuration that Ray writes for it, before a replica that answers, dies or is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socketserver
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from flows.processes import free_ports
from serving import serve_haproxy
from serving.problems import MEDIA_TYPE
from serving.schema import Problem


class _Replica(socketserver.StreamRequestHandler):
    """Tells the request's id, or for whom it is, or hangs up on who asks it to die."""

    def handle(self) -> None:
        path, headers = self.rfile.readline().split()[1], dict[bytes, bytes]()
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = headers.get(name.lower(), b"") + value.strip()
        told = headers.get(b"x-forwarded-for" if path == b"/whom" else b"x-request-id", b"")
        if path != b"/die":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def _haproxy(backends: dict[str, BackendConfig]) -> Iterator[tuple[str, int, Path]]:
    """Its address, its process and its folder, started as Ray starts it."""
    folder = Path(tempfile.mkdtemp(prefix="affect-", dir="/tmp"))
    node = folder / "node"
    [port] = free_ports(1, "127.0.0.1")
    variables = serve_haproxy.environment(folder, fallback_port=1)
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(node / "admin"),
        server_state_base=str(node),
        server_state_file=str(node / "state"),
        metrics_socket_path=str(node / "metrics"),
        maxconn=int(variables["RAY_SERVE_HAPROXY_MAXCONN"]),
        has_received_routes=True,
        is_head=True,
    )
    ray = HAProxyApi(config, backends, str(node / "haproxy.cfg"))
    ray._generate_config_file_internal()
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", ray.config_file_path, "-dR"]
    process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (node / "admin").exists():
            assert process.poll() is None, "HAProxy has ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", process.pid, folder
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _backend(port: int) -> dict[str, BackendConfig]:
    return {"affect": BackendConfig("affect", "/", servers=[ServerConfig("replica", "127.0.0.1", port)])}


@pytest.fixture(scope="module")
def before_a_replica() -> Iterator[tuple[str, int, Path]]:
    with _Server(("127.0.0.1", 0), _Replica) as replica:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
        with _haproxy(_backend(replica.server_address[1])) as running:
            yield running
        replica.shutdown()


def _check(answer: httpx.Response, status: int, code: str, request_id: str = "") -> None:
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.status, problem.type) == (status, status, f"urn:affect:problem:{code}")
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    [told] = answer.headers.get_list("x-request-id")
    assert told == request_id or not request_id
    assert problem.instance == f"urn:affect:request:{told}"


def test_who_loses_a_replica_is_told_so_on_a_used_connection_too(before_a_replica: tuple[str, int, Path]) -> None:
    with httpx.Client(base_url=before_a_replica[0], headers={"X-Request-ID": "mine"}, timeout=60.0) as http:
        assert http.get("/").text == "mine"
        _check(http.post("/die", content=b"x" * 100_000), 503, "interrupted", "mine")
        assert http.get("/").text == "mine"


def test_an_id_that_could_break_a_log_is_replaced(before_a_replica: tuple[str, int, Path]) -> None:
    for headers in ([("X-Request-ID", "a b")], [("X-Request-ID", "one"), ("X-Request-ID", "two")], []):
        assert len(httpx.get(before_a_replica[0], headers=headers, timeout=60.0).text) == 36


def test_nobody_can_ask_in_the_name_of_another_machine(before_a_replica: tuple[str, int, Path]) -> None:
    given = {"X-Forwarded-For": "192.0.2.77"}
    assert httpx.get(f"{before_a_replica[0]}/whom", headers=given, timeout=60.0).text == "127.0.0.1"


def test_it_listens_at_one_address_and_obeys_one_user(before_a_replica: tuple[str, int, Path]) -> None:
    url, process, folder = before_a_replica
    listening = [each.laddr for each in psutil.Process(process).net_connections("tcp") if each.status == "LISTEN"]
    assert [f"http://{address}:{port}" for address, port in listening] == [url]
    assert stat.S_IMODE((folder / "node" / "admin").stat().st_mode) == 0o600


def test_without_a_replica_it_says_so() -> None:
    [nobody] = free_ports(1, "127.0.0.1")
    with _haproxy(_backend(nobody)) as (url, _, _):
        _check(httpx.get(f"{url}/v1/model", headers={"X-Request-ID": "mine"}, timeout=60.0), 503, "unavailable", "mine")


def test_before_anything_is_deployed_it_says_so() -> None:
    with _haproxy({}) as (url, _, _):
        _check(httpx.get(f"{url}/v1/model", timeout=60.0), 404, "not-found")


def test_a_configuration_that_looks_different_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="page of statistics"):
        serve_haproxy.confined("global\n    maxconn 5\n", tmp_path)
