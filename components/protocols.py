"""Evaluation protocols: which speakers or sessions test in which fold, as the papers divide a corpus."""

from __future__ import annotations

import difflib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["speaker", "session"]


@dataclass(frozen=True)
class Fold:
    """Names of the units that test and that validate in one fold; all others train."""

    test: frozenset[str]
    validation: frozenset[str]


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a corpus is cut into folds, each of which tests once.

    Attributes:
        name, description: as in reports.
        unit: what is never cut: a speaker, or a session with all who speak in it.
        num_folds: number of folds.
        groups: the units of each fold where the protocol lists them; else the units are cut in the order of their
            names into `num_folds` runs whose sizes differ by one at most, the longer ones last.
        validation_share: 0: the group that tests in the next fold validates. Else this share of all units is drawn
            from those that do not test.
    """

    name: str
    description: str
    unit: Unit
    num_folds: int
    groups: tuple[tuple[str, ...], ...] = ()
    validation_share: float = 0.0

    def __post_init__(self) -> None:
        assert self.num_folds >= 2, "one fold tests, another trains"
        assert not self.groups or len(self.groups) == self.num_folds
        assert len(set().union(*self.groups)) == sum(map(len, self.groups)), "a unit tests once"

    def fold(self, units: Sequence[str], number: int, *, seed: int) -> Fold:
        """The fold of a number, counted from 0, over the units that have labelled clips.

        Raises:
            ValueError: there is no such fold, a unit is none of the protocol's, or too few units are there.
        """
        if not 0 <= number < self.num_folds:
            raise ValueError(
                f"ingest.fold = {number}: {self.name} has {self.num_folds} folds, 0 to {self.num_folds - 1}"
            )
        there = sorted(set(units))
        groups = [[unit for unit in group if unit in there] for group in self.groups] or self._cut(there)
        strange = sorted(set(there) - {unit for group in groups for unit in group})
        if strange:
            raise ValueError(
                f"protocol {self.name} does not know {self.unit} {strange[0]!r}: mend the name, or set "
                "ingest.num_folds instead of ingest.protocol"
            )
        test = groups[number]
        if not test:
            raise ValueError(
                f"ingest.fold = {number} of protocol {self.name}: none of its {self.unit}s "
                f"({', '.join(self.groups[number])}) has a labelled clip; add them, or set ingest.num_folds instead "
                "of ingest.protocol"
            )
        rest = [unit for unit in there if unit not in test]
        validation = self._drawn(rest, len(there), seed) if self.validation_share else self._next(groups, number)
        if not set(rest) - set(validation):
            raise ValueError(
                f"protocol {self.name} leaves no {self.unit} for training: {len(there)} are too few for "
                f"{self.num_folds} folds with one for validation"
            )
        return Fold(frozenset(test), frozenset(validation))

    def _cut(self, units: Sequence[str]) -> list[list[str]]:
        if len(units) < self.num_folds:
            raise ValueError(f"{len(units)} {self.unit}s cannot be cut into {self.num_folds} folds: take fewer folds")
        ends = [number * len(units) // self.num_folds for number in range(self.num_folds + 1)]
        return [list(units[start:end]) for start, end in itertools.pairwise(ends)]

    def _next(self, groups: Sequence[Sequence[str]], number: int) -> Sequence[str]:
        """The next group that is there: of a part of a corpus, some may be empty."""
        following = (groups[(number + step) % len(groups)] for step in range(1, len(groups)))
        return next((group for group in following if group), ())

    def _drawn(self, units: Sequence[str], num_all: int, seed: int) -> Sequence[str]:
        num_drawn = max(1, round(self.validation_share * num_all))
        # A generator of its own for a seed: the same everywhere, whatever else was drawn.
        return random.Random(f"{self.name} {seed}").sample(list(units), min(num_drawn, len(units)))


def by_speaker(num_folds: int, *, validation_share: float) -> EvaluationProtocol:
    """Folds of speakers for a corpus that has no protocol of its own."""
    return EvaluationProtocol(
        name=f"{num_folds} folds by speaker",
        description=f"{num_folds} folds of speakers in the order of their names, validation speakers drawn",
        unit="speaker",
        num_folds=num_folds,
        validation_share=validation_share,
    )


def choose(protocols: Mapping[str, EvaluationProtocol], name: str, *, corpus: str) -> EvaluationProtocol:
    """The named protocol of a corpus.

    Raises:
        ValueError: there is no such protocol.
    """
    if name in protocols:
        return protocols[name]
    if not protocols:
        raise ValueError(f"corpus {corpus} has no protocol of its own: set ingest.num_folds instead of ingest.protocol")
    nearest = difflib.get_close_matches(name, protocols, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"corpus {corpus} has no protocol {name!r}{hint} There are: {', '.join(protocols)}")
