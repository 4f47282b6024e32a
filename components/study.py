"""A study: one system on one corpus, as the papers compare it, and the runs that this takes.

Folds x seeds x {scratch, pre-trained} x shares of the labels x modality subsets, and a ridge baseline on the same
clips. Every run is an ordinary run of the pipeline: `plan` gives each its `Choices`, and nothing here trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from components import datasets
from components.clip import MODALITIES
from components.params import Choices, Corpus, Ingest, Params, RecipeName, resolve
from components.sections import Section, merge

Learner = Literal["pretrained", "scratch", "ridge"]
Initialization = Literal["pretrained", "scratch"]

# What a study varies itself.
_OWN = (
    ("pretrain", "enabled", "initializations"),
    ("finetune", "label_share", "label_shares"),
    ("ingest", "protocol", "protocol"),
    ("ingest", "num_folds", "num_folds"),
    ("ingest", "fold", "folds"),
)


class StudyChoices(Section):
    """What a person chooses for a study: the Run form and `affect study`."""

    recipe: RecipeName = Field("quick", description="System and settings: a file of components/recipes.")
    finetune_on: Corpus = Field(Corpus(), description="Labelled corpus.")
    pretrain_on: Corpus | None = Field(None, description="Unlabelled corpus; none: the training part of the first.")
    protocol: str | None = Field(None, description="Published division of the corpus; none: its first, if it has any.")
    num_folds: int | None = Field(None, ge=2, description="Folds of speakers instead of a published protocol.")
    folds: list[int] = Field([], description="Only these folds, counted from 0; empty: all.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="Each seed is a run of its own.")
    initializations: list[Initialization] = Field(["scratch", "pretrained"], min_length=1)
    label_shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.1], min_length=1, description="Shares of the labelled training clips."
    )
    modalities: list[str] = Field(
        ["all"], min_length=1, description="Train on all, on each subset, or on named ones such as audio+video."
    )
    ridge: bool = Field(True, description="Compare with ridge regression on statistics of the same features.")
    workers_per_run: int = Field(1, ge=1, description="Training processes of one run; runs go beside each other.")
    parallel: int = Field(0, ge=0, description="Runs at once; 0: as many as Ray has processors for.")
    overrides: dict[str, Any] = Field({}, description="Settings of the recipe to replace, in the recipe's shape.")

    @model_validator(mode="after")
    def _own_settings_are_not_overridden(self) -> StudyChoices:
        for section, key, option in _OWN:
            if key in (self.overrides.get(section) or {}):
                raise ValueError(f"{section}.{key} is varied by the study: use {option} instead of an override")
        if self.protocol is not None and self.num_folds is not None:
            raise ValueError("protocol and num_folds are both set: leave one of the two out")
        for name in ("seeds", "folds", "label_shares", "initializations", "modalities"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice: {values}")
        return self


@dataclass(frozen=True, order=True)
class Condition:
    """What is compared: who learns, from which modalities, from which share of the labels."""

    modalities: tuple[str, ...]
    label_share: float
    learner: Learner

    @property
    def modality_name(self) -> str:
        return "+".join(self.modalities)

    def singles(self) -> tuple[Condition, ...]:
        """The same learner on each of the modalities alone."""
        return tuple(Condition((name,), self.label_share, self.learner) for name in self.modalities)

    def beside(self, learner: Learner) -> Condition:
        """The same with another learner."""
        return Condition(self.modalities, self.label_share, learner)


@dataclass(frozen=True)
class StudyRun:
    """One run: a condition in one fold with one seed, and the choices that the pipeline gets.

    Attributes:
        fold: None where the corpus is divided once.
    """

    condition: Condition
    fold: int | None
    seed: int
    choices: Choices

    @property
    def name(self) -> str:
        share = f"labels-{100 * self.condition.label_share:g}"
        fold = [] if self.fold is None else [f"fold-{self.fold}"]
        return ".".join([self.condition.modality_name, self.condition.learner, share, *fold, f"seed-{self.seed}"])


@dataclass(frozen=True)
class Division:
    """How a study divides its corpus: a published protocol, folds of speakers, or once (no folds)."""

    name: str
    description: str
    protocol: str | None
    num_folds: int | None
    folds: tuple[int | None, ...]


def plan(choices: StudyChoices) -> list[StudyRun]:
    """All runs of a study, those that share most next to each other.

    Raises:
        ValueError: the recipe, a setting, the corpus, a protocol, a fold or a modality does not exist.
    """
    division = divide(choices)
    base = _base(choices, division)
    learners: list[Learner] = [*choices.initializations]
    if choices.ridge:
        learners.append("ridge")
    runs = []
    for fold, seed, names in product(division.folds, choices.seeds, _subsets(choices, resolve(base))):
        for share, learner in product(choices.label_shares, learners):
            # Ridge needs no model of its own: it goes where one is made with the same features.
            is_pretrained = (choices.initializations[0] if learner == "ridge" else learner) == "pretrained"
            varied = {
                "features": {"modalities": list(names)},
                "finetune": {"label_share": share},
                "pretrain": {"enabled": is_pretrained},
                **({} if fold is None else {"ingest": {"fold": fold}}),
            }
            chosen = base.model_copy(update={"seed": seed, "overrides": merge(base.overrides, varied)})
            runs.append(StudyRun(Condition(names, share, learner), fold, seed, chosen))
    return runs


def divide(choices: StudyChoices) -> Division:
    """The division that a study uses, with the folds that were asked for.

    Raises:
        ValueError: there is no such corpus, protocol or fold.
    """
    corpus = choices.finetune_on
    key = choices.protocol
    if key is None and choices.num_folds is None:
        key = next(iter(datasets.load(corpus.dataset).PROTOCOLS), None)
    protocol = datasets.protocol_of(corpus, Ingest(protocol=key, num_folds=choices.num_folds))
    if protocol is None:
        if choices.folds:
            raise ValueError(f"folds: corpus {corpus.dataset} has no protocol of its own: set num_folds too")
        return Division("one division", "one division by speaker, not cross-validated", None, None, (None,))
    wrong = [fold for fold in choices.folds if not 0 <= fold < protocol.num_folds]
    if wrong:
        raise ValueError(f"folds: no fold {wrong[0]}: {protocol.name} has {protocol.num_folds}, from 0 on")
    folds = tuple(choices.folds) or tuple(range(protocol.num_folds))
    return Division(protocol.name, protocol.description, key, choices.num_folds, folds)


def _base(choices: StudyChoices, division: Division) -> Choices:
    """What all runs have in common."""
    workers = {"num_workers": choices.workers_per_run}
    divided = {"protocol": division.protocol, "num_folds": division.num_folds}
    return Choices(
        recipe=choices.recipe,
        finetune_on=choices.finetune_on,
        pretrain_on=choices.pretrain_on,
        overrides=merge(choices.overrides, {"pretrain": workers, "finetune": workers, "ingest": divided}),
    )


def _subsets(choices: StudyChoices, settings: Params) -> list[tuple[str, ...]]:
    """The modality subsets that are trained, the largest first."""
    available: tuple[str, ...] = tuple(name for name in MODALITIES if name in settings.features.modalities)
    order: dict[str, int] = {name: number for number, name in enumerate(MODALITIES)}
    found: dict[tuple[str, ...], None] = {}
    for name in choices.modalities:
        for subset in _named(name, available):
            found[subset] = None
    return sorted(found, key=lambda subset: (-len(subset), [order[name] for name in subset]))


def _named(name: str, available: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if name == "all":
        yield tuple(available)
    elif name == "each":
        for size in range(1, len(available) + 1):
            yield from combinations(available, size)
    else:
        parts = name.split("+")
        strange = [part for part in parts if part not in available]
        if strange:
            raise ValueError(
                f"modalities: {name!r}: the recipe has no {strange[0]!r}; write all, each, or some of "
                f"{', '.join(available)} joined by +"
            )
        yield tuple(part for part in available if part in parts)


assert set(get_args(Initialization)) <= set(get_args(Learner))
