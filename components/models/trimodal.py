"""The trimodal system: video and words projected into the audio's time by cross-modal attention.

After Khare, Parthasarathy and Sundaram, "Self-supervised learning with cross-modal transformers for emotion
recognition" (SLT 2021), in the form that their earlier paper describes (arXiv 2009.05019): an audio encoder, one
cross-modal block for video and one for words, and a weighted sum of the three on the audio's time base.

With `summary` the answer has two parts: a linear part reads how sound and face lie and move over the clip, and which
words there are, and the transformer reads the clip step by step. Each is made by itself, the one solved and the other
trained: together, the transformer would learn the training voices by heart before the linear part has learned what all
voices share. How much each counts is found on other speakers. The paper has the transformer alone.

A missing modality is a mask, not a branch: its steps are replaced by a learned frame, nothing looks at them, and
its weight in the sum goes to the others. Without audio the learned frames still carry the time base.

Shape suffixes: B batch, T steps, A steps of the audio time base, V video steps, W words, U words of the
vocabulary, F features of a step, D width, C classes, M modalities (audio, video, text), K windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from components.models.configuration import SystemConfig
from components.models.dropout import Dropout, StepDropout
from components.models.layers import Attention, FrameProjection, Stack, positions, statistics_pooling, valid_steps
from components.models.summary import MaskedFrames, Summarised, SummaryHead
from components.models.trimodal_decoder import Decoder, Reconstruction

_VIEW_WIDTH: Final = 64
_VIEW_TEMPERATURE: Final = 0.1
# Directions that frames and words are found to share; of more the linear part learns too much by heart.
_NUM_SHARED: Final = 16
# Of the linear part: its memory and time in learning grow with the square and the cube of them.
_MOST_WORDS: Final = 4096


class TrimodalConfig(SystemConfig):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """Sizes of the trimodal system; the step lengths put its three sequences on one time axis.

    Attributes:
        summary: whether there is a linear part beside the transformer.
        matching: whether pre-training can match views, and find for the linear part what frames and words share.
        linear_head: mean over time and one layer, instead of mean and deviation and two layers.
        audio_frames_per_step: frames that a step of audio consists of, one behind the other.
        audio_scales, video_scales: of the linear part, in frames; see `layers.dynamics`.
    """

    model_type = "affect_trimodal"

    system: str = "trimodal"
    modalities: list[str] | tuple[str, ...] = ("audio", "video", "text")
    audio_features: int = 160
    video_features: int = 216
    vocabulary_size: int = 64
    num_classes: int = 2
    audio_step_s: float = 0.04
    video_step_s: float = 0.08
    # Words carry no times: this is the mean rate of English speech, used when there is nothing but words.
    word_step_s: float = 0.32
    width: int = 96
    num_heads: int = 4
    num_layers: int = 2
    dropout: float = 0.1
    modality_weights: list[float] | tuple[float, ...] = (0.4, 0.4, 0.2)
    summary: bool = True
    matching: bool = True
    linear_head: bool = False
    audio_frames_per_step: int = 1
    audio_scales: list[int] | tuple[int, ...] = (1, 4, 16)
    video_scales: list[int] | tuple[int, ...] = (1, 4)
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check_modalities("audio", "video", "text")


@dataclass(frozen=True)
class Encoded:
    """What `TrimodalModel` makes of clips before the modalities are weighed against each other, by name.

    Attributes:
        views: (B, A, D) what each modality says on the audio time base.
        step_mask_BA: valid steps of the audio time base, True where valid.
        video_BVD, words_BWD: each modality's own encoding.
        frames: the normalised audio and video frames with the steps that were seen.
        word_shares_BU: how much of what is said each word is; no words without a linear part.
        entries_BE, there_BE: what the linear part reads, see `SummaryHead.entries`; nothing without one.
    """

    views: tuple[Tensor, Tensor, Tensor]
    step_mask_BA: Tensor
    video_BVD: Tensor
    words_BWD: Tensor
    frames: tuple[MaskedFrames, MaskedFrames]
    word_shares_BU: Tensor
    entries_BE: Tensor
    there_BE: Tensor


@dataclass(frozen=True)
class TrimodalOutput(Encoded):
    """What `TrimodalModel` computes on the way, by name.

    Attributes:
        logits_BC: scores of the classes: the sum of what the two parts say.
        linear_BC, sequence_BC: what the linear part says, 0 without one, and what the transformer says.
        pooled_BD: (B, 2 D) mean and deviation of the fused sequence over time.
        fused_BAD: the weighted sum of the modalities on the audio time base.
    """

    logits_BC: Tensor
    linear_BC: Tensor
    sequence_BC: Tensor
    pooled_BD: Tensor
    fused_BAD: Tensor


class TrimodalModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """Audio-anchored cross-modal transformer over any subset of audio, video and words."""

    config_class = TrimodalConfig
    base_model_prefix = ""
    main_input_name = "audio_BTF"
    supports_gradient_checkpointing = True
    # Drawn anew for fine-tuning.
    HEADS = ("head.", "summary_head.weight_IC", "summary_head.bias_C")
    audio_mean_F: Tensor
    audio_deviation_F: Tensor
    video_mean_F: Tensor
    video_deviation_F: Tensor

    def __init__(self, config: TrimodalConfig) -> None:
        super().__init__(config)
        width, heads, layers, dropout = config.width, config.num_heads, config.num_layers, config.dropout
        for name, num_features in (("audio", config.audio_features), ("video", config.video_features)):
            self.register_buffer(f"{name}_mean_F", torch.zeros(num_features))
            self.register_buffer(f"{name}_deviation_F", torch.ones(num_features))
        self.audio_mask_frame = nn.Parameter(torch.empty(config.audio_features))
        self.video_mask_frame = nn.Parameter(torch.empty(config.video_features))
        self.audio_projection = FrameProjection(config.audio_features, width, dropout)
        self.video_projection = FrameProjection(config.video_features, width, dropout)
        self.word_embedding = nn.Embedding(config.vocabulary_size, width)
        self.word_dropout = StepDropout(dropout)
        self.audio_encoder = Stack(layers, width, heads, dropout)
        self.video_encoder = Stack(1, width, heads, dropout)
        self.word_encoder = Stack(1, width, heads, dropout)
        self.video_to_audio = Stack(layers, width, heads, dropout, cross=True)
        self.words_to_audio = Stack(layers, width, heads, dropout, cross=True)
        self.head = _new_head(config)
        self.summary_head: SummaryHead | None = None
        if config.summary:
            self.summary_head = SummaryHead(
                (
                    Summarised(config.audio_features, config.audio_frames_per_step, tuple(config.audio_scales)),
                    Summarised(config.video_features, 1, tuple(config.video_scales)),
                ),
                min(config.vocabulary_size, _MOST_WORDS),
                config.num_classes,
                num_shared=_NUM_SHARED if config.matching else 0,
            )
        self.decoder = Decoder(config)
        # Of what is matched with something else, and of what it is matched with.
        num_views = 2 if config.matching else 0
        self.view_projections = nn.ModuleList([nn.Linear(2 * width, _VIEW_WIDTH) for _ in range(num_views)])
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves these untyped

    def _init_weights(self, module: nn.Module) -> None:
        """Every initial value of the network, in one place."""
        deviation = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SummaryHead):
            for name, buffer in module.named_buffers():
                nn.init.constant_(buffer, 1.0 if name == "deviation_E" else 0.0)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 / self.config.width**0.5)
        elif isinstance(module, Attention):
            nn.init.normal_(module.null_key_value, std=deviation)
        elif isinstance(module, Decoder):
            nn.init.normal_(module.video_query, std=deviation)
            nn.init.normal_(module.word_query, std=deviation)
        elif isinstance(module, TrimodalModel):
            nn.init.normal_(module.audio_mask_frame, std=deviation)
            nn.init.normal_(module.video_mask_frame, std=deviation)
            for name in ("audio", "video"):
                nn.init.zeros_(getattr(module, f"{name}_mean_F"))
                nn.init.ones_(getattr(module, f"{name}_deviation_F"))

    def set_input_statistics(
        self, *, audio_mean_F: Tensor, audio_deviation_F: Tensor, video_mean_F: Tensor, video_deviation_F: Tensor
    ) -> None:
        """Store the mean and standard deviation of the training frames; every input is normalised with them."""
        for name, value_F in (
            ("audio_mean_F", audio_mean_F),
            ("audio_deviation_F", audio_deviation_F),
            ("video_mean_F", video_mean_F),
            ("video_deviation_F", video_deviation_F),
        ):
            getattr(self, name).copy_(value_F)

    def normalised_audio(self, audio_BTF: Tensor) -> Tensor:
        """Audio frames in units of the training frames' deviation."""
        return (audio_BTF - self.audio_mean_F) / self.audio_deviation_F

    def normalised_video(self, video_BTF: Tensor) -> Tensor:
        """Video frames in units of the training frames' deviation."""
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
    ) -> TrimodalOutput:
        """Logits and what leads to them. A length of 0 is a missing modality; at least one must be there.

        The masked steps (bool), used in training only, are replaced by the learned frame.
        """
        num_given = audio_BTF.shape[1]
        lengths = (audio_lengths_B, video_lengths_B, word_lengths_B)
        audio_BTF = _lengthened(audio_BTF, self._anchor_lengths(*lengths))
        if audio_masked_BT is not None:
            audio_masked_BT = F.pad(audio_masked_BT, (0, audio_BTF.shape[1] - num_given))
        encoded = self._encoded((audio_BTF, video_BTF, word_ids_BT), lengths, audio_masked_BT, video_masked_BT)
        return self._weighed(encoded, torch.stack(lengths, dim=1) > 0)

    def judged_rows(
        self,
        inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
        row_R: Tensor,
        present_RM: Tensor,
        whole_N: Tensor,
        *,
        window_s: float,
    ) -> tuple[Tensor, Tensor]:
        """All that an endpoint asks of clips, with nothing computed twice: a pure function of tensors.

        Args:
            inputs: of `forward`.
            row_R, present_RM: as for `less`.
            whole_N: clips of which the windows are asked.

        Returns:
            (R, C) logits of the rows, and (N, K, C) of the windows.
        """
        audio_BTF, audio_lengths_B, video_BTF, video_lengths_B, word_ids_BT, word_lengths_B = inputs
        lengths = (audio_lengths_B, video_lengths_B, word_lengths_B)
        audio_BTF = _lengthened(audio_BTF, self._anchor_lengths(*lengths))
        encoded = self._encoded((audio_BTF, video_BTF, word_ids_BT), lengths)
        rows = self.less(encoded, row_R, present_RM)
        whole = self.less(encoded, whole_N, torch.stack(lengths, dim=1)[whole_N] > 0)
        return rows.logits_BC, self.window_logits(whole, window_s=window_s)[0]

    def _encoded(
        self,
        steps: tuple[Tensor, Tensor, Tensor],
        lengths: tuple[Tensor, Tensor, Tensor],
        audio_masked_BA: Tensor | None = None,
        video_masked_BV: Tensor | None = None,
    ) -> Encoded:
        """What each modality says, from its steps and their numbers; the audio is on the time base."""
        audio_BAF, video_BVF, word_ids_BW = steps
        config, device, num_steps = self.config, audio_BAF.device, audio_BAF.shape[1]
        step_mask_BA = valid_steps(self._anchor_lengths(*lengths), num_steps)
        video_mask_BV = valid_steps(lengths[1], video_BVF.shape[1])
        word_mask_BW = valid_steps(lengths[2], word_ids_BW.shape[1])

        absent_BA = ~valid_steps(lengths[0], num_steps)
        if audio_masked_BA is not None:
            absent_BA = absent_BA | audio_masked_BA
        audio_BAF, video_BVF = self.normalised_audio(audio_BAF), self.normalised_video(video_BVF)
        video_seen_BV = video_mask_BV if video_masked_BV is None else video_mask_BV & ~video_masked_BV
        frames = (MaskedFrames(audio_BAF, step_mask_BA & ~absent_BA), MaskedFrames(video_BVF, video_seen_BV))
        audio_BAF = torch.where(absent_BA[:, :, None], self.audio_mask_frame, audio_BAF)
        if video_masked_BV is not None:
            video_BVF = torch.where(video_masked_BV[:, :, None], self.video_mask_frame, video_BVF)

        video_stride = config.video_step_s / config.audio_step_s
        anchor_BAD = self.audio_projection(audio_BAF, step_mask_BA) + positions(num_steps, config.width, 1.0, device)
        anchor_BAD = self.audio_encoder(anchor_BAD, None, step_mask_BA)
        video_BVD = self.video_projection(video_BVF, video_mask_BV)
        video_BVD = video_BVD + positions(video_BVF.shape[1], config.width, video_stride, device)
        no_video, no_words = self._is_nowhere(video_mask_BV), self._is_nowhere(word_mask_BW)
        video_BVD = video_BVD if no_video else self.video_encoder(video_BVD, None, video_mask_BV)
        words_BWD = self.word_embedding(word_ids_BW) * config.width**0.5
        words_BWD = self.word_dropout(words_BWD) + positions(word_ids_BW.shape[1], config.width, 1.0, device)
        words_BWD = words_BWD if no_words else self.word_encoder(words_BWD, None, word_mask_BW)

        nothing_BAD = torch.zeros_like(anchor_BAD)
        views = (
            anchor_BAD,
            nothing_BAD if no_video else self.video_to_audio(anchor_BAD, video_BVD, video_mask_BV),
            nothing_BAD if no_words else self.words_to_audio(anchor_BAD, words_BWD, word_mask_BW),
        )
        word_shares_BU = word_ids_BW.new_zeros(word_ids_BW.shape[0], 0, dtype=torch.float32)
        entries_BE, there_BE = word_shares_BU, word_shares_BU.bool()
        if self.summary_head is not None:
            word_shares_BU = self.summary_head.word_shares(word_ids_BW, word_mask_BW)
            entries_BE, there_BE = self.summary_head.entries(frames, word_shares_BU)
        return Encoded(views, step_mask_BA, video_BVD, words_BWD, frames, word_shares_BU, entries_BE, there_BE)

    def less(self, encoded: Encoded, row_R: Tensor, present_RM: Tensor) -> TrimodalOutput:
        """What `forward` gives for some of its clips without some of their modalities, from what it has computed.

        The modality that gives a clip its time base, which is the first that it has, must stay: the others look at it.

        Args:
            row_R: of the clip that each row of the result is made from.
            present_RM: bool, which of audio, video and text are left of it.
        """
        frames = [
            MaskedFrames(each.x_BTF[row_R], each.seen_BT[row_R] & present_RM[:, m, None])
            for m, each in enumerate(encoded.frames)
        ]
        there_RE = encoded.there_BE[row_R]
        if self.summary_head is not None:
            there_RE = there_RE & self.summary_head.by_entry(present_RM)
        anchor_BAD, of_video_BAD, of_words_BAD = encoded.views
        left = Encoded(
            views=(anchor_BAD[row_R], of_video_BAD[row_R], of_words_BAD[row_R]),
            step_mask_BA=encoded.step_mask_BA[row_R],
            video_BVD=encoded.video_BVD[row_R],
            words_BWD=encoded.words_BWD[row_R],
            frames=(frames[0], frames[1]),
            word_shares_BU=encoded.word_shares_BU[row_R] * present_RM[:, 2, None],
            entries_BE=encoded.entries_BE[row_R],
            there_BE=there_RE,
        )
        return self._weighed(left, present_RM)

    def _is_nowhere(self, mask_BT: Tensor) -> bool:
        """Whether no clip has a modality: what is made of it weighs nothing.

        In training it is made all the same, and in a recorded graph, which must hold for other clips too.
        """
        if self.training or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # torch does not export it
            return False
        return not bool(mask_BT.any())

    def _weighed(self, encoded: Encoded, present_BM: Tensor) -> TrimodalOutput:
        """The views of the modalities that are there in one sequence, and what both parts make of the clip."""
        # A recorded graph makes float64 of what is neither a float tensor nor said to be one.
        there_BM = present_BM.to(torch.float32)
        weight_BM = torch.stack([there_BM[:, m] * each for m, each in enumerate(self.config.modality_weights)], dim=1)
        weight_BM = weight_BM / weight_BM.sum(dim=1, keepdim=True).clamp(min=1e-9)
        weighted = [view_BAD * weight_BM[:, m, None, None] for m, view_BAD in enumerate(encoded.views)]
        fused_BAD = weighted[0] + weighted[1] + weighted[2]
        pooled_BD = statistics_pooling(fused_BAD, encoded.step_mask_BA)
        sequence_BC = self._judged(pooled_BD)
        linear_BC = 0 * sequence_BC
        if self.summary_head is not None:
            linear_BC = self.summary_head.scores(encoded.entries_BE, encoded.there_BE)
        return TrimodalOutput(
            **vars(encoded),
            logits_BC=linear_BC + sequence_BC,
            linear_BC=linear_BC,
            sequence_BC=sequence_BC,
            pooled_BD=pooled_BD,
            fused_BAD=fused_BAD,
        )

    @property
    def linear_bands(self) -> tuple[int, ...]:
        """Numbers of inputs of the linear part by their kind; none without a linear part."""
        return () if self.summary_head is None else self.summary_head.bands

    def learn_summaries(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Store the mean and deviation of the training clips' summaries; `batches` hold arguments of `forward`."""
        if self.summary_head is not None:
            with torch.no_grad():
                self.summary_head.learn(self._summarised(**inputs) for inputs in batches)

    def linear_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, I) what the linear part reads of clips; `inputs` are arguments of `forward`."""
        assert self.summary_head is not None
        return self.summary_head.inputs(*self._summarised(**inputs))

    def set_linear_part(self, weight_IC: Tensor, bias_C: Tensor) -> None:
        """Let the linear part give these scores."""
        assert self.summary_head is not None
        self.summary_head.weight_IC.copy_(weight_IC)
        self.summary_head.bias_C.copy_(bias_C)

    def weigh(self, *, linear: float, sequence: float) -> None:
        """Multiply what the two parts say."""
        assert self.summary_head is not None
        last = self.head if isinstance(self.head, nn.Linear) else self.head.get_submodule("4")
        with torch.no_grad():
            for values, factor in (
                *((values, linear) for values in (self.summary_head.weight_IC, self.summary_head.bias_C)),
                *((values, sequence) for values in last.parameters()),
            ):
                values.mul_(factor)

    def learn_shared(self, batches: Callable[[], Iterable[Mapping[str, Tensor]]]) -> None:
        """Find what frames and words have in common, for the linear part (pre-training); see `SummaryHead`.

        Args:
            batches: gives arguments of `forward`, anew at each call.
        """
        if self.summary_head is not None and self.config.matching:
            with torch.no_grad():
                self.summary_head.learn_shared(lambda: (self._summarised(**inputs) for inputs in batches()))

    def window_logits(self, output: TrimodalOutput, *, window_s: float) -> tuple[Tensor, Tensor]:
        """(B, K, C) logits of consecutive windows of `window_s` seconds, and (B, K) which of them hold any step.

        A window is read as the whole clip is: its own steps pooled, then the heads. Words have no times, so all of
        them are in every window.
        """
        config = self.config
        steps = [max(1, round(window_s / step_s)) for step_s in (config.audio_step_s, config.video_step_s)]
        batch, num_windows = output.word_shares_BU.shape[0], (output.step_mask_BA.shape[1] + steps[0] - 1) // steps[0]
        fused = MaskedFrames(output.fused_BAD, output.step_mask_BA).windows(steps[0], num_windows)
        logits = self._judged(statistics_pooling(fused.x_BTF, fused.seen_BT))
        if self.summary_head is not None:
            frames = [each.windows(size, num_windows) for each, size in zip(output.frames, steps, strict=True)]
            logits = logits + self.summary_head(frames, output.word_shares_BU.repeat_interleave(num_windows, dim=0))
        return logits.reshape(batch, num_windows, -1), fused.seen_BT.any(dim=1).reshape(batch, num_windows)

    def reconstruct(self, output: TrimodalOutput, *, num_audio: int, num_video: int, num_words: int) -> Reconstruction:
        """Rebuild the inputs from the fused sequence, at as many steps of each as asked (pre-training)."""
        reconstruction: Reconstruction = self.decoder(output, num_audio, num_video, num_words)
        return reconstruction

    def views(self, one: TrimodalOutput, other: TrimodalOutput) -> tuple[Tensor, Tensor]:
        """(B, D) each, such that the product of two rows scores whether they are of one clip (pre-training)."""
        project_one, project_other = self.view_projections
        one_BD = F.normalize(project_one(one.pooled_BD), dim=1)
        return one_BD / _VIEW_TEMPERATURE, F.normalize(project_other(other.pooled_BD), dim=1)

    def _summarised(
        self,
        audio_BTF: Tensor,
        audio_lengths_B: Tensor,
        video_BTF: Tensor,
        video_lengths_B: Tensor,
        word_ids_BT: Tensor,
        word_lengths_B: Tensor,
    ) -> tuple[tuple[MaskedFrames, MaskedFrames], Tensor]:
        """What the linear part reads of whole clips: their normalised frames, and how much each word is said."""
        assert self.summary_head is not None
        frames = (
            MaskedFrames(self.normalised_audio(audio_BTF), valid_steps(audio_lengths_B, audio_BTF.shape[1])),
            MaskedFrames(self.normalised_video(video_BTF), valid_steps(video_lengths_B, video_BTF.shape[1])),
        )
        word_mask_BW = valid_steps(word_lengths_B, word_ids_BT.shape[1])
        return frames, self.summary_head.word_shares(word_ids_BT, word_mask_BW)

    def _judged(self, pooled_BD: Tensor) -> Tensor:
        """(B, C) scores that the transformer gives to a clip by the statistics of its fused sequence."""
        # The mean is the first half of the statistics.
        logits_BC: Tensor = self.head(pooled_BD[:, : self.config.width] if self.config.linear_head else pooled_BD)
        return logits_BC

    def _anchor_lengths(self, audio_lengths_B: Tensor, video_lengths_B: Tensor, word_lengths_B: Tensor) -> Tensor:
        """Steps of the audio time base: the audio's own, or what the video or else the words last."""
        config = self.config
        from_video_B = (video_lengths_B.float() * (config.video_step_s / config.audio_step_s)).ceil().long()
        from_words_B = (word_lengths_B.float() * (config.word_step_s / config.audio_step_s)).ceil().long()
        other_B = torch.where(video_lengths_B > 0, from_video_B, from_words_B)
        return torch.where(audio_lengths_B > 0, audio_lengths_B, other_B)


# A length that depends on the clips must be code, not what it came to when the graph was recorded. PyTorch reads the
# line of its own, untyped, decorator too: there is room for one comment.
@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _lengthened(steps_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """As many steps as the longest clip has on the time base, which may be made of video or words."""
    missing = max(0, int(lengths_B.max()) - steps_BTF.shape[1])
    return F.pad(steps_BTF, (0, 0, 0, missing))


def _new_head(config: TrimodalConfig) -> nn.Module:
    width = config.width
    if config.linear_head:
        return nn.Linear(width, config.num_classes)
    return nn.Sequential(
        nn.LayerNorm(2 * width),
        nn.Linear(2 * width, width),
        nn.GELU(),
        Dropout(config.dropout),
        nn.Linear(width, config.num_classes),
    )


def build(**sizes: Any) -> TrimodalModel:
    """A freshly initialised model; `sizes` are fields of `TrimodalConfig`."""
    return TrimodalModel(TrimodalConfig(**sizes))


def load(folder: Path) -> TrimodalModel:
    """The model that `save_pretrained` wrote to `folder`."""
    model: TrimodalModel = TrimodalModel.from_pretrained(folder, local_files_only=True)
    return model


AutoConfig.register(TrimodalConfig.model_type, TrimodalConfig, exist_ok=True)
AutoModel.register(TrimodalConfig, TrimodalModel, exist_ok=True)
