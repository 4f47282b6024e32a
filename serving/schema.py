"""What the endpoint answers, as types: the OpenAPI document, the app and the Python client share them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

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
    release: int = Field(description="Number in the release log; 0 when served outside of it.", examples=[3])


class Moment(Schema):
    """The estimate for one second of the clip."""

    start_s: float = Field(description="Start of the second, from the start of the clip.", examples=[0.0])
    end_s: float = Field(description="Its end; the last one may be shorter than a second.", examples=[1.0])
    probabilities: dict[str, float] = Field(description="Probability of each label; they sum to 1.")


class Answer(Schema):
    """What the model makes of one clip."""

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
        description="What the answer may suffer from, as stable codes: `no-face`, `silence`, `truncated`, ...",
        examples=[["no-face"]],
    )


class Limits(Schema):
    """What the endpoint accepts."""

    max_bytes: int = Field(description="Size of one uploaded file in bytes.")
    max_duration_s: float = Field(description="A longer recording is refused, in seconds.")
    max_analysed_s: float = Field(description="Only the first part is analysed, and the answer warns `truncated`.")
    max_characters: int = Field(description="Length of `text`.")


class ModelCard(ModelName):
    """The served model: where it comes from, what it knows and what it takes."""

    labels: list[str] = Field(description="Labels in the order of the model's outputs.")
    modalities: list[Modality] = Field(description="What it can use; any subset of them may be sent.")
    limits: Limits
    provenance: dict[str, object] = Field(
        description="Commit, data, parameters and figures, as the bundle records them."
    )
    refused: str | None = Field(
        None, description="Why the newest bundle could not be loaded; this model goes on serving until that is mended."
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
