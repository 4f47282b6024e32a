"""Alerts and dashboards: what they ask Prometheus for is what the endpoint, Ray and KubeRay export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import promql_parser
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.metrics.dashboards.common import DashboardConfig
from ray.dashboard.modules.metrics.dashboards.default_dashboard_panels import default_dashboard_config
from ray.dashboard.modules.metrics.dashboards.serve_dashboard_panels import serve_dashboard_config
from ray.dashboard.modules.metrics.dashboards.serve_deployment_dashboard_panels import (
    serve_deployment_dashboard_config,
)
from ray.dashboard.modules.metrics.dashboards.train_dashboard_panels import train_dashboard_config
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from serving.observation import Metrics
from serving.problems import PROBLEMS
from tests.infra import INFRA, Manifest, matches, needs_kubectl, of_kind, pods, rendered

pytestmark = needs_kubectl

README = (INFRA / "README.md").read_text(encoding="utf-8")

# Of the operator, which no package brings: as ray-operator/controllers/ray/metrics of KubeRay 1.7 defines them.
OF_KUBERAY = {
    "kuberay_job_deployment_status": {"name", "namespace", "deployment_status"},
    "kuberay_job_execution_duration_seconds": {"name", "namespace", "job_deployment_status", "retry_count"},
    "kuberay_service_condition_ready": {"name", "namespace", "condition"},
}
# Of Prometheus itself, and of the kubelet.
OF_KUBERNETES = {
    "up": {"job"},
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
}
# What Prometheus adds to each sample of a pod.
OF_THE_SCRAPE = {"job", "pod", "instance", "namespace"}


def _expressions() -> Iterator[tuple[str, str]]:
    """Each expression with where it stands."""
    [rules] = of_kind("monitoring", "PrometheusRule").values()
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for name, board in _dashboards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def _dashboards() -> Iterator[tuple[str, Manifest]]:
    files = of_kind("monitoring", "ConfigMap")["dashboards"]["data"]
    yield from ((name, json.loads(text)) for name, text in files.items())


def _selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def _of_the_endpoint() -> dict[str, set[str]]:
    """Names and labels of every sample that the endpoint's /metrics has after a request."""
    metrics = Metrics()
    metrics.requests.labels("/v1/emotion", "200", "").inc()
    metrics.seconds.labels("total").observe(0.1)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text(version="1", release=1).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _of_ray() -> set[str]:
    """Names that Ray's exporter has: of the gauges of a node, and those that Ray's own dashboards show."""
    configs: tuple[DashboardConfig, ...] = (
        default_dashboard_config,
        serve_dashboard_config,
        serve_deployment_dashboard_config,
        train_dashboard_config,
    )
    panels = [
        panel for config in configs for panel in [*config.panels, *(p for row in config.rows for p in row.panels)]
    ]
    shown = " ".join(target.expr for panel in panels for target in panel.targets)
    return {f"ray_{name}" for name in METRICS_GAUGES} | set(re.findall(r"\bray_\w+(?=\{)", shown))


def test_what_is_asked_for_is_exported() -> None:
    exported, ray = {**_of_the_endpoint(), **OF_KUBERAY, **OF_KUBERNETES}, _of_ray()
    for where, expression in _expressions():
        selectors = _selectors(expression)
        assert selectors, where
        for selector in selectors:
            name, labels = str(selector.name), {matcher.name for matcher in selector.matchers.matchers}
            if name.startswith("ray_"):
                assert name in ray, where
                continue
            assert name in exported, where
            assert labels <= exported[name] | OF_THE_SCRAPE, where


def test_a_metric_that_nobody_exports_is_found() -> None:
    [selector] = _selectors("rate(affect_request_total[5m])")
    assert selector.name not in _of_the_endpoint()
    assert "ray_node_gpu_utilization" not in _of_ray()


def test_alerts_name_problems_that_there_are() -> None:
    named = {
        matcher.value
        for _, expression in _expressions()
        for selector in _selectors(expression)
        for matcher in selector.matchers.matchers
        if matcher.name == "problem" and matcher.value
    }
    assert named
    assert named <= PROBLEMS.keys()


def test_every_alert_says_what_it_means() -> None:
    [rules] = of_kind("monitoring", "PrometheusRule").values()
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    for rule in alerts:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
    told = re.findall(r"^\| `(\w+)` \|", README.partition("## Alerts")[2], flags=re.MULTILINE)
    assert told == [rule["alert"] for rule in alerts]


def test_jobs_of_the_alerts_are_scraped() -> None:
    """A job has the name of what asks for it: NAMESPACE/NAME of a PodMonitor, the service of a ServiceMonitor."""
    monitors = {f"affect/{name}" for name in of_kind("monitoring", "PodMonitor")}
    monitors |= set(of_kind("monitoring", "ServiceMonitor"))
    jobs = {
        matcher.value
        for _, expression in _expressions()
        for selector in _selectors(expression)
        for matcher in selector.matchers.matchers
        if matcher.name == "job"
    }
    assert jobs
    assert jobs <= monitors


def test_monitors_find_ports_of_pods() -> None:
    for monitor in of_kind("monitoring", "PodMonitor").values():
        found = [group for group in pods("monitoring") if matches(monitor["spec"]["selector"], group.labels)]
        assert found
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for group in found:
                assert endpoint["port"] in {port["name"] for port in group.containers[0]["ports"]}
    for monitor in of_kind("monitoring", "ServiceMonitor").values():
        services = of_kind("monitoring", "Service").values()
        [service] = [
            each for each in services if matches(monitor["spec"]["selector"], each["metadata"].get("labels", {}))
        ]
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= {
            port["name"] for port in service["spec"]["ports"]
        }


def test_dashboards_are_whole() -> None:
    boards = dict(_dashboards())
    assert set(boards) == {"serving.json", "training.json"}
    assert len({board["uid"] for board in boards.values()}) == len(boards)
    for board in boards.values():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
        assert len({panel["id"] for panel in board["panels"]}) == len(places)
        assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in board["panels"])
    assert not [each for each in rendered("gpu") if each["metadata"]["name"] == "dashboards"]
