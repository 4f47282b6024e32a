"""The speech and text system: two pre-trained encoders that look at each other, pooled by statistics and joined.

After Krishna, "Using large pre-trained models with cross-modal attention for multi-modal emotion recognition"
(arXiv 2108.09669): wav2vec2 and BERT, a convolution that brings each to one width, attention of the audio to the
text and of the text to the audio, mean and deviation of each over time, concatenated ("early fusion"), and one
linear layer. The unimodal systems and the plain concatenation are the same model with fewer `modalities` and with
`ablation: concatenation`.

One thing goes beyond the paper: where one of the two is missing, the other's own stream takes the place of what it
would have found there.

Shape suffixes: B batch, S samples, T steps of a stream, F features of a step, D width, C classes, K windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedModel, Wav2Vec2Config

from components.models.attention import CrossAttention
from components.models.configuration import SystemConfig
from components.models.dropout import Dropout
from components.models.layers import valid_steps
from components.models.speech_text_encoders import (
    SpeechEncoder,
    WordEncoder,
    architecture_of,
    read_architecture,
    read_weights,
)
from components.models.summary import MaskedFrames

SAMPLE_RATE_HZ: Final = 16_000
ABLATIONS: Final = ("none", "concatenation")
FREEZES: Final = ("none", "front_end", "all")

_SMALLEST_VARIANCE: Final = 1e-6
# As the extractor that wav2vec2 was trained with.
_SMALLEST_POWER: Final = 1e-7


class SpeechTextConfig(SystemConfig):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """Encoders, sizes and choices of the speech and text system.

    Attributes:
        audio_architecture, text_architecture: configurations of the encoders, as transformers writes them; None is
            wav2vec2-base and bert-base-uncased, or nothing where the modality is not looked at.
        width: of both streams after the convolution. (Recalled, as is `num_heads`.)
        kernel_size: steps that the convolution sees; odd.
        ablation: `concatenation` leaves the attention out.
        freeze: what is not trained: `none`, `front_end` (the convolutions on the waveform), `all` of both encoders.
        normalise_waveform: bring each clip to mean 0 and deviation 1, as wav2vec2-base was trained with.
    """

    model_type = "affect_speech_text"

    system: str = "speech_text"
    modalities: list[str] | tuple[str, ...] = ("audio", "text")
    audio_step_s: float = 1 / SAMPLE_RATE_HZ
    audio_architecture: dict[str, Any] | None = None
    text_architecture: dict[str, Any] | None = None
    width: int = 256
    num_heads: int = 8
    kernel_size: int = 3
    dropout: float = 0.1
    ablation: str = "none"
    freeze: str = "none"
    normalise_waveform: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check_modalities("audio", "text")
        self._check_sizes()
        if "audio" in self.modalities and self.audio_architecture is None:
            self.audio_architecture = architecture_of(Wav2Vec2Config())
        if "text" in self.modalities and self.text_architecture is None:
            bert = BertConfig()
            bert.vocab_size = self.vocabulary_size or bert.vocab_size
            self.text_architecture = architecture_of(bert)
        known = (self.text_architecture or {}).get("vocab_size", self.vocabulary_size)
        if self.vocabulary_size > known:
            raise ValueError(
                f"speech_text: the words' tokenizer gives {self.vocabulary_size} ids and the text encoder knows "
                f"{known}: extract the words with the encoder's own tokenizer"
            )

    def _check_sizes(self) -> None:
        if self.audio_features != 1:
            raise ValueError(
                f"speech_text: audio_features = {self.audio_features}: this system hears the waveform itself, "
                "one feature a step at 16 kHz; choose the extractor of raw waveforms"
            )
        if "audio" in self.modalities and abs(self.audio_step_s * SAMPLE_RATE_HZ - 1) > 1e-6:
            raise ValueError(f"speech_text: audio_step_s = {self.audio_step_s:g}: set the waveform to 16 kHz")
        if self.ablation not in ABLATIONS:
            raise ValueError(f"speech_text: ablation {self.ablation!r} is none of {', '.join(ABLATIONS)}")
        if self.freeze not in FREEZES:
            raise ValueError(f"speech_text: freeze {self.freeze!r} is none of {', '.join(FREEZES)}")
        if self.ablation == "concatenation" and len(self.modalities) < 2:
            raise ValueError("speech_text: ablation 'concatenation' joins two modalities: name both, or leave it out")
        if self.width % self.num_heads or self.kernel_size % 2 == 0:
            raise ValueError(
                f"speech_text: width {self.width} has to be a multiple of num_heads {self.num_heads}, "
                f"and kernel_size {self.kernel_size} odd"
            )
        for modality, given in (("audio", self.audio_architecture), ("text", self.text_architecture)):
            if given is not None and modality not in self.modalities:
                raise ValueError(f"speech_text: {modality}_architecture is given, but modalities leave {modality} out")


@dataclass(frozen=True)
class Stream:
    """One modality at the model's width: (B, T, D), and (B, T) bool which steps are valid."""

    x_BTD: Tensor
    mask_BT: Tensor


@dataclass(frozen=True)
class SpeechTextOutput:
    """What `SpeechTextModel` computes on the way, by name.

    Attributes:
        logits_BC: scores of the head; no columns where the model has none.
        pooled_BD: mean and deviation of each stream, side by side: audio, then text.
        audio, text: the streams that were pooled, after the attention; None where the system does not look.
    """

    logits_BC: Tensor
    pooled_BD: Tensor
    audio: Stream | None
    text: Stream | None


class SpeechTextModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """wav2vec2 and BERT with cross-modal attention, or either alone, or both without attention."""

    config_class = SpeechTextConfig
    base_model_prefix = ""
    main_input_name = "audio_BTF"
    supports_gradient_checkpointing = True
    HEADS: ClassVar[tuple[str, ...]] = ("head.",)

    def __init__(self, config: SpeechTextConfig) -> None:
        super().__init__(config)
        width, kernel = config.width, config.kernel_size
        self.speech_encoder = SpeechEncoder(config.audio_architecture) if config.audio_architecture else None
        self.word_encoder = WordEncoder(config.text_architecture) if config.text_architecture else None
        self.audio_projection = _projection(self.speech_encoder, width, kernel)
        self.text_projection = _projection(self.word_encoder, width, kernel)
        attends = len(config.modalities) == 2 and config.ablation == "none"
        self.audio_attention = CrossAttention(width, config.num_heads, config.dropout) if attends else None
        self.text_attention = CrossAttention(width, config.num_heads, config.dropout) if attends else None
        self.dropout = Dropout(config.dropout)
        pooled = 2 * width * len(config.modalities)
        self.head = nn.Linear(pooled, config.num_classes) if config.num_classes else None
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
        self._freeze()

    def _init_weights(self, module: nn.Module) -> None:
        """Every initial value of the network but the encoders', which draw their own."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; what is frozen stays so, which `from_pretrained` alone would forget."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        """Take the gradients from what `freeze` names, and the dropout from encoders that are frozen as a whole."""
        encoders = [each for each in (self.speech_encoder, self.word_encoder) if each is not None]
        if self.config.freeze == "all":
            for encoder in encoders:
                encoder.requires_grad_(False)
                encoder.eval()
        elif self.config.freeze == "front_end" and self.speech_encoder is not None:
            self.speech_encoder.freeze_front_end()

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
    ) -> SpeechTextOutput:
        """Logits and what leads to them, from a waveform (one feature a step) and word ids. Masked samples are silent.

        The ids are those of the text encoder's own tokenizer, its first and last special word included.
        """
        del video_BTF, video_lengths_B, video_masked_BT
        audio, text = None, None
        if self.speech_encoder is not None and self.audio_projection is not None:
            waveform_BS = self._waveform(audio_BTF[:, :, 0], audio_lengths_B, audio_masked_BT)
            frames_BTF, num_frames_B = self.speech_encoder(waveform_BS, audio_lengths_B)
            audio = _projected(self.audio_projection, frames_BTF, valid_steps(num_frames_B, frames_BTF.shape[1]))
        if self.word_encoder is not None and self.text_projection is not None:
            words_BTF = self.word_encoder(word_ids_BT, word_lengths_B)
            text = _projected(self.text_projection, words_BTF, valid_steps(word_lengths_B, words_BTF.shape[1]))
        if self.audio_attention is not None and self.text_attention is not None:
            assert audio is not None
            assert text is not None
            audio, text = _looked_up(self.audio_attention, audio, text), _looked_up(self.text_attention, text, audio)
        pooled_BD = torch.cat([_pooled(stream) for stream in (audio, text) if stream is not None], dim=1)
        logits_BC = self._logits(pooled_BD)
        return SpeechTextOutput(logits_BC, pooled_BD, audio, text)

    def window_logits(self, output: SpeechTextOutput, *, window_s: float) -> tuple[Tensor, Tensor]:
        """(B, K, C) logits of consecutive windows of `window_s` seconds, and (B, K) which of them hold any frame.

        A window's own frames are pooled; the words, which have no times, are in every one. A clip without sound has
        one window.
        """
        batch = len(output.pooled_BD)
        if output.audio is None:
            one_B1 = torch.ones(batch, 1, dtype=torch.bool, device=output.pooled_BD.device)
            return output.logits_BC[:, None], one_B1
        assert self.speech_encoder is not None
        size = max(1, round(window_s * SAMPLE_RATE_HZ / self.speech_encoder.samples_per_frame))
        num_windows = -(-output.audio.mask_BT.shape[1] // size)
        cut = MaskedFrames(output.audio.x_BTD, output.audio.mask_BT).windows(size, num_windows)
        parts = [_pooled(Stream(cut.x_BTF, cut.seen_BT))]
        if output.text is not None:
            parts.append(_pooled(output.text).repeat_interleave(num_windows, dim=0))
        there_BK = cut.seen_BT.any(dim=1).reshape(batch, num_windows)
        silent_B1 = ~there_BK.any(dim=1, keepdim=True)
        first_1K = torch.arange(num_windows, device=there_BK.device)[None] == 0
        logits_BKC = self._logits(torch.cat(parts, dim=1)).reshape(batch, num_windows, -1)
        return logits_BKC, there_BK | (silent_B1 & first_1K)

    def _waveform(self, audio_BS: Tensor, lengths_B: Tensor, masked_BS: Tensor | None) -> Tensor:
        """(B, S) the valid samples, zero elsewhere."""
        mask_BS = valid_steps(lengths_B, audio_BS.shape[1])
        audio_BS = torch.where(mask_BS, audio_BS, 0.0)
        if self.config.normalise_waveform:
            count_B1 = lengths_B[:, None].clamp(min=1)
            audio_BS = torch.where(mask_BS, audio_BS - audio_BS.sum(dim=1, keepdim=True) / count_B1, 0.0)
            power_B1 = audio_BS.square().sum(dim=1, keepdim=True) / count_B1
            audio_BS = audio_BS * torch.rsqrt(power_B1 + _SMALLEST_POWER)
        return audio_BS if masked_BS is None else torch.where(masked_BS, 0.0, audio_BS)

    def _logits(self, pooled_BD: Tensor) -> Tensor:
        if self.head is None:
            return pooled_BD[:, :0]
        logits_BC: Tensor = self.head(self.dropout(pooled_BD))
        return logits_BC


def statistics(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, 2 D) mean and deviation over the valid steps; one step deviates by exactly 0, and a clip without any is 0.

    The deviation is v / sqrt(v + e) for a variance v: unlike the root itself it has a slope at 0.
    """
    weight_BT1 = mask_BT[:, :, None]
    count_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    mean_BD = torch.where(weight_BT1, x_BTD, 0.0).sum(dim=1) / count_B1
    centred_BTD = torch.where(weight_BT1, x_BTD - mean_BD[:, None, :], 0.0)
    variance_BD = centred_BTD.square().sum(dim=1) / count_B1
    return torch.cat([mean_BD, variance_BD * torch.rsqrt(variance_BD + _SMALLEST_VARIANCE)], dim=1)


def _pooled(stream: Stream) -> Tensor:
    return statistics(stream.x_BTD, stream.mask_BT)


def _projection(encoder: SpeechEncoder | WordEncoder | None, width: int, kernel_size: int) -> nn.Conv1d | None:
    return None if encoder is None else nn.Conv1d(encoder.width, width, kernel_size, padding=kernel_size // 2)


def _projected(projection: nn.Module, x_BTF: Tensor, mask_BT: Tensor) -> Stream:
    # The convolution looks over the clip's end: there it must see what it sees at the tensor's end.
    x_BTF = torch.where(mask_BT[:, :, None], x_BTF, 0.0)
    return Stream(projection(x_BTF.transpose(1, 2)).transpose(1, 2), mask_BT)


def _looked_up(attention: CrossAttention, stream: Stream, other: Stream) -> Stream:
    """What a stream finds in the other one, step by step; where there is no other, the stream itself."""
    found_BTD = attention(stream.x_BTD, other.x_BTD, other.mask_BT)
    there_B11 = other.mask_BT.any(dim=1)[:, None, None]
    return Stream(torch.where(there_B11, found_BTD, stream.x_BTD), stream.mask_BT)


def build(
    *, audio_encoder: str | Path | None = None, text_encoder: str | Path | None = None, **sizes: Any
) -> SpeechTextModel:
    """A model with freshly drawn parts around its encoders; `sizes` are fields of `SpeechTextConfig`.

    The encoders are drawn too, unless a folder or a name on the hub says where to read them.

    Raises:
        ValueError: an encoder cannot be read, is given twice, or belongs to a modality that is left out.
    """
    names = {"audio": audio_encoder, "text": text_encoder}
    for modality, name in names.items():
        if name is not None:
            if sizes.get(f"{modality}_architecture") is not None:
                raise ValueError(f"speech_text: give {modality}_encoder or {modality}_architecture, not both")
            sizes[f"{modality}_architecture"] = read_architecture(name, f"{modality}_encoder")
    model = SpeechTextModel(SpeechTextConfig(**sizes))
    for encoder, modality in ((model.speech_encoder, "audio"), (model.word_encoder, "text")):
        name = names[modality]
        if encoder is not None and name is not None:
            read_weights(encoder, name, f"{modality}_encoder")
    return model


def load(folder: Path) -> SpeechTextModel:
    """The model that `save_pretrained` wrote to `folder`, encoders included."""
    model: SpeechTextModel = SpeechTextModel.from_pretrained(folder, local_files_only=True)
    return model


AutoConfig.register(SpeechTextConfig.model_type, SpeechTextConfig, exist_ok=True)
AutoModel.register(SpeechTextConfig, SpeechTextModel, exist_ok=True)
