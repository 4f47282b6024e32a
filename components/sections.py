"""Groups of settings: typed, closed to unknown keys, merged by name, and refused in one line that helps.

A section may be of several kinds, told by its `system` or `kind`: a union of sections that pydantic tells apart by
that key. Merging keeps nothing of a section that becomes one of another kind, for its settings mean something else.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

SectionType = TypeVar("SectionType", bound=BaseModel)

_TAGS = ("system", "kind")

# How the parts of a setting's name are written for people; a unit at its end goes into brackets.
_WORDS = {"f1": "F1", "ccc": "CCC", "num": "number of", "min": "least", "max": "largest"}
_UNITS = {"s": "s", "h": "hours", "mib": "MiB", "hz": "Hz"}


def _title(name: str, _field: object) -> str:
    *words, last = name.split("_")
    unit = f" ({_UNITS[last]})" if words and last in _UNITS else ""
    told = " ".join(_WORDS.get(word, word) for word in (words if unit else [*words, last]))
    return f"{told[:1].upper()}{told[1:]}{unit}"


class Section(BaseModel):
    """A group of settings that refuses keys it does not know."""

    # The titles are those of the Run form.
    model_config = ConfigDict(extra="forbid", frozen=True, field_title_generator=_title)


def parse(model: type[SectionType], values: object, *, source: str) -> SectionType:
    """Build `model` from plain values.

    Raises:
        ValueError: one line that names the source, the key, what is wrong, and for an unknown key the nearest one.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{source}: expected settings by name, found {values!r}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{source}: {_explained(model, error.errors()[0])}") from error


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of `upper` on top, section by section."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        is_same = isinstance(below, dict) and isinstance(value, dict) and not _is_other_kind(below, value)
        merged[key] = merge(below, value) if isinstance(below, dict) and is_same else value
    return merged


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name, to stand behind it: `; did you mean ...?`, or nothing."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {match[0]}?" if match else ""


def check_used(section: Section, used: Collection[str]) -> None:
    """Refuse settings that a section of its kind would ignore.

    Raises:
        ValueError: one that is not `used` differs from its default.
    """
    for name, field in type(section).model_fields.items():
        if name not in used and getattr(section, name) != field.default:
            kind = getattr(section, "kind", "")
            raise ValueError(f"{name} says nothing where kind is {kind}: leave it out")


def _is_other_kind(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return any(tag in below and tag in value and below[tag] != value[tag] for tag in _TAGS)


def _explained(model: type[BaseModel], error: ErrorDetails) -> str:
    path, known = _place(model, error["loc"])
    where, context = ".".join(path), error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return f"unknown key {where}{nearest(path[-1], known)}"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = str(context["discriminator"]).strip("'")
        kinds = [kind.strip("'") for kind in str(context.get("expected_tags", "")).split(", ") if kind]
        if error["type"] == "union_tag_not_found":
            return f"{where}.{key} is missing"
        tag = str(context["tag"])
        return f"unknown {key} {tag!r} in {where}{nearest(tag, kinds) or ';'} there are: {', '.join(kinds)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where} = {error['input']!r}: {message}" if error["type"] != "value_error" else f"{where}: {message}"


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys that lead to an error, and the keys known beside the last one.

    pydantic's location also names which member of a union was taken, which no file has.
    """
    path: list[str] = []
    known: list[str] = []
    annotation: Any = model
    for part in location:
        members = _members(annotation)
        if len(members) > 1:
            annotation = next((member for member in members if part in _tags(member)), None)
            continue
        path.append(str(part))
        fields = members[0].model_fields if members else {}
        known = list(fields)
        annotation = fields[str(part)].annotation if str(part) in fields else None
    return path, known


def _members(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation allows: itself, or those of a union."""
    candidates = get_args(annotation) or (annotation,)
    return [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]


def _tags(member: type[BaseModel]) -> tuple[Any, ...]:
    found = [member.model_fields[tag] for tag in _TAGS if tag in member.model_fields]
    return get_args(found[0].annotation) if found else ()
