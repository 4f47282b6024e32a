"""What the manifests keep to: rights, network, disruption and references. No light policy checker is kept on PyPI."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.infra import INFRA, OVERLAYS, Manifest, matches, needs_kubectl, of_kind, pods, rendered
from tests.pod_policies import wrong_with

pytestmark = needs_kubectl

README = (INFRA / "README.md").read_text(encoding="utf-8")

# Accounts that ask the Kubernetes API, and so have a token.
WITH_TOKEN = {"prefect-worker", "flow-run"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    found = {group.owner: wrong_with(group.spec, long_running=not group.ends) for group in pods(overlay)}
    assert not {owner: wrong for owner, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda pod: pod.pop("securityContext"), "may run as root"),
        (lambda pod: pod.update(hostNetwork=True), "shares a namespace of the node"),
        (lambda pod: pod.pop("serviceAccountName"), "runs as the default service account"),
        (lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "volume x: hostPath"),
        (lambda pod: pod["volumes"][0]["emptyDir"].clear(), "volume tmp: no limit"),
        (lambda pod: _first(pod)["securityContext"].update(privileged=True), "prefect-server: privileged"),
        (lambda pod: _first(pod)["securityContext"].update(capabilities={}), "prefect-server: has capabilities"),
        (
            lambda pod: _first(pod)["securityContext"].update(readOnlyRootFilesystem=False),
            "prefect-server: may write to its image",
        ),
        (lambda pod: _first(pod).update(image="a/b:latest"), "prefect-server: image a/b:latest is not pinned"),
        (lambda pod: _first(pod).update(image="host:5000/b"), "prefect-server: image host:5000/b is not pinned"),
        (
            lambda pod: _first(pod)["resources"]["limits"].pop("memory"),
            "prefect-server: no request or no limit of memory",
        ),
        (
            lambda pod: _first(pod)["resources"]["requests"].update(memory="9Gi"),
            "prefect-server: requests more memory than its limit",
        ),
        (lambda pod: _first(pod).pop("readinessProbe"), "prefect-server: no readinessProbe"),
        (
            lambda pod: _first(pod)["env"].append({"name": "A_PASSWORD", "value": "x"}),
            "prefect-server: A_PASSWORD is not taken from a secret",
        ),
        (lambda pod: pod["volumes"].clear(), "prefect-server: mounts tmp, which is none of the pod's volumes"),
    ],
)
def test_a_pod_that_is_not_restricted_is_found(change: Callable[[Manifest], object], wrong: str) -> None:
    pod = copy.deepcopy(of_kind("gpu", "Deployment")["prefect-server"]["spec"]["template"]["spec"])
    change(pod)
    assert wrong in wrong_with(pod)


def _first(pod: Manifest) -> Manifest:
    found: Manifest = pod["containers"][0]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_admits_restricted_pods_alone(overlay: str) -> None:
    [namespace] = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    namespaced = [each for each in rendered(overlay) if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in namespaced} == {"affect"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rights_are_few(overlay: str) -> None:
    assert not {each["kind"] for each in rendered(overlay)} & {"ClusterRole", "ClusterRoleBinding", "Secret"}
    roles, accounts = of_kind(overlay, "Role"), of_kind(overlay, "ServiceAccount")
    for role in roles.values():
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
    bound = {
        binding["roleRef"]["name"]: [each["name"] for each in binding["subjects"]]
        for binding in of_kind(overlay, "RoleBinding").values()
    }
    assert bound == {name: [name] for name in roles}
    assert set(roles) == WITH_TOKEN
    for name, account in accounts.items():
        assert account.get("automountServiceAccountToken", True) == (name in WITH_TOKEN)
    for group in pods(overlay):
        account = group.spec["serviceAccountName"]
        assert account in accounts
        assert group.spec.get("automountServiceAccountToken", True) == (account in WITH_TOKEN)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_talk_to_what_a_policy_lets_them(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["deny-all"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    selectors = [each["spec"]["podSelector"] for each in policies.values() if each["spec"]["podSelector"]]
    for group in pods(overlay):
        assert any(matches(each, group.labels) for each in selectors), group.owner


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_policy_and_service_finds_pods(overlay: str) -> None:
    labels = [group.labels for group in pods(overlay)]
    labels.append({"app.kubernetes.io/component": "flow-run", "affect-store": "client"})
    for policy in of_kind(overlay, "NetworkPolicy").values():
        selectors = [policy["spec"]["podSelector"]]
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            peers = [*rule.get("from", []), *rule.get("to", [])]
            selectors += [peer["podSelector"] for peer in peers if "namespaceSelector" not in peer]
        for selector in selectors:
            assert any(matches(selector, each) for each in labels), selector
    for service in of_kind(overlay, "Service").values():
        wanted = {"matchLabels": service["spec"]["selector"]}
        [found] = [group for group in pods(overlay) if matches(wanted, group.labels)]
        open_ports = {port["containerPort"] for each in found.containers for port in each.get("ports", [])}
        assert {port["port"] for port in service["spec"]["ports"]} <= open_ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_drain_takes_one_pod_at_a_time(overlay: str) -> None:
    budgets = [each["spec"] for each in of_kind(overlay, "PodDisruptionBudget").values()]
    for group in pods(overlay):
        # A lost training goes on from its checkpoint, a lost head from its store.
        if group.ends or group.owner.endswith(" head") or group.owner.startswith("RayJob"):
            continue
        [budget] = [each for each in budgets if matches(each["selector"], group.labels)]
        allowed = budget["maxUnavailable"] if "maxUnavailable" in budget else group.replicas - budget["minAvailable"]
        assert allowed == 1, f"{group.owner}: fewer would block a drain for ever"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_one_kind_are_on_different_nodes(overlay: str) -> None:
    for group in pods(overlay):
        if group.replicas > 1:
            constraints = group.spec["topologySpreadConstraints"]
            assert "kubernetes.io/hostname" in {each["topologyKey"] for each in constraints}, group.owner
            assert all(matches(each["labelSelector"], group.labels) for each in constraints), group.owner


def _references(value: Any) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key of what an object refers to."""
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if name in ("secretKeyRef", "secretRef"):
            yield "Secret", inner["name"], inner.get("key", "")
        elif name in ("basicAuth", "authorization"):
            yield from (("Secret", each["name"], each["key"]) for each in inner.values() if isinstance(each, dict))
        elif name == "secretName":
            yield "Secret", inner, ""
        elif name in ("configMapRef", "configMap"):
            yield "ConfigMap", inner["name"], ""
        elif name == "persistentVolumeClaim":
            yield "PersistentVolumeClaim", inner["claimName"], ""
        else:
            yield from _references(inner)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_referred_to_is_there_or_in_the_list_of_secrets(overlay: str) -> None:
    listed = dict(
        re.findall(r"^ *\| `([a-z-]+)` \| (`[^|]+`) \|", README.partition("### Secrets")[2], flags=re.MULTILINE)
    )
    for kind, name, key in _references(list(rendered(overlay))):
        if kind != "Secret":
            assert name in of_kind(overlay, kind)
            continue
        assert name in listed, f"tell in infra/README.md what secret {name} holds"
        assert not key or f"`{key}`" in listed[name], f"secret {name} has no {key} in infra/README.md"
