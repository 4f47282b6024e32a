"""The audiovisual system: voice and face look at each other, then the joint sequence at itself.

After Tran and Soleymani, "A pre-trained audio-visual transformer for emotion recognition" (ICASSP 2022), in the
sizes of their published configurations: base (width 240, 10 heads, 4 layers) and large (384, 12, 8). The defaults
are the authors' choices throughout, also those that one would not expect: a step sees the past alone, and a frame
that is zero, because it was masked or lies beyond the end, is not told where it stands.

Two things go beyond the paper. Steps beyond a clip's length are no keys, so that padding changes nothing also
without causality. And a missing modality is a sequence of zero frames that nobody can look at.

Shape suffixes: B batch, T steps, F features of a step, D width of a stream, E = 2 D, C classes, K windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from components.models.audiovisual_layers import AudiovisualStack, ReconstructionHead, StackSettings
from components.models.configuration import SystemConfig
from components.models.layers import valid_steps

_LARGEST_STEP_DIFFERENCE_S: Final = 1e-6


class AudiovisualConfig(SystemConfig):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """Sizes and choices of the audiovisual system; the defaults are the authors' base model.

    Attributes:
        num_layers: of each of the three stacks.
        embedding_dropout, relu_dropout, residual_dropout: of all stacks.
        attention_dropout, cross_attention_dropout: of the joint stack, and of the two cross-modal ones.
        causal: a step sees no later one.
        position_on_zero_frames: also masked and padded frames are told where they stand.
        normalise_inputs: bring features to mean 0 and deviation 1 over the training frames (the authors do not).
        head_width: hidden units of the classifier.
    """

    model_type = "affect_audiovisual"

    system: str = "audiovisual"
    modalities: list[str] | tuple[str, ...] = ("audio", "video")
    audio_features: int = 512
    video_features: int = 17
    audio_step_s: float = 0.2
    video_step_s: float = 0.2
    width: int = 240
    num_heads: int = 10
    num_layers: int = 4
    embedding_dropout: float = 0.25
    attention_dropout: float = 0.1
    cross_attention_dropout: float = 0.0
    relu_dropout: float = 0.1
    residual_dropout: float = 0.1
    causal: bool = True
    position_on_zero_frames: bool = False
    normalise_inputs: bool = False
    head_width: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check_modalities("audio", "video")
        if self.width % self.num_heads:
            raise ValueError(f"audiovisual: width {self.width} is no multiple of num_heads {self.num_heads}")
        if abs(self.audio_step_s - self.video_step_s) > _LARGEST_STEP_DIFFERENCE_S:
            raise ValueError(
                f"audiovisual: a step of audio lasts {self.audio_step_s:g} s and one of video {self.video_step_s:g} s: "
                "the system joins them step by step, so set the features to one rate"
            )


@dataclass(frozen=True)
class AudiovisualOutput:
    """What `AudiovisualModel` computes on the way, by name.

    Attributes:
        logits_BC: scores of the head; no columns where the model has none.
        pooled_BD: (B, 2 D) the joint sequence at the last valid step.
        joint_BTE: the joint sequence.
        step_mask_BT: its valid steps: those of the longer modality.
        video_from_audio_BTD, audio_from_video_BTD: what each stream found in the other.
    """

    logits_BC: Tensor
    pooled_BD: Tensor
    joint_BTE: Tensor
    step_mask_BT: Tensor
    video_from_audio_BTD: Tensor
    audio_from_video_BTD: Tensor


@dataclass(frozen=True)
class AudiovisualReconstruction:
    """What the model believes the (normalised) input frames to be."""

    audio_BTF: Tensor
    video_BTF: Tensor


class AudiovisualModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """Two-modality cross-attention transformer over audio and video at one rate."""

    config_class = AudiovisualConfig
    base_model_prefix = ""
    main_input_name = "audio_BTF"
    supports_gradient_checkpointing = True
    HEADS: ClassVar[tuple[str, ...]] = ("head.",)
    audio_mean_F: Tensor
    audio_deviation_F: Tensor
    video_mean_F: Tensor
    video_deviation_F: Tensor

    def __init__(self, config: AudiovisualConfig) -> None:
        super().__init__(config)
        width = config.width
        for name, num_features in (("audio", config.audio_features), ("video", config.video_features)):
            self.register_buffer(f"{name}_mean_F", torch.zeros(num_features))
            self.register_buffer(f"{name}_deviation_F", torch.ones(num_features))
        # Without a bias, so that a zero frame stays zero.
        self.audio_projection = nn.Conv1d(config.audio_features, width, kernel_size=1, bias=False)
        self.video_projection = nn.Conv1d(config.video_features, width, kernel_size=1, bias=False)
        cross = _stack_settings(config, width, config.cross_attention_dropout)
        self.video_from_audio = AudiovisualStack(cross)
        self.audio_from_video = AudiovisualStack(cross)
        self.joint = AudiovisualStack(_stack_settings(config, 2 * width, config.attention_dropout))
        self.audio_head = ReconstructionHead(2 * width, config.audio_features)
        self.video_head = ReconstructionHead(2 * width, config.video_features)
        # proj1 and proj2 of the authors' model: drawn, counted among its parameters (18,407,329 and 89,250,961),
        # and never used. Kept, so that the counts are theirs.
        self.unused_projections = nn.ModuleList([nn.Linear(2 * width, 2 * width) for _ in range(2)])
        self.head = _classifier(2 * width, config.head_width, config.num_classes) if config.num_classes else None
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves these untyped

    def _init_weights(self, module: nn.Module) -> None:
        """Every initial value of the network, in one place."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, AudiovisualModel):
            for name in ("audio", "video"):
                nn.init.zeros_(getattr(module, f"{name}_mean_F"))
                nn.init.ones_(getattr(module, f"{name}_deviation_F"))

    def set_input_statistics(
        self, *, audio_mean_F: Tensor, audio_deviation_F: Tensor, video_mean_F: Tensor, video_deviation_F: Tensor
    ) -> None:
        """Store the mean and deviation of the training frames, where `normalise_inputs` asks for their use."""
        if not self.config.normalise_inputs:
            return
        for name, value_F in (
            ("audio_mean_F", audio_mean_F),
            ("audio_deviation_F", audio_deviation_F),
            ("video_mean_F", video_mean_F),
            ("video_deviation_F", video_deviation_F),
        ):
            getattr(self, name).copy_(value_F)

    def normalised_audio(self, audio_BTF: Tensor) -> Tensor:
        """Audio frames as the model sees them."""
        return (audio_BTF - self.audio_mean_F) / self.audio_deviation_F

    def normalised_video(self, video_BTF: Tensor) -> Tensor:
        """Video frames as the model sees them."""
        return (video_BTF - self.video_mean_F) / self.video_deviation_F

    def forward(
        self,
        audio_BTF: Tensor,
        audio_lengths_B: Tensor,
        video_BTF: Tensor,
        video_lengths_B: Tensor,
        word_ids_BT: Tensor,
        word_lengths_B: Tensor,
        audio_masked_BT: Tensor | None = None,
        video_masked_BT: Tensor | None = None,
    ) -> AudiovisualOutput:
        """Logits and what leads to them. Words are not looked at; masked frames (bool) are seen as zeros."""
        del word_ids_BT, word_lengths_B
        modalities = self.config.modalities
        audio_lengths_B = audio_lengths_B * ("audio" in modalities)
        video_lengths_B = video_lengths_B * ("video" in modalities)
        num_steps = max(audio_BTF.shape[1], video_BTF.shape[1])
        audio_mask_BT = valid_steps(audio_lengths_B, num_steps)
        video_mask_BT = valid_steps(video_lengths_B, num_steps)
        step_mask_BT = audio_mask_BT | video_mask_BT
        audio_BTD = _projected(self.audio_projection, self.normalised_audio(audio_BTF), audio_mask_BT, audio_masked_BT)
        video_BTD = _projected(self.video_projection, self.normalised_video(video_BTF), video_mask_BT, video_masked_BT)
        video_from_audio_BTD = self.video_from_audio(video_BTD, audio_BTD, audio_mask_BT)
        audio_from_video_BTD = self.audio_from_video(audio_BTD, video_BTD, video_mask_BT)
        joint_BTE = self.joint(torch.cat([video_from_audio_BTD, audio_from_video_BTD], dim=2), None, step_mask_BT)
        pooled_BD = _at(joint_BTE, step_mask_BT.sum(dim=1) - 1)
        return AudiovisualOutput(
            logits_BC=self._logits(pooled_BD),
            pooled_BD=pooled_BD,
            joint_BTE=joint_BTE,
            step_mask_BT=step_mask_BT,
            video_from_audio_BTD=video_from_audio_BTD,
            audio_from_video_BTD=audio_from_video_BTD,
        )

    def reconstruct(
        self, output: AudiovisualOutput, *, num_audio: int, num_video: int, num_words: int = 0
    ) -> AudiovisualReconstruction:
        """Rebuild the normalised frames from the joint sequence, as many of each as asked; words it knows none."""
        del num_words
        return AudiovisualReconstruction(
            audio_BTF=self.audio_head(output.joint_BTE[:, :num_audio]),
            video_BTF=self.video_head(output.joint_BTE[:, :num_video]),
        )

    def window_logits(self, output: AudiovisualOutput, *, window_s: float) -> tuple[Tensor, Tensor]:
        """(B, K, C) logits at the last valid step of windows of `window_s` seconds, and (B, K) which hold any step.

        With causality that is what the model would say if the clip ended there.
        """
        size = max(1, round(window_s / self.config.audio_step_s))
        num_steps_B = output.step_mask_BT.sum(dim=1)
        num_windows = -(-output.step_mask_BT.shape[1] // size)
        starts_K = torch.arange(num_windows, device=num_steps_B.device) * size
        last_BK = torch.minimum(starts_K[None] + size, num_steps_B[:, None]) - 1
        features_BKE = torch.stack([_at(output.joint_BTE, last_B) for last_B in last_BK.T], dim=1)
        return self._logits(features_BKE), starts_K[None] < num_steps_B[:, None]

    def _logits(self, features: Tensor) -> Tensor:
        if self.head is None:
            return features[..., :0]
        logits: Tensor = self.head(features)
        return logits


def _classifier(width: int, head_width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, head_width), nn.ReLU(), nn.Linear(head_width, num_classes))


def _stack_settings(config: AudiovisualConfig, width: int, attention_dropout: float) -> StackSettings:
    return StackSettings(
        num_layers=config.num_layers,
        width=width,
        num_heads=config.num_heads,
        causal=config.causal,
        position_on_zero_frames=config.position_on_zero_frames,
        embedding_dropout=config.embedding_dropout,
        attention_dropout=attention_dropout,
        relu_dropout=config.relu_dropout,
        residual_dropout=config.residual_dropout,
    )


def _projected(projection: nn.Module, x_BTF: Tensor, mask_BT: Tensor, masked_BT: Tensor | None) -> Tensor:
    """(B, T, D) frames at the width of the model, as many as the mask has; zero where masked or invalid."""
    num_steps = mask_BT.shape[1]
    seen_BT = mask_BT
    if masked_BT is not None:
        seen_BT = seen_BT & ~F.pad(masked_BT, (0, num_steps - masked_BT.shape[1]))
    x_BTF = F.pad(x_BTF, (0, 0, 0, num_steps - x_BTF.shape[1]))
    x_BTF = torch.where(seen_BT[:, :, None], x_BTF, 0.0)
    projected: Tensor = projection(x_BTF.transpose(1, 2)).transpose(1, 2)
    return projected


def _at(x_BTE: Tensor, step_B: Tensor) -> Tensor:
    """(B, E) each clip's row at its own step; a clip without steps gives its first."""
    rows_B = torch.arange(len(x_BTE), device=x_BTE.device)
    return x_BTE[rows_B, step_B.clamp(min=0)]


def build(**sizes: Any) -> AudiovisualModel:
    """A freshly initialised model; `sizes` are fields of `AudiovisualConfig`."""
    return _ready(AudiovisualModel(AudiovisualConfig(**sizes)))


def load(folder: Path) -> AudiovisualModel:
    """The model that `save_pretrained` wrote to `folder`."""
    model: AudiovisualModel = AudiovisualModel.from_pretrained(folder, local_files_only=True)
    return _ready(model)


def _ready(model: AudiovisualModel) -> AudiovisualModel:
    # Not a matter of the configuration: `from_pretrained` gives every parameter its gradient back.
    model.unused_projections.requires_grad_(False)
    return model


AutoConfig.register(AudiovisualConfig.model_type, AudiovisualConfig, exist_ok=True)
AutoModel.register(AudiovisualConfig, AudiovisualModel, exist_ok=True)
