"""What the endpoint answers, as types: the OpenAPI document, the app and the Python client share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from components.clip import Modality


class Schema(BaseModel):
    """A value of the HTTP contract: immutable, and without fields nobody described."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextRequest(Schema):
    """The JSON form of a request, for words alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"example": {"text": "what a lovely day"}})

    text: str = Field(description="What was said, as plain text.")


class ModelName(Schema):
    """Which model gave an answer."""

    system: str = Field(description="The system, a module of components/models.", examples=["trimodal"])
    version: str = Field(description="Digest of the bundle's files.", examples=["3f9c2a7d10be"])
    release: int = Field(
        description="Number in the release log; 0 when served outside of it, as a model on trial is.", examples=[3]
    )


class Moment(Schema):
    """The estimate for one second of the clip."""

    start_s: float = Field(description="Start of the second, from the start of the clip.", examples=[0.0])
    end_s: float = Field(description="Its end; the last one may be shorter than a second.", examples=[1.0])
    probabilities: dict[str, float] = Field(description="Probability of each label; they sum to 1.")


class ValueMoment(Schema):
    """The values for one second of the clip."""

    start_s: float = Field(description="Start of the second, from the start of the clip.", examples=[0.0])
    end_s: float = Field(description="Its end; the last one may be shorter than a second.", examples=[1.0])
    values: dict[str, float] = Field(description="Value of each label on the model's scale.")


class MultilabelMoment(Schema):
    """The estimate for one second of the clip, of several labels."""

    start_s: float = Field(description="Start of the second, from the start of the clip.", examples=[0.0])
    end_s: float = Field(description="Its end; the last one may be shorter than a second.", examples=[1.0])
    probabilities: dict[str, float] = Field(description="Probability of each label on its own.")


class LabelAnswer(Schema):
    """Whether one of several labels is there."""

    probability: float = Field(description="Of this label on its own.", examples=[0.81])
    threshold: float = Field(description="From this probability on it counts as there.", examples=[0.5])
    present: bool = Field(description="Whether it counts as there.", examples=[True])


class ClassAnswer(Schema):
    """What the model makes of one clip: one class of several. The only kind of answer that does not name its kind."""

    request_id: str = Field(description="The `X-Request-ID` sent with the request, or one made for it.")
    model: ModelName
    label: str = Field(description="The label with the highest probability.", examples=["happy"])
    probabilities: dict[str, float] = Field(
        description="Probability of each label; they sum to 1.", examples=[{"happy": 0.81, "neutral": 0.19}]
    )
    timeline: list[Moment] = Field(description="Estimates second by second; empty when only words were given.")
    contributions: dict[Modality, float] = Field(
        description="How much the log-probability of `label` falls when one modality is left out; negative when that "
        "modality spoke against it. With one modality alone it is compared with a uniform guess.",
        examples=[{"audio": 0.42, "video": 0.11, "text": -0.03}],
    )
    warnings: list[str] = Field(
        description="What the answer may suffer from, as codes: `no-face`, `silence`, `truncated`, `transcribed`, ...",
        examples=[["no-face"]],
    )


class MultilabelAnswer(Schema):
    """What the model makes of one clip: any of several labels."""

    request_id: str = Field(description="The `X-Request-ID` sent with the request, or one made for it.")
    model: ModelName
    kind: Literal["multilabel"] = "multilabel"
    labels: dict[str, LabelAnswer] = Field(description="Each label by name; several may be there, or none.")
    timeline: list[MultilabelMoment] = Field(description="Second by second; empty when only words were given.")
    contributions: dict[Modality, dict[str, float]] = Field(
        description="How much each label's log-odds fall when one modality is left out; negative when that modality "
        "spoke against it. One modality alone is compared with even odds.",
        examples=[{"audio": {"happy": 0.9, "sad": -0.2}, "text": {"happy": 0.1, "sad": 0.0}}],
    )
    warnings: list[str] = Field(description="What the answer may suffer from, as stable codes.", examples=[["no-face"]])


class ValuesAnswer(Schema):
    """What the model makes of one clip: values on a scale."""

    request_id: str = Field(description="The `X-Request-ID` sent with the request, or one made for it.")
    model: ModelName
    kind: Literal["values"] = "values"
    values: dict[str, float] = Field(
        description="Value of each label. A model may go a little beyond the scale.", examples=[{"arousal": 3.4}]
    )
    scale: tuple[float, float] = Field(description="The ends of the scale.", examples=[(1.0, 5.0)])
    timeline: list[ValueMoment] = Field(description="Second by second; empty when only words were given.")
    contributions: dict[Modality, dict[str, float]] = Field(
        description="How much each value falls when one modality is left out. One modality alone is compared with the "
        "middle of the scale.",
        examples=[{"audio": {"arousal": 0.6}, "video": {"arousal": -0.1}}],
    )
    warnings: list[str] = Field(description="What the answer may suffer from, as stable codes.", examples=[["no-face"]])


def _is_none(value: object) -> bool:
    return value is None


def _kind_of(value: Any) -> str:
    """The kind of an answer; one that does not name it is of classes."""
    return str(value.get("kind", "classes") if isinstance(value, Mapping) else getattr(value, "kind", "classes"))


Answer = Annotated[
    Annotated[ClassAnswer, Tag("classes")]
    | Annotated[MultilabelAnswer, Tag("multilabel")]
    | Annotated[ValuesAnswer, Tag("values")],
    Discriminator(_kind_of),
]
"""What the model makes of one clip, told apart by `kind`."""


class Limits(Schema):
    """What the endpoint accepts."""

    max_bytes: int = Field(description="Size of one uploaded file in bytes.")
    max_duration_s: float = Field(description="A longer recording is refused, in seconds.")
    max_analysed_s: float = Field(description="Only the first part is analysed, and the answer warns `truncated`.")
    max_characters: int = Field(description="Length of `text`.")
    max_clips: int = Field(description="Clips of one batch.")


class AskedTask(Schema):
    """What a model answers that does not name one class of several."""

    kind: Literal["multilabel", "values"] = Field(description="The kind of its answers.")
    name: str = Field(description="Name of the label set within its corpus.", examples=["dimensions"])
    source: str = Field(description="Where the labels come from, in words.")
    scale: tuple[float, float] | None = Field(description="Values: the ends of their scale.")


class TrialShown(Schema):
    """Another model that judges a share of the requests to `/v1/emotion`."""

    number: int = Field(description="Of the trial.", examples=[1])
    version: str = Field(description="Of the model on trial; an answer that names it is its own.")
    mode: Literal["shadow", "canary"] = Field(
        description="shadow: its answers are compared and not returned; canary: they are returned."
    )
    share: float = Field(description="Of the requests that it judges.", examples=[0.1])


class ModelCard(ModelName):
    """The served model: where it comes from, what it knows and what it takes."""

    labels: list[str] = Field(description="Labels in the order of the model's outputs.")
    modalities: list[Modality] = Field(description="What it can use; any subset of them may be sent.")
    task: AskedTask | None = Field(
        None,
        description="What it answers; left out when that is one class of several.",
        exclude_if=lambda value: value is None,
    )
    limits: Limits
    features: str = Field(
        description="How its features are made, as a digest; features that a caller sends must be of this kind."
    )
    provenance: dict[str, object] = Field(
        description="Commit, data, parameters and figures, as the bundle records them."
    )
    refused: str | None = Field(
        None, description="Why the newest bundle could not be loaded; this model goes on serving until that is mended."
    )
    trial: TrialShown | None = Field(
        None, description="A trial that goes on beside this model.", exclude_if=lambda value: value is None
    )


class Health(Schema):
    """The process is there, or the model is."""

    status: str = Field(examples=["ok"])


class Problem(BaseModel):
    """An error, as RFC 9457 (`application/problem+json`) says it."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(
        description="Stable name of the kind of error, for programs.", examples=["urn:affect:problem:not-media"]
    )
    title: str = Field(description="The kind of error in words, the same each time.")
    status: int = Field(description="The HTTP status code.", ge=400, le=599, examples=[422])
    detail: str = Field(description="What is wrong this time and what to do about it, in one line.")
    instance: str = Field(description="This occurrence: `urn:affect:request:` and the request id.")


class ClipAnswer(Schema):
    """What became of one clip of a batch: an answer or a problem."""

    name: str = Field(description="The clip's name in the request.", examples=["a"])
    answer: Answer | None = Field(
        None, description="What the model makes of it; not there when there is a problem.", exclude_if=_is_none
    )
    problem: Problem | None = Field(
        None, description="Why it could not be judged; not there when there is an answer.", exclude_if=_is_none
    )


class BatchAnswer(Schema):
    """What the model makes of several clips."""

    request_id: str = Field(description="The `X-Request-ID` sent with the request, or one made for it.")
    clips: list[ClipAnswer] = Field(description="One entry a clip, in the order of the request.")


class StreamStart(Schema):
    """A first message that says what the binary messages will be, where they are not a recording in a container."""

    format: Literal["recording", "pcm16"] = Field(
        description="`recording`: WebM, Ogg, WAV or Matroska from its beginning, as MediaRecorder makes it, which is "
        "what is taken when nothing is said. `pcm16`: samples of 16 bits, little-endian, channels interleaved.",
        examples=["pcm16"],
    )
    sample_rate_hz: int = Field(16_000, ge=8_000, le=192_000, description="Of `pcm16`.")
    num_channels: int = Field(1, ge=1, le=2, description="Of `pcm16`: mono or stereo.")


class StreamText(Schema):
    """All words so far; each such message replaces the former one."""

    text: str = Field(description="What was said until now.", examples=["what a"])


class StreamEnd(Schema):
    """The last message of a caller: now the answer is wanted."""

    end: Literal[True] = Field(description="Always true.")


class StreamEstimate(Schema):
    """The estimate for the last seconds of a stream."""

    event: Literal["estimate"] = "estimate"
    start_s: float = Field(description="Start of the seconds that it is for, from the start of the stream.")
    end_s: float = Field(description="Their end: how much of the stream was decoded.", examples=[2.25])
    answer: Answer = Field(description="As for a clip of these seconds; the times of its timeline are the stream's.")


class StreamFinal(Schema):
    """The answer for the whole stream, the same as `POST /v1/emotion` gives for its bytes."""

    event: Literal["final"] = "final"
    answer: Answer


class StreamProblem(Schema):
    """Why the stream ends here; the connection is closed with code 4000 and the problem's status."""

    event: Literal["problem"] = "problem"
    problem: Problem


StreamEvent = Annotated[StreamEstimate | StreamFinal | StreamProblem, Field(discriminator="event")]
"""What the endpoint sends on a stream, told apart by `event`."""
