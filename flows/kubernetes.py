"""Custom objects of Kubernetes, asked for until its API answers: through prefect-kubernetes, which finds it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import aiohttp
from kubernetes_asyncio.client.exceptions import ApiException
from prefect_kubernetes import custom_objects
from prefect_kubernetes.credentials import KubernetesCredentials

_GROUP: Final = {"group": "ray.io", "version": "v1"}
_RETRY_S: Final = 1.0
_ANSWER_S: Final = 30.0
# What the API answers with while it is restarted, moved or has too much to do. 410 is for a version that it no longer
# has: each call here begins anew.
_PASSING: Final = (408, 410, 429, 500, 502, 503, 504)


class RequestRefused(RuntimeError):
    """The Kubernetes API will not do it however often it is asked, or did not answer before the deadline."""


class Conflict(RequestRefused):
    """The object has changed since it was read, or is there already."""


class Missing(RequestRefused):
    """There is no such object."""


class CustomObject:
    """One object of KubeRay, where `cluster` leads: the pod's service account, or else this machine's kubeconfig.

    Each call asks again while the API is not to be reached or fails, until its deadline of `time.monotonic()`. The
    calls are prefect-kubernetes' tasks without their runs: a flow's page would have one for every look at a status.
    """

    def __init__(self, cluster: KubernetesCredentials, plural: str, namespace: str, name: str) -> None:
        self._cluster, self._plural, self._namespace, self._name = cluster, plural, namespace, name

    def __str__(self) -> str:
        return f"{self._plural} {self._namespace}/{self._name}"

    def read(self, deadline: float) -> dict[str, Any]:
        """The object as it is now.

        Raises:
            Missing: there is none.
            RequestRefused: it may not be read, or nobody answered.
        """
        return self._ask(custom_objects.get_namespaced_custom_object.fn, deadline, name=self._name)

    def create(self, manifest: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Make the object.

        Raises:
            Conflict: it is there already, by a former request that seemed to fail, too.
            RequestRefused: it may not be made so, or nobody answered.
        """
        return self._ask(custom_objects.create_namespaced_custom_object.fn, deadline, body=manifest)

    def delete(self, deadline: float) -> None:
        """Have the object deleted, and all that belongs to it; nothing happens when there is none.

        Raises:
            RequestRefused: it may not be deleted, or nobody answered.
        """
        with contextlib.suppress(Missing):
            self._ask(custom_objects.delete_namespaced_custom_object.fn, deadline, name=self._name)

    def change(self, patch: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Merge a patch into the object; with a `resourceVersion` only where it is still that.

        Raises:
            Conflict: it has changed meanwhile.
            Missing: there is none.
            RequestRefused: it may not be changed so, or nobody answered.
        """
        call = custom_objects.patch_namespaced_custom_object.fn
        # By itself the client says that it sends the other kind of patch, which is a list of operations.
        return self._ask(call, deadline, name=self._name, body=patch, _content_type="application/merge-patch+json")

    def _ask(self, call: Callable[..., Coroutine[Any, Any, Any]], deadline: float, **arguments: Any) -> dict[str, Any]:
        while True:
            try:
                asked = call(
                    self._cluster,
                    **_GROUP,
                    plural=self._plural,
                    namespace=self._namespace,
                    _request_timeout=_ANSWER_S,
                    **arguments,
                )
                answer: dict[str, Any] = asyncio.run(asked)
                return answer
            except ApiException as error:
                refused = _refusal(error)
                if error.status not in _PASSING:
                    raise refused from error
                why = str(refused)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                why = f"the Kubernetes API does not answer: {error or type(error).__name__}"
            if time.monotonic() + _RETRY_S > deadline:
                raise RequestRefused(why)
            time.sleep(_RETRY_S)


def _refusal(error: ApiException) -> RequestRefused:
    """The API's own words about a refusal."""
    try:
        told = json.loads(error.body or "")["message"]
    except (json.JSONDecodeError, KeyError, TypeError):
        told = str(error.reason)
    kind = {404: Missing, 409: Conflict}.get(error.status, RequestRefused)
    return kind(f"the Kubernetes API refuses it ({error.status}): {told}")
