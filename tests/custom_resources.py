"""Custom resources against their definitions: the schema with unknown fields refused, and the rules in CEL."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from cel_expr_python import cel

from tests.conftest import REPOSITORY

DEFINITIONS = REPOSITORY.parent / "shared" / "k8s-schemas"

needs_definitions = pytest.mark.skipif(not DEFINITIONS.is_dir(), reason=f"there are no definitions in {DEFINITIONS}")

_ENVIRONMENT = cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN})


@functools.cache
def schema_of(kind: str) -> dict[str, Any]:
    """The v1 schema of a kind of KubeRay, as JSON Schema that refuses what it does not name."""
    text = (DEFINITIONS / f"ray.io_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    definition = yaml.load(text, yaml.CSafeLoader)
    assert definition["spec"]["names"]["kind"] == kind
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    _close(schema)
    # Of metadata a definition says only that it is an object.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def violations(resource: dict[str, Any], *, before: dict[str, Any] | None = None) -> list[str]:
    """What the API would refuse about a resource, in its words; `before` is the resource that it replaces."""
    schema = schema_of(resource["kind"])
    validator = jsonschema.Draft202012Validator(schema)
    wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]
    return wrong + list(_broken_rules(schema, resource, before, "$"))


def rules(schema: dict[str, Any]) -> Iterator[str]:
    """Every rule in CEL of a schema."""
    yield from (each["rule"] for each in schema.get("x-kubernetes-validations", []))
    for inner in _inner(schema):
        yield from rules(inner)


def _inner(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from schema.get("properties", {}).values()
    yield from (each for name in ("items", "additionalProperties") if isinstance(each := schema.get(name), dict))


def _close(schema: dict[str, Any]) -> None:
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["type"] = ["integer", "string"]
        schema.pop("anyOf", None)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for inner in _inner(schema):
        _close(inner)


def _broken_rules(schema: dict[str, Any], value: Any, before: Any, path: str) -> Iterator[str]:
    for each in schema.get("x-kubernetes-validations", []):
        # As the API does it: what compares with the former value is left out where there is none.
        if "oldSelf" in each["rule"] and before is None:
            continue
        found = _ENVIRONMENT.compile(each["rule"]).eval(data={"self": value, "oldSelf": before}).plain_value()
        assert isinstance(found, bool), f"{each['rule']}: {found}"
        if not found:
            yield f"{path}: {each.get('message', each['rule'])}"
    if isinstance(value, dict):
        former = before if isinstance(before, dict) else {}
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(inner, value[name], former.get(name), f"{path}.{name}")
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _broken_rules(schema["items"], each, None, f"{path}[{index}]")
