"""API keys: kept as hashes, wanted by the endpoint, limited, never logged; and no open endpoint without them."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from components.settings import Settings
from flows import key_list
from serving import keys
from serving.client import Client, ServingError
from serving.deploy import serve_config
from serving.guard import SUBPROTOCOL, Guarded
from serving.keys import Keys, bearer
from tests.conftest import REPOSITORY
from tests.endpoint import Endpoint, problem_of, serve

ZEROS = "0" * 64


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def guarded(here: Settings) -> Iterator[Endpoint]:
    """An endpoint without a model: who is let through is told so with 503."""
    with serve(Endpoint(keys=lambda: keys.of_settings(here))) as running:
        yield running


def test_a_key_is_kept_as_its_hash_for_its_owner_alone(here: Settings) -> None:
    made, line = key_list.add("anna", 60, here)
    text = here.api_keys_file.read_text()
    assert made not in text
    assert line == f"anna {keys.digest_of(made)} 60"
    assert line in text.splitlines()
    assert stat.S_IMODE(here.api_keys_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.platform_key_file(here).stat().st_mode) == 0o600
    assert [key.name for key in key_list.listed(here)] == [keys.PLATFORM, "anna"]
    found = Keys(here.api_keys_file).find(made)
    assert found is not None
    assert found.name == "anna"


def test_what_cannot_be_listed_is_refused(here: Settings) -> None:
    key_list.add("anna", 60, here)
    for name in ("anna", keys.PLATFORM, "a b", "", "#x"):
        with pytest.raises(ValueError, match="name"):
            key_list.add(name, 60, here)
    with pytest.raises(ValueError, match="there are: platform, anna"):
        key_list.remove("ben", here)
    with pytest.raises(ValueError, match="AFFECT_API_KEYS is set"):
        key_list.add("ben", 60, here.model_copy(update={"api_keys": here.api_keys_file.read_text()}))


@pytest.mark.parametrize(
    "text",
    [
        "anna",
        "anna 12",
        f"anna {'0' * 64} 0",
        f"anna {'0' * 64} 1 2",
        f"a {'0' * 64}\na {'1' * 64}",
        f"-x {'0' * 64}",
        "\0",
    ],
)
def test_a_damaged_list_is_named_without_quoting_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    path.write_text(text)
    with pytest.raises(ValueError, match="line") as refused:
        Keys(path)
    assert "0000" not in str(refused.value)
    with pytest.raises(ValueError, match="AFFECT_API_KEYS"):
        Keys(secret=text)


def test_comments_and_rates_may_be_left_out_or_in() -> None:
    [first, second] = keys.parse(f"# keys\n\nanna {'0' * 64}\nben {'1' * 64} 7 # of Ben\n", source="here")
    assert (first.per_minute, second.per_minute) == (keys.DEFAULT_PER_MINUTE, 7)
    with pytest.raises(ValueError, match="holds no key"):
        Keys(secret="# nothing")


def test_without_keys_this_machine_alone_is_answered(guarded: Endpoint) -> None:
    with httpx.Client(base_url=guarded.url, timeout=60.0) as http:
        problem_of(http.get("/v1/model"), "no-model")
        # Uvicorn believes a proxy on this machine about who asks.
        other = {"X-Forwarded-For": "192.0.2.7"}
        assert "affect keys add" in problem_of(http.get("/v1/model", headers=other), "keys-needed").detail
        problem_of(http.get("/metrics", headers=other), "keys-needed")
        assert http.get("/healthz", headers=other).status_code == 200


def test_with_keys_everybody_needs_one_from_the_next_request_on(guarded: Endpoint, here: Settings) -> None:
    with httpx.Client(base_url=guarded.url, timeout=60.0) as http:
        problem_of(http.get("/v1/model"), "no-model")
        made, _ = key_list.add("anna", 60, here)
        refused = http.get("/v1/model")
        assert problem_of(refused, "unauthorized").status == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        problem_of(http.post("/v1/emotion", json={"text": "hello"}), "unauthorized")
        problem_of(http.get("/metrics"), "unauthorized")
        problem_of(http.get("/v1/nothing"), "unauthorized")
        problem_of(http.get("//v1/model"), "unauthorized")
        problem_of(http.get(f"/v1/model?key={made}"), "unauthorized")
        for header in (
            f"Basic {made}",
            made,
            f"Bearer {made}x",
            "Bearer",
            "Bearer \xff",
            f"Bearer {keys.digest_of(made)}",
        ):
            answer = http.get("/v1/model", headers={b"authorization": header.encode("latin-1")})
            problem_of(answer, "unauthorized")
        for path in ("/healthz", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
            assert http.get(path).status_code == 200, path
        problem_of(http.get("/readyz"), "no-model")
        problem_of(http.get("/v1/model", headers=bearer(made)), "no-model")
        assert http.get("/metrics", headers={"authorization": f"bearer {made}"}).status_code == 200
        key_list.remove("anna", here)
        problem_of(http.get("/v1/model", headers=bearer(made)), "unauthorized")


def test_a_list_that_is_lost_or_damaged_admits_nobody(guarded: Endpoint, here: Settings) -> None:
    made, _ = key_list.add("anna", 60, here)
    with httpx.Client(base_url=guarded.url, headers=bearer(made), timeout=60.0) as http:
        problem_of(http.get("/v1/model"), "no-model")
        here.api_keys_file.write_text("anna is welcome\n")
        problem_of(http.get("/v1/model"), "keys-unreadable")
        problem_of(http.get("/v1/model"), "keys-unreadable")
        here.api_keys_file.unlink()
        problem_of(http.get("/v1/model"), "unauthorized")


def test_each_key_has_a_rate_of_its_own(guarded: Endpoint, here: Settings) -> None:
    slow, quick = key_list.add("slow", 2, here)[0], key_list.add("quick", 600, here)[0]
    with httpx.Client(base_url=guarded.url, timeout=60.0) as http:
        for _ in range(2):
            problem_of(http.get("/v1/model", headers=bearer(slow)), "no-model")
        refused = http.get("/v1/model", headers=bearer(slow))
        assert problem_of(refused, "rate-limited").status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        problem_of(http.get("/v1/model", headers=bearer(quick)), "no-model")
        assert http.get("/healthz", headers=bearer(slow)).status_code == 200


def test_no_key_is_in_any_log(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    made, _ = key_list.add("anna", 60, here)
    caplog.set_level(logging.NOTSET)
    with serve(Endpoint(keys=lambda: keys.of_settings(here)), log_level="trace") as running:
        with httpx.Client(base_url=running.url, timeout=60.0) as http:
            for header in (bearer(made), bearer(f"{made}-mistyped"), {"authorization": made}):
                http.get("/v1/model", headers=header)
        with Client(running.url, key=made) as client, pytest.raises(ServingError, match="affect retrain"):
            client.model()
    logged = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert "GET /v1/model" in logged
    assert made not in logged
    assert keys.digest_of(made) not in logged
    assert made not in repr(here.model_copy(update={"api_key": made}))


def test_the_platform_asks_its_own_endpoint_alone_with_its_key(here: Settings) -> None:
    assert keys.own_key(here, here.endpoint_url) == ""
    key_list.add("anna", 60, here)
    own = keys.own_key(here, here.endpoint_url)
    found = Keys(here.api_keys_file).find(own)
    assert found is not None
    assert found.name == keys.PLATFORM
    assert keys.own_key(here, "http://elsewhere.example") == ""
    mine = here.model_copy(update={"api_key": "mine"})
    assert keys.own_key(mine, "http://elsewhere.example") == "mine"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", "", "::ffff:192.0.2.7"])
def test_no_open_endpoint_without_keys(host: str, tmp_path: Path) -> None:
    open_to_others = Settings(home=tmp_path, host=host)
    with pytest.raises(ValueError, match="affect keys add"):
        serve_config("", 0, here=open_to_others)
    key_list.add("anna", 60, open_to_others)
    assert serve_config("", 0, here=open_to_others)["http_options"]["host"] == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_addresses_need_no_keys(host: str, tmp_path: Path) -> None:
    keys.require_for(host, Settings(home=tmp_path))


def test_a_replica_gets_the_list_and_no_key(here: Settings) -> None:
    given = here.model_copy(update={"api_key": "mine", "api_keys": f"anna {'0' * 64}"})
    application = serve_config("", 0, here=given)["applications"][0]
    assert application["runtime_env"]["env_vars"]["AFFECT_API_KEYS"] == f"anna {'0' * 64}"
    assert "mine" not in json.dumps(application["runtime_env"])


def test_a_web_socket_brings_its_key_in_a_header_or_among_its_subprotocols(here: Settings) -> None:
    async def greet(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("welcome")
        await socket.close()

    made, _ = key_list.add("anna", 600, here)
    app = Starlette(routes=[WebSocketRoute("/v1/stream", greet)])
    app.add_middleware(Guarded, keys=lambda: keys.of_settings(here))
    client = TestClient(app)
    with client.websocket_connect("/v1/stream", headers=bearer(made)) as socket:
        assert socket.receive_text() == "welcome"
    with client.websocket_connect("/v1/stream", subprotocols=[SUBPROTOCOL, f"affect.key.{made}"]) as socket:
        assert socket.receive_text() == "welcome"
        assert socket.accepted_subprotocol == SUBPROTOCOL
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/v1/stream", subprotocols=[SUBPROTOCOL]),
    ):
        pass
    assert refused.value.status_code == 401


def test_the_commands_make_list_and_remove(tmp_path: Path) -> None:
    def affect(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "AFFECT_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "flows.cli", "keys", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)

    made = json.loads(affect("add", "anna", "--per-minute", "30", "--json").stdout)
    assert made["line"] in (tmp_path / "api-keys").read_text()
    listed = affect("list")
    assert "anna 30/min" in listed.stdout
    assert made["key"] not in listed.stdout
    again = affect("add", "anna")
    assert (again.returncode, "there is such a key" in again.stderr) == (1, True)
    assert affect("remove", "anna").returncode == 0
    assert "anna" not in affect("list").stdout
