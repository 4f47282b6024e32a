"""Encoders from `transformers` as parts of a system: a waveform to frames, word ids to words, and their freezing.

Only valid samples and words decide what comes out: a clip padded is the clip itself. The convolutional front end of
wav2vec2's base model is the one part of these encoders that does not keep to that by itself: it normalises each
channel over time, padding included.

Shape suffixes: B batch, S samples, T frames, W words, D width, C channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from components.models.layers import valid_steps

# Of a configuration: what tells of a place or a version, and not of an architecture.
_NOT_ARCHITECTURE: Final = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
# What a checkpoint may lack: parts that are not used here.
_UNUSED: Final = ("masked_spec_embed", "pooler.")
# Encoders of waveforms in whose frames padding leaves no trace; tested. (It does in data2vec's.)
_OF_WAVEFORMS: Final = ("hubert", "unispeech", "wav2vec2", "wavlm")


class LengthAwareGroupNorm(nn.GroupNorm):
    """Normalises each channel over the valid steps of a clip: the padding of a batch is no part of it.

    `lengths_B` has to be set before each call, by the encoder that this is a part of.
    """

    def __init__(self, num_channels: int, eps: float) -> None:
        super().__init__(num_channels, num_channels, eps=eps)
        self.lengths_B: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        assert self.lengths_B is not None
        mask_B1T = valid_steps(self.lengths_B, input.shape[2])[:, None, :]
        count_B11 = self.lengths_B[:, None, None].to(input.dtype)
        mean_BC1 = torch.where(mask_B1T, input, 0.0).sum(dim=2, keepdim=True) / count_B11
        centred_BCT = torch.where(mask_B1T, input - mean_BC1, 0.0)
        variance_BC1 = centred_BCT.square().sum(dim=2, keepdim=True) / count_B11
        standard_BCT = centred_BCT * torch.rsqrt(variance_BC1 + self.eps)
        return standard_BCT * self.weight[None, :, None] + self.bias[None, :, None]


class SpeechEncoder(nn.Module):
    """A wav2vec2-like encoder: 16 kHz samples to frames."""

    def __init__(self, architecture: dict[str, Any]) -> None:
        super().__init__()
        # Its time masks come from numpy's global generator, which no seed of a training step reaches.
        config = _configuration({**architecture, "apply_spec_augment": False}, "audio_architecture")
        if config.model_type not in _OF_WAVEFORMS:
            raise ValueError(
                f"speech_text: {config.model_type!r} is no encoder of waveforms that this system knows: "
                f"take one of {', '.join(_OF_WAVEFORMS)}"
            )
        self.model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
        self.kernels, self.strides = tuple(config.conv_kernel), tuple(config.conv_stride)
        self.width: int = config.hidden_size
        first = self._front_end.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = LengthAwareGroupNorm(first.layer_norm.num_channels, first.layer_norm.eps)

    @property
    def _front_end(self) -> Any:
        """The convolutions on the waveform, whose parts torch cannot tell the types of."""
        return self.model.feature_extractor

    def freeze_front_end(self) -> None:
        """Train the convolutions on the waveform no further."""
        # The front end asks for a gradient of the waveform itself, in training, unless it is told so.
        self._front_end._freeze_parameters()

    @property
    def samples_per_frame(self) -> int:
        """Samples from the beginning of one frame to that of the next."""
        return math.prod(self.strides)

    def forward(self, waveform_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) frames and (B,) how many are valid: none for a clip without samples, or else one at least."""
        shortest = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            shortest = (shortest - 1) * stride + kernel
        waveform_BS = F.pad(waveform_BS, (0, max(0, shortest - waveform_BS.shape[1])))
        heard_B = lengths_B.clamp(min=shortest)
        norm = getattr(self._front_end.conv_layers[0], "layer_norm", None)
        if isinstance(norm, LengthAwareGroupNorm):
            norm.lengths_B = (heard_B - self.kernels[0]) // self.strides[0] + 1
        mask_BS = valid_steps(heard_B, waveform_BS.shape[1])
        frames_BTD: Tensor = self.model(waveform_BS, attention_mask=mask_BS.long()).last_hidden_state
        num_frames_B = heard_B
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            num_frames_B = (num_frames_B - kernel) // stride + 1
        return frames_BTD, torch.where(lengths_B > 0, num_frames_B, 0)


class WordEncoder(nn.Module):
    """A BERT-like encoder: ids of its own tokenizer, special ones included, to words in their context."""

    def __init__(self, architecture: dict[str, Any]) -> None:
        super().__init__()
        config = _configuration(architecture, "text_architecture")
        self.model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
        if hasattr(self.model, "pooler"):
            # One more layer on the first word, which nothing here reads.
            self.model.pooler = None
        self.width: int = config.hidden_size
        self.max_words: int = getattr(config, "max_position_embeddings", 512)
        places = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding_place: int | None = getattr(places, "padding_idx", None)
        if padding_place is not None:
            # RoBERTa counts its places from behind that of padding.
            self.max_words -= padding_place + 1

    def forward(self, word_ids_BW: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, W, D), of which what lies beyond a clip's length means nothing."""
        num_words = word_ids_BW.shape[1]
        if num_words > self.max_words:
            raise ValueError(
                f"a transcript of {num_words} word pieces: the text encoder reads {self.max_words} at most; "
                "lower features.text.max_words"
            )
        # A clip without words shows one, so that there is something to attend to; nobody reads what comes of it.
        mask_BW = valid_steps(lengths_B.clamp(min=1), num_words)
        ids_BW = torch.where(mask_BW, word_ids_BW, 0)
        words_BWD: Tensor = self.model(ids_BW, attention_mask=mask_BW.long()).last_hidden_state
        return words_BWD


def read_architecture(name: str | Path, setting: str) -> dict[str, Any]:
    """The architecture of a pre-trained encoder: a folder, or a name on the hub.

    Raises:
        ValueError: there is no such encoder; `setting` is what the message calls it.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(name, setting, error)) from error
    return architecture_of(config)


def architecture_of(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration as plain values, without anything that depends on where it was read."""
    return {key: value for key, value in config.to_dict().items() if key not in _NOT_ARCHITECTURE}


def read_weights(encoder: SpeechEncoder | WordEncoder, name: str | Path, setting: str) -> None:
    """Copy the weights of a pre-trained encoder, as 32-bit floats, into one of the same architecture.

    Raises:
        ValueError: the files cannot be read, or lack a weight.
    """
    try:
        found, report = AutoModel.from_pretrained(str(name), dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(name, setting, error)) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        raise ValueError(
            f"speech_text: {setting} = {str(name)!r}: its weights lack {len(missing)} of the architecture that its "
            f"config.json describes, first {missing[0]}: save it again as the bare encoder"
        )
    own = encoder.model.state_dict()
    encoder.model.load_state_dict({key: value for key, value in found.state_dict().items() if key in own})


def _configuration(architecture: dict[str, Any], setting: str) -> PreTrainedConfig:
    if "model_type" not in architecture:
        raise ValueError(f"speech_text: {setting} has no model_type: name one, such as wav2vec2 or bert")
    config: PreTrainedConfig = AutoConfig.for_model(**architecture)
    return config


def _unreadable(name: str | Path, setting: str, error: Exception) -> str:
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"speech_text: {setting} = {str(name)!r} is no encoder that can be read ({why}): give a folder with "
        "config.json and model.safetensors, or a name on the hub"
    )
