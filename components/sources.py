"""Settings of what comes from elsewhere: features that were made before, and a recognizer of speech."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from components.sections import Section


class Precomputed(Section):
    """Features that were made elsewhere: read from files, brought to even steps by their time stamps.

    Names may hold `{clip_id}`, `{speaker_id}`, `{session_id}` and `{stem}` (of the clip's file). Where `path` has one
    of them there is a file for each clip, else one file holds all and `key` is looked up in it. Times count from the
    clip's start where the clip's own name is used, else from the recording's.
    """

    path: str = Field(description="OpenFace .csv, .npz, .npy, .h5 or .csd, by its absolute path.")
    width: int = Field(ge=1, description="Features of a step.")
    key: str = Field("{clip_id}", description="What a clip is called in a file that holds all.")
    rename: tuple[str, str] | None = Field(None, description="Regular expression and what replaces it in the names.")
    array: str | None = Field(None, description="Array of an npz or h5 file, where there are several.")
    columns: str = Field("AU??_r", description="Columns of a CSV: a pattern with ? and *, or names with commas.")
    step_s: float = Field(0.2, gt=0, description="Length of a step.")
    row_s: float | None = Field(None, gt=0, description="Length of a row, where the file has no time stamps.")
    pooling: Literal["mean", "nearest"] = Field("mean", description="A step is the mean of its rows, or the nearest.")
    # Set when a run is prepared, as a corpus's: DVC does not look outside its repository.
    fingerprint: SkipJsonSchema[str | None] = None

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if not Path(path).is_absolute():
            raise ValueError("a run works in a folder of its own: name the features by their absolute path")
        return path

    @field_validator("rename")
    @classmethod
    def _compiles(cls, rename: tuple[str, str] | None) -> tuple[str, str] | None:
        if rename is not None:
            try:
                re.sub(rename[0], rename[1], "")
            except (re.error, IndexError) as error:
                raise ValueError(f"no regular expression and replacement ({error})") from error
        return rename


class Transcribe(Section):
    """Words of clips that have sound and no transcript, by a speech recognizer of transformers; given ones stay."""

    path: str = Field(description="Folder of the recognizer, as save_pretrained writes it, by its absolute path.")
    language: str | None = Field(None, description="What is spoken, such as en, for a recognizer of many languages.")
    # Set when a run is prepared: DVC does not look outside its repository.
    digest: SkipJsonSchema[str | None] = None

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if not Path(path).is_absolute():
            raise ValueError("a run works in a folder of its own: name the recognizer by its absolute path")
        return path
