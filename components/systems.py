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
    """Audio and video that look at each other, then the joint sequence at itself (Tran and Soleymani 2022)."""

    system: Literal["audiovisual"] = "audiovisual"
    width: int = Field(240, ge=8)
    num_heads: int = Field(10, ge=1)
    num_layers: int = Field(4, ge=1, description="Layers of each of the three stacks.")
    embedding_dropout: float = Field(0.25, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="In the joint stack.")
    cross_attention_dropout: float = Field(0.0, ge=0, lt=1)
    relu_dropout: float = Field(0.1, ge=0, lt=1)
    residual_dropout: float = Field(0.1, ge=0, lt=1)
    causal: bool = Field(True, description="A step sees no later one.")
    position_on_zero_frames: bool = Field(False, description="Masked and padded frames are told where they stand.")
    normalise_inputs: bool = Field(False, description="Bring features to mean 0 and deviation 1.")
    head_width: int = Field(16, ge=1, description="Hidden units of the classifier.")


class SpeechText(Section):
    """wav2vec 2.0 and BERT, each attending to the other (Krishna 2021)."""

    system: Literal["speech_text"] = "speech_text"
    audio_encoder: str | None = Field(None, description="Folder or name on the hub; none draws the weights.")
    text_encoder: str | None = Field(None, description="Folder or name on the hub; none draws the weights.")
    width: int = Field(256, ge=8, description="Of both streams, after the convolutions.")
    num_heads: int = Field(8, ge=1)
    kernel_size: int = Field(3, ge=1, description="Steps that the convolutions see; odd.")
    dropout: float = Field(0.1, ge=0, lt=1)
    ablation: Literal["none", "concatenation"] = Field("none", description="Leave the attention out.")
    freeze: Literal["none", "front_end", "all"] = Field("none", description="What of the encoders is not trained.")
    normalise_waveform: bool = True


Model = Annotated[Trimodal | Audiovisual | SpeechText, Field(discriminator="system")]
