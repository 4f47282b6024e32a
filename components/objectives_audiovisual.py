"""What pre-training asks of the audiovisual system: rebuild the masked frames of both modalities.

Shape suffixes: L terms of a loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from components.batches import Batch
from components.masking import Moment
from components.masking_joint import FrameBank, JointMaskSettings, mask_jointly
from components.models.audiovisual import AudiovisualModel
from components.objectives import Terms, masked_frames_loss


@dataclass(frozen=True, eq=False)
class JointMaskedModelling:
    """Mean absolute error over the masked frames, of audio and of video (Tran and Soleymani 2022).

    Every masked step counts, also one that was left as it is. `bank` holds the frames that replace masked ones;
    `weights` are those of the audio and video terms.
    """

    bank: FrameBank
    masks: JointMaskSettings = field(default_factory=JointMaskSettings)
    weights: tuple[float, ...] = (1.0, 1.0)
    names: tuple[str, ...] = ("audio", "video")

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> Terms:
        system = cast(AudiovisualModel, model)
        masked = mask_jointly(self.masks, batch, moment, self.bank)
        output = system(
            **masked.seen.inputs(), audio_masked_BT=masked.audio_hidden_BT, video_masked_BT=masked.video_hidden_BT
        )
        rebuilt = system.reconstruct(output, num_audio=batch.audio_BTF.shape[1], num_video=batch.video_BTF.shape[1])
        audio_BTF, video_BTF = system.normalised_audio(batch.audio_BTF), system.normalised_video(batch.video_BTF)
        losses, counts = zip(
            masked_frames_loss(rebuilt.audio_BTF, audio_BTF, masked.audio_asked_BT),
            masked_frames_loss(rebuilt.video_BTF, video_BTF, masked.video_asked_BT),
            strict=True,
        )
        return Terms(torch.stack(losses), torch.stack(counts))
