"""The sizes of each system: a section of the parameters for every module of components/models that is one.

The names are those of the system's configuration, so that a section and what was found of the features make a model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.sections import Section


class Trimodal(Section):
    """Video and words brought into the audio's time by cross-modal attention (Khare et al. 2021)."""

    system: Literal["trimodal"] = "trimodal"
    width: int = Field(96, ge=8)
    num_heads: int = Field(4, ge=1)
    num_layers: int = Field(2, ge=1, description="Layers of the audio encoder and of each cross-modal block.")
    dropout: float = Field(0.1, ge=0, lt=1)
    modality_weights: tuple[float, float, float] = Field(
        (0.4, 0.4, 0.2), description="Shares of audio, video and text in the fused sequence."
    )
    summary: bool = Field(True, description="A linear part on clip statistics beside the transformer.")
    linear_head: bool = Field(False, description="Mean over time and one layer, instead of statistics and two.")


class Audiovisual(Section):
    """Audio and video that look at each other, then a shared memory (Tran and Soleymani 2022)."""

    system: Literal["audiovisual"] = "audiovisual"
    width: int = Field(240, ge=8)
    num_heads: int = Field(10, ge=1)
    num_layers: int = Field(4, ge=1, description="Layers of each cross-modal stack and of the memory.")


class SpeechText(Section):
    """wav2vec 2.0 and BERT, each attending to the other (Krishna 2021)."""

    system: Literal["speech_text"] = "speech_text"


Model = Annotated[Trimodal | Audiovisual | SpeechText, Field(discriminator="system")]
