"""A stand-in of the Kubernetes API for KubeRay's objects: real HTTP, with versions and merge patches as there.

It is no cluster: whoever starts it plays the operator, by a function that is called before each answer.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefect_kubernetes.credentials import KubernetesClusterConfig, KubernetesCredentials

TOKEN = "token-of-the-service-account"

# Failures without a status: the connection breaks before an answer, or in the middle of it.
BROKEN, CUT = 0, -1

Object = dict[str, Any]


@dataclass
class KubernetesApi:
    """What the stand-in holds, and how it misbehaves.

    Attributes:
        objects: by plural, namespace and name.
        failures: what the next requests are answered with, in order: a status, BROKEN or CUT.
        lost_answers: methods of which the next request is done, and then answered with a 500.
        operator: changes the objects as an operator would; called before each request is answered.
        asked: method and path of every request.
    """

    url: str = ""
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    lost_answers: list[str] = field(default_factory=list)
    operator: Callable[[KubernetesApi], None] = lambda _: None
    asked: list[str] = field(default_factory=list)

    @property
    def cluster(self) -> KubernetesCredentials:
        """How a client reaches it, as a kubeconfig says it."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        return KubernetesCredentials(cluster_config=KubernetesClusterConfig(config=config, context_name="test"))

    def put(self, plural: str, manifest: Object) -> Object:
        """Hold an object as if it had just been applied."""
        metadata = manifest["metadata"]
        made = copy.deepcopy(manifest)
        made["metadata"] |= {"resourceVersion": "1", "generation": 1}
        self.objects[plural, metadata["namespace"], metadata["name"]] = made
        return made


@contextlib.contextmanager
def running() -> Iterator[KubernetesApi]:
    """The stand-in on a free port of this machine."""
    api, lock = KubernetesApi(), threading.Lock()

    class Handler(_Handler):
        def do_GET(self) -> None:
            self.answer(api, lock)

        do_PATCH = do_POST = do_DELETE = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def answer(self, api: KubernetesApi, lock: threading.Lock) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with lock:
            api.asked.append(f"{self.command} {self.path}")
            failure = api.failures.pop(0) if api.failures else None
            if failure == BROKEN:
                self.connection.close()
                return
            api.operator(api)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, document = _refusal(401, "Unauthorized")
            elif failure is not None and failure != CUT:
                status, document = _refusal(failure, "the server is not able to handle the request")
            else:
                status, document = _answer(api, self.command, self.path, self.headers.get("Content-Type", ""), body)
                if self.command in api.lost_answers:
                    api.lost_answers.remove(self.command)
                    status, document = _refusal(500, "the connection to the database was lost")
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if failure == CUT else content)


def _answer(api: KubernetesApi, method: str, path: str, content_type: str, body: bytes) -> tuple[int, Object]:
    parts = path.split("?")[0].split("/")
    if method == "POST" and len(parts) == 7:
        return _create(api, parts[6], parts[5], json.loads(body))
    if len(parts) != 8 or parts[1:5] != ["apis", "ray.io", "v1", "namespaces"]:
        return _refusal(404, "the server could not find the requested resource")
    namespace, plural, name = parts[5:]
    present = api.objects.get((plural, namespace, name))
    if present is None:
        return _refusal(404, f'{plural}.ray.io "{name}" not found')
    if method == "DELETE":
        return 200, api.objects.pop((plural, namespace, name))
    if method == "PATCH":
        if content_type != "application/merge-patch+json":
            return _refusal(415, f"the body of the request was in an unknown format: {content_type}")
        patch = json.loads(body)
        version = patch.get("metadata", {}).pop("resourceVersion", present["metadata"]["resourceVersion"])
        if version != present["metadata"]["resourceVersion"]:
            return _refusal(409, "the object has been modified; please apply your changes to the latest version")
        before = copy.deepcopy(present["spec"])
        _merge(present, patch)
        metadata = present["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        metadata["generation"] += present["spec"] != before
    return 200, present


def _create(api: KubernetesApi, plural: str, namespace: str, manifest: Object) -> tuple[int, Object]:
    name = manifest["metadata"]["name"]
    if (plural, namespace, name) in api.objects:
        return _refusal(409, f'{plural}.ray.io "{name}" already exists')
    return 201, api.put(plural, manifest)


def _merge(value: Object, patch: Object) -> None:
    """RFC 7386."""
    for name, inner in patch.items():
        if isinstance(inner, dict) and isinstance(value.get(name), dict):
            _merge(value[name], inner)
        elif inner is None:
            value.pop(name, None)
        else:
            value[name] = inner


def _refusal(status: int, message: str) -> tuple[int, Object]:
    return status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}
