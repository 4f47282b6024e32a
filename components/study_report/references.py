"""Published numbers beside a study's own, each with how it came to be known."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from components.sections import Section

PATH = Path(__file__).parent / "references.yaml"


class Reference(Section):
    """One published number.

    Attributes:
        recipes: recipes of the very system; empty for a system that is there for orientation.
        value, low, high: in points of a hundred; CCC as it is.
        source: found in a public source, derived from one, or recalled and unchecked.
    """

    dataset: str
    system: str
    recipes: tuple[str, ...] = ()
    quantity: Literal["figure", "gain"] = "figure"
    metric: str
    labels: float = Field(1.0, gt=0, le=1)
    modalities: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    up_to: float | None = None
    protocol: str
    selection: Literal["validation", "test", "unknown"]
    source: Literal["found", "derived", "recalled"]
    where: str

    @model_validator(mode="after")
    def _says_one_thing(self) -> Reference:
        ways = [self.value is not None, self.low is not None and self.high is not None]
        ways += [self.at_least is not None, self.up_to is not None]
        if sum(ways) != 1:
            raise ValueError(f"reference {self.system}: give value, low and high, at_least, or up_to")
        return self

    @property
    def told(self) -> str:
        """The number in words, without its unit."""
        digits = 3 if self.metric.startswith("ccc") else 2
        if self.value is not None:
            return f"{self.value:.{digits}f}"
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else f"up to {self.up_to:g}"


def references(dataset: str) -> list[Reference]:
    """The published numbers on a corpus, those of the papers' own systems first."""
    entries = yaml.safe_load(PATH.read_text(encoding="utf-8"))["figures"]
    found = [Reference.model_validate(entry) for entry in entries]
    return sorted((each for each in found if each.dataset == dataset), key=lambda each: not each.recipes)
