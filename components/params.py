"""Every knob of a run, typed: the choices of `params.yaml`, the recipe they name, and the two resolved into one.

`Choices` is what a person chooses: `params.yaml`, the Prefect form and the command line are this one model. A
recipe (`components/recipes/NAME.yaml`) holds the settings of one system. `resolve` merges them, most specific
last: the defaults below, the recipe, then `overrides`. An unknown key is refused with the nearest known one.

Run as a module it is the first stage: it writes the resolved parameters to `build/params.yaml`, where every
later stage, and DVC, reads them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.json_schema import SkipJsonSchema

from components.storage import write_atomically

RECIPES = Path(__file__).parent / "recipes"
CHOICES_FILE = Path("params.yaml")
PARAMS_FILE = Path("build/params.yaml")


class Section(BaseModel):
    """A group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Corpus(Section):
    """One corpus and where it lies."""

    dataset: str = Field("synthetic", description="Name of the corpus: a module of components/datasets.")
    root: str | None = Field(None, description="Folder of the release, or the table's file; none for synthetic.")
    task: str | None = Field(None, description="What is asked, where the corpus has several tasks; none: its first.")
    # Set when a run is prepared: DVC does not look outside its repository, so this is what tells it that files
    # of the corpus came, went or changed.
    fingerprint: SkipJsonSchema[str | None] = None

    @model_serializer(mode="wrap")
    def _without_empty_fingerprint(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The Run form knows no such field, and the API refuses what the form does not know.
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if key != "fingerprint" or value is not None}


class Gates(Section):
    """What a new model must reach before it is served."""

    min_macro_f1: float = Field(0.3, ge=0, le=1, description="Floor of the macro-F1 on the test speakers.")
    min_mean_weighted_accuracy: float = Field(
        0.55, ge=0, le=1, description="The same for several labels: mean of their weighted accuracies; 0.5 is chance."
    )
    min_mean_ccc: float = Field(
        0.1, ge=-1, le=1, description="The same for values: mean of their CCC; 0 is any constant."
    )
    max_champion_loss: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Macro-F1 (or what has a floor instead) that may be lost against the champion, "
        "at the interval's low end.",
    )
    num_resamples: int = Field(1000, ge=100, le=100_000, description="Bootstrap resamples over speakers.")


class Ingest(Section):
    """Which recordings are accepted, and how speakers are divided."""

    min_duration_s: float = Field(0.3, gt=0, description="Shorter clips are rejected, in seconds.")
    max_duration_s: float = Field(120.0, gt=0, description="Longer clips are rejected, in seconds.")
    max_rejected_share: float = Field(0.2, ge=0, le=1, description="More rejected clips than this share stop the run.")
    validation_share: float = Field(0.17, gt=0, lt=1, description="Share of speakers for choosing the epoch.")
    test_share: float = Field(0.25, gt=0, lt=1, description="Share of speakers held out for the figures.")
    test_speakers: list[str] = Field([], description="Hold out these speakers instead of drawing them.")
    protocol: str | None = Field(None, description="Divide as this published protocol of the corpus does.")
    num_folds: int | None = Field(None, ge=2, description="Divide into folds of speakers, for want of a protocol.")
    fold: int = Field(0, ge=0, description="Which fold tests, from 0; needs protocol or num_folds.")


class Synthetic(Section):
    """Size of the generated corpus."""

    num_speakers: int = Field(24, ge=3, le=1000)
    num_labelled: int = Field(480, ge=12, description="Labelled clips, over all speakers.")
    num_unlabelled: int = Field(1920, ge=0, description="Unlabelled clips, over all speakers.")
    seed: int = Field(7, ge=0)


class AudioFeatures(Section):
    """Log-mel filter banks, consecutive frames stacked."""

    sample_rate_hz: int = Field(16_000, ge=8_000)
    num_mels: int = Field(40, ge=8, le=128)
    window_s: float = Field(0.025, gt=0)
    hop_s: float = Field(0.010, gt=0)
    stack: int = Field(4, ge=1, description="Frames joined into one step: 4 hops of 10 ms are 25 steps a second.")


class VideoFeatures(Section):
    """A descriptor of the tracked face."""

    frame_rate_hz: float = Field(12.5, gt=0, description="Steps a second, taken by time stamp.")
    face_size: int = Field(48, ge=16, description="Side of the face crop in pixels.")
    cell_size: int = Field(8, ge=4, description="Side of a cell of the gradient histograms in pixels.")
    num_orientations: int = Field(6, ge=2)


class TextFeatures(Section):
    """Words of the transcript."""

    max_words: int = Field(64, ge=1)
    vocabulary_size: int = Field(4096, ge=16)


class Features(Section):
    """What is computed from each clip, the same in training and in serving."""

    audio: AudioFeatures = AudioFeatures()
    video: VideoFeatures = VideoFeatures()
    text: TextFeatures = TextFeatures()
    modalities: tuple[Literal["audio", "video", "text"], ...] = Field(
        ("audio", "video", "text"), min_length=1, description="What is looked at; the rest is as if it were missing."
    )
    max_duration_s: float = Field(20.0, gt=0, description="Longer clips are cut here, and the answer says so.")
    clips_per_shard: int = Field(128, ge=1)


class Model(Section):
    """The network: a module of components/models and its size."""

    system: str = "trimodal"
    width: int = Field(96, ge=8)
    num_heads: int = Field(4, ge=1)
    num_layers: int = Field(2, ge=1, description="Layers of the audio encoder and of each cross-modal block.")
    dropout: float = Field(0.1, ge=0, lt=1)
    modality_weights: tuple[float, float, float] = Field(
        (0.4, 0.4, 0.2), description="Shares of audio, video and text in the fused sequence."
    )


class Optimization(Section):
    """Settings that both trainings share."""

    num_epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=2, description="Clips of one step over all workers.")
    learning_rate: float = Field(1e-3, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    checkpoint_every_steps: int = Field(50, ge=1)
    num_workers: int = Field(2, ge=1)


class Pretrain(Optimization):
    """Masked modelling on clips without labels."""

    enabled: bool = Field(True, description="False trains from scratch.")
    mask_share: float = Field(0.15, gt=0, lt=1, description="Positions of each modality that are masked.")
    mask_span: int = Field(3, ge=1, description="Neighbouring audio and video steps masked together.")
    modality_mask_share: float = Field(0.2, ge=0, lt=1, description="Clips that lose whole modalities.")
    loss_weights: tuple[float, float, float] = Field((1.0, 1.0, 1.0), description="Audio, video, text.")
    match_weight: float = Field(0.0, ge=0, description="Weight of matching words with voice and face; 0: none of it.")


class Finetune(Optimization):
    """Classification with labels."""

    modality_dropout: float = Field(0.2, ge=0, lt=1, description="Chance that a present modality is left out.")
    time_mask_share: float = Field(0.2, ge=0, lt=1, description="Largest share of a clip's steps hidden in one block.")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    label_share: float = Field(1.0, gt=0, le=1, description="Share of the labelled training clips used, by class.")


class Recipe(Section):
    """Everything that describes one system, as in `components/recipes/NAME.yaml`."""

    ingest: Ingest = Ingest()
    synthetic: Synthetic = Synthetic()
    features: Features = Features()
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()


class Choices(Section):
    """What a person chooses for a run: `params.yaml`, the Run form and the command line."""

    recipe: str = Field("quick", description="System and settings: a file of components/recipes.")
    finetune_on: Corpus = Field(Corpus(), description="Labelled corpus.")
    pretrain_on: Corpus | None = Field(None, description="Unlabelled corpus; none: the training part of the first.")
    seed: int = Field(0, ge=0)
    gates: Gates = Gates()
    overrides: dict[str, Any] = Field({}, description="Settings of the recipe to replace, in the recipe's shape.")


class Params(Recipe):
    """A run's parameters with nothing left open."""

    recipe: str
    finetune_on: Corpus
    pretrain_on: Corpus | None
    seed: int
    gates: Gates


SectionType = TypeVar("SectionType", bound=BaseModel)


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
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(model, first["loc"][:-1])
            raise ValueError(f"{source}: unknown key {where}{_nearest(str(first['loc'][-1]), known)}") from error
        raise ValueError(f"{source}: {where} = {first['input']!r}: {first['msg']}") from error


def load_choices(path: Path = CHOICES_FILE) -> Choices:
    """Read `params.yaml`; a missing file means the defaults.

    Raises:
        ValueError: the file is no YAML, or a key or value in it is wrong.
    """
    return parse(Choices, _read_yaml(path) if path.exists() else {}, source=str(path))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def resolve(choices: Choices) -> Params:
    """Merge the recipe that `choices` names with its overrides.

    Raises:
        ValueError: there is no such recipe, or a key or value is wrong.
    """
    path = RECIPES / f"{choices.recipe}.yaml"
    if not path.exists():
        raise ValueError(
            f"unknown recipe {choices.recipe!r}{_nearest(choices.recipe, recipe_names())}; "
            f"there are: {', '.join(recipe_names())}"
        )
    recipe = _read_yaml(path)
    parse(Recipe, recipe, source=str(path))
    parse(Recipe, choices.overrides, source="overrides")
    merged = _merge(recipe, choices.overrides)
    chosen = choices.model_dump(mode="json", exclude={"overrides"})
    return parse(Params, {**merged, **chosen}, source=f"recipe {choices.recipe} with overrides")


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read the resolved parameters of a run.

    Raises:
        FileNotFoundError: the first stage has not run.
        ValueError: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro` (or `python -m components.params`) first")
    return parse(Params, _read_yaml(path), source=str(path))


def to_yaml(section: BaseModel) -> str:
    """The settings as YAML, every value written out."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False)


def with_setting(choices: Choices, assignment: str) -> Choices:
    """Apply one `section.key=value`, a choice or a setting of the recipe, the value read as YAML.

    Raises:
        ValueError: the assignment has no `=`, or names an unknown key or a value that is out of bounds.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {assignment}: write it as section.key=value, such as finetune.num_epochs=3")
    change: Any = yaml.safe_load(text)
    for part in reversed(key.split(".")):
        change = {part: change}
    if key.split(".")[0] not in Choices.model_fields:
        parse(Recipe, change, source="--set")
        change = {"overrides": change}
    return parse(Choices, _merge(choices.model_dump(mode="json"), change), source="--set")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected settings by name, found {values!r}")
    return values


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {match[0]}?" if match else ""


def main() -> None:
    params = resolve(load_choices())
    write_atomically(PARAMS_FILE, to_yaml(params).encode())


if __name__ == "__main__":
    main()
