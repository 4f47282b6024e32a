"""Every knob of a run, typed: the choices of `params.yaml`, the recipe they name, and the two resolved into one.

`Choices` is what a person chooses: `params.yaml`, the Prefect form and the command line are this one model. A
recipe (`components/recipes/NAME.yaml`) holds the settings of one system. `resolve` merges them, most specific
last: the defaults below, the recipe, then `overrides`. An unknown key is refused with the nearest known one.

Run as a module it is the first stage: it writes the resolved parameters to `build/params.yaml`, where every
later stage, and DVC, reads them.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import SkipJsonSchema

from components.sections import Section, check_used, merge, nearest
from components.sections import parse as parse
from components.sources import Precomputed, Transcribe
from components.storage import write_atomically
from components.systems import Model, Trimodal

RECIPES = Path(__file__).parent / "recipes"
CHOICES_FILE = Path("params.yaml")
# Sections of that file which `components.schedules` and `components.monitoring` read.
SCHEDULES = "schedules"
MONITOR = "monitor"
PARAMS_FILE = Path("build/params.yaml")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def dataset_names() -> list[str]:
    """Names of the corpora that can be read: the modules of components/datasets."""
    found = pkgutil.iter_modules([str(Path(__file__).parent / "datasets")])
    return sorted(module.name for module in found if not module.name.startswith("_"))


# Names that a form offers to choose from; whoever writes another is told the nearest one.
RecipeName = Annotated[str, Field(json_schema_extra=lambda schema: schema.update(enum=recipe_names()))]
DatasetName = Annotated[str, Field(json_schema_extra=lambda schema: schema.update(enum=dataset_names()))]


class Corpus(Section):
    """One corpus and where it lies."""

    dataset: DatasetName = Field("synthetic", description="Name of the corpus: a module of components/datasets.")
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
    max_slice_loss: float = Field(
        0.1,
        ge=0,
        le=1,
        description="The same for each group of speakers and recordings; fails only when it is no chance.",
    )
    max_slice_gap: float = Field(
        0.25, ge=0, le=1, description="How far a group may lie below all clips, where there is no champion yet."
    )
    min_slice_clips: int = Field(20, ge=2, description="Smaller groups of test clips are not judged.")
    min_modality_share: float = Field(
        0.1,
        ge=-1,
        le=1,
        description="Share of the lead over a constant answer that each subset of the modalities has to keep; 0: none.",
    )
    max_noise_loss: float = Field(
        0.4, ge=0, le=1, description="What noise 20 dB below the voice may cost; this and the next fail only for sure."
    )
    max_gain_loss: float = Field(0.45, ge=0, le=1, description="What a voice 12 dB louder or softer may cost.")
    max_dropped_frames_loss: float = Field(0.15, ge=0, le=1, description="What losing every other frame may cost.")
    max_silence_loss: float = Field(
        0.05, ge=0, le=1, description="What a microphone that is off may cost beyond what no sound at all costs."
    )
    num_robustness_clips: int = Field(
        32, ge=0, description="Test clips whose recordings are made worse; 0: none, and no such gate."
    )
    max_calibration_error: float = Field(0.3, ge=0, le=1, description="Expected calibration error, 15 bins.")
    max_latency_s: float = Field(
        2.0, gt=0, description="Seconds within which 95 of 100 single requests over HTTP are answered."
    )
    max_memory_mib: float = Field(4096, gt=0, description="Memory of a server of the bundle, in MiB.")
    max_size_mib: float = Field(2048, gt=0, description="Size of the bundle's files, in MiB.")
    trial: Literal["none", "shadow", "canary"] = Field(
        "none",
        description="Try a model that passed on live requests, before its release. shadow: its answers are compared "
        "and not returned; canary: they are returned.",
    )
    trial_share: float = Field(0.1, gt=0, le=1, description="Share of the live requests for it.")
    trial_clips: int = Field(200, ge=1, description="Requests that it has to judge before the trial is judged.")
    trial_timeout_h: float = Field(24.0, gt=0, description="Hours to wait for them; then it is not released.")
    min_trial_agreement: float = Field(
        0.5, ge=0, le=1, description="Shadow: share of answers that have to be the champion's; fails only for sure."
    )
    max_trial_failed_share: float = Field(
        0.0, ge=0, le=1, description="Requests that it may fail to answer where the champion does, as a share."
    )
    max_trial_slowdown: float = Field(
        2.0, gt=0, description="How many times as long as the champion it may take for 95 of 100 requests."
    )
    approval: bool = Field(False, description="Wait for a person's word, in the Prefect UI, before a release.")
    approval_timeout_h: float = Field(24.0, gt=0, description="Hours to wait for it; then the model is not released.")
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


def _check_kind(section: Section, path: str | None, own: tuple[str, ...]) -> None:
    """Refuse settings that this kind ignores, and a kind without the folder that it needs."""
    always = ("kind", "sample_rate_hz", "frame_rate_hz", "max_words")
    check_used(section, (*always, *own))
    if "path" in own and path is None:
        kind = getattr(section, "kind", "")
        raise ValueError(f"kind {kind} needs path: give both at once, as {{kind: {kind}, path: ...}}")
    if "precomputed" in own and getattr(section, "precomputed", None) is None:
        raise ValueError(
            "kind precomputed needs both at once: {kind: precomputed, precomputed: {path: ..., width: ...}}"
        )


class AudioFeatures(Section):
    """What is heard: log-mel filter banks, consecutive frames stacked; the samples themselves; or what an encoder says.

    `log_mel` is built in. `waveform` has one feature a step and a step a sample. `encoder` runs a frozen speech encoder
    of transformers, such as wav2vec 2.0, from a folder. `precomputed` was made elsewhere.
    """

    kind: Literal["log_mel", "waveform", "encoder", "precomputed"] = "log_mel"
    sample_rate_hz: int = Field(16_000, ge=8_000)
    num_mels: int = Field(40, ge=8, le=128)
    window_s: float = Field(0.025, gt=0)
    hop_s: float = Field(0.010, gt=0)
    pitch: bool = Field(False, description="Beside the bands of a frame, how high the voice is and how voiced.")
    stack: int = Field(4, ge=1, description="Frames joined into one step: 4 hops of 10 ms are 25 steps a second.")
    path: str | None = Field(None, description="Folder of the encoder, as save_pretrained writes it.")
    precomputed: Precomputed | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        own: dict[str, tuple[str, ...]] = {
            "log_mel": ("num_mels", "window_s", "hop_s", "pitch", "stack"),
            "waveform": (),
            "encoder": ("path",),
            "precomputed": ("precomputed",),
        }
        _check_kind(self, self.path, own[self.kind])
        return self


class VideoFeatures(Section):
    """What is seen: a descriptor of the tracked face, built in (`histogram`) or by a frozen encoder of transformers; or
    what was made elsewhere (`precomputed`)."""

    kind: Literal["histogram", "encoder", "precomputed"] = "histogram"
    frame_rate_hz: float = Field(12.5, gt=0, description="Steps a second, taken by time stamp.")
    face_size: int = Field(48, ge=16, description="Side of the face crop in pixels.")
    cell_size: int = Field(8, ge=4, description="Side of a cell of the gradient histograms in pixels.")
    num_orientations: int = Field(6, ge=2)
    face_model: str | None = Field(
        None, description="YuNet network that finds faces, an ONNX file by its absolute path; none: OpenCV's cascade."
    )
    # Set when a run is prepared, as a corpus's fingerprint.
    face_model_digest: SkipJsonSchema[str | None] = None
    path: str | None = Field(None, description="Folder of the encoder, as save_pretrained writes it.")
    precomputed: Precomputed | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        own: dict[str, tuple[str, ...]] = {
            "histogram": ("face_size", "cell_size", "num_orientations", "face_model", "face_model_digest"),
            "encoder": ("path", "face_model", "face_model_digest"),
            "precomputed": ("precomputed",),
        }
        _check_kind(self, self.path, own[self.kind])
        if self.face_model is not None and not Path(self.face_model).is_absolute():
            raise ValueError(f"face_model {self.face_model}: a run works in a folder of its own; give an absolute path")
        return self


class TextFeatures(Section):
    """Words of the transcript: those that the training part uses most (`words`), or the pieces of a tokenizer."""

    kind: Literal["words", "pretrained"] = "words"
    max_words: int = Field(64, ge=1, description="Words, or pieces of words, that are looked at.")
    vocabulary_size: int = Field(4096, ge=16)
    path: str | None = Field(None, description="Folder or name on the hub of the model whose tokenizer it is.")
    transcribe: Transcribe | None = Field(None, description="Recognize the words where there is sound and no text.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = {"words": ("vocabulary_size", "transcribe"), "pretrained": ("path", "transcribe")}
        _check_kind(self, self.path, own[self.kind])
        return self


class Features(Section):
    """What is computed from each clip, the same in training and in serving; what is precomputed cannot be served."""

    audio: AudioFeatures = AudioFeatures()
    video: VideoFeatures = VideoFeatures()
    text: TextFeatures = TextFeatures()
    modalities: tuple[Literal["audio", "video", "text"], ...] = Field(
        ("audio", "video", "text"), min_length=1, description="What is looked at; the rest is as if it were missing."
    )
    max_duration_s: float = Field(20.0, gt=0, description="Longer clips are cut here, and the answer says so.")
    clips_per_shard: int = Field(128, ge=1)


class Optimization(Section):
    """Settings that both trainings share."""

    num_epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=2, description="Clips of one step over all workers.")
    learning_rate: float = Field(1e-3, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    optimizer: Literal["adamw", "bert_adam"] = Field("adamw", description="bert_adam: without bias correction.")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="How the rate falls after the warm-up.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the products; bfloat16 is faster on GPUs, and on processors that have it."
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute what layers hold a second time instead of keeping it; for models that do not fit into "
        "memory. Equal results, slower.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="Of the weights, gradients and optimizer's states over the workers; full: each holds a share, for "
        "models that one worker's memory does not hold.",
    )
    compile: bool = Field(
        False,
        description="Compile the layers first, for long trainings: minutes at the start, and it wants a C++ compiler "
        "or a GPU. Not together with activation_checkpointing or sharding.",
    )
    checkpoint_every_steps: int = Field(50, ge=1)
    num_workers: int = Field(2, ge=1)
    min_workers: int | None = Field(
        None, ge=1, description="Begin and go on with so few where no more fit; none: always num_workers."
    )

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers}: no more than num_workers, {self.num_workers}")
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> Self:
        if self.compile and (self.activation_checkpointing or self.sharding != "none"):
            raise ValueError("compile: not together with activation_checkpointing or sharding; set it to false")
        return self


class Pretrain(Optimization):
    """Masked modelling on clips without labels."""

    enabled: bool = Field(True, description="False trains from scratch.")
    mask_share: float = Field(0.15, gt=0, lt=1, description="Positions of each modality that are masked.")
    mask_span: int = Field(3, ge=1, description="Neighbouring audio and video steps masked together.")
    modality_mask_share: float = Field(0.2, ge=0, lt=1, description="Clips that lose whole modalities.")
    loss_weights: tuple[float, float, float] = Field((1.0, 1.0, 1.0), description="Audio, video, text.")
    match_weight: float = Field(0.0, ge=0, description="Weight of matching words with voice and face; 0: none of it.")


class Finetune(Optimization):
    """Learning the labels."""

    modality_dropout: float = Field(0.2, ge=0, lt=1, description="Chance that a present modality is left out.")
    time_mask_share: float = Field(0.2, ge=0, lt=1, description="Largest share of a clip's steps hidden in one block.")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    label_share: float = Field(1.0, gt=0, le=1, description="Share of the labelled training clips used, by class.")
    select_on_test: bool = Field(
        False, description="Choose the epoch on the test part, as some papers do; marks every figure as optimistic."
    )


class Recipe(Section):
    """Everything that describes one system, as in `components/recipes/NAME.yaml`."""

    ingest: Ingest = Ingest()
    synthetic: Synthetic = Synthetic()
    features: Features = Features()
    model: Model = Trimodal()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()


class Choices(Section):
    """What a person chooses for a run: `params.yaml`, the Run form and the command line."""

    recipe: RecipeName = Field("quick", description="System and settings: a file of components/recipes.")
    finetune_on: Corpus = Field(Corpus(), description="Labelled corpus.")
    pretrain_on: Corpus | None = Field(None, description="Unlabelled corpus; none: the training part of the first.")
    seed: int = Field(0, ge=0, description="Of splits, weights and batches.")
    gates: Gates = Gates()
    overrides: dict[str, Any] = Field({}, description="Settings of the recipe to replace, in the recipe's shape.")


class Params(Recipe):
    """A run's parameters with nothing left open."""

    recipe: str
    finetune_on: Corpus
    pretrain_on: Corpus | None
    seed: int
    gates: Gates


def load_choices(path: Path = CHOICES_FILE) -> Choices:
    """Read `params.yaml` but for what is no choice of a run, its schedules and how drift is watched; a missing file
    means the defaults.

    Raises:
        ValueError: the file is no YAML, or a key or value in it is wrong.
    """
    values = read_yaml(path) if path.exists() else {}
    chosen = {key: value for key, value in values.items() if key not in (SCHEDULES, MONITOR)}
    return parse(Choices, chosen, source=str(path))


def resolve(choices: Choices) -> Params:
    """Merge the recipe that `choices` names with its overrides.

    Raises:
        ValueError: there is no such recipe, or a key or value is wrong.
    """
    merged = _overridden(choices, source="overrides")
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
    return parse(Params, read_yaml(path), source=str(path))


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
    is_choice = key.split(".")[0] in Choices.model_fields
    change = change if is_choice else {"overrides": change}
    changed = parse(Choices, merge(choices.model_dump(mode="json"), change), source="--set")
    if not is_choice:
        _overridden(changed, source="--set")
    return changed


def _overridden(choices: Choices, *, source: str) -> dict[str, Any]:
    """The settings of the recipe that `choices` names, with its overrides on top; both are checked."""
    path = RECIPES / f"{choices.recipe}.yaml"
    if not path.exists():
        raise ValueError(
            f"unknown recipe {choices.recipe!r}{nearest(choices.recipe, recipe_names())}; "
            f"there are: {', '.join(recipe_names())}"
        )
    # Every value written out: an override then meets the kind of the section that it changes.
    recipe = parse(Recipe, read_yaml(path), source=str(path)).model_dump(mode="json")
    merged = merge(recipe, choices.overrides)
    parse(Recipe, merged, source=source)
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings that a file names; none in an empty one.

    Raises:
        ValueError: it is no YAML, or holds no settings by name.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected settings by name, found {values!r}")
    return values


def main() -> None:
    params = resolve(load_choices())
    write_atomically(PARAMS_FILE, to_yaml(params).encode())


if __name__ == "__main__":
    main()
