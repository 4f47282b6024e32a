"""From decoded media and words to arrays: pure functions that training and serving both call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipFeatures:
    """What the model sees of one clip. A missing modality has zero steps (T = 0) and its full width F.

    Attributes:
        audio_TF: (T, F) float16, one description of the sound a step.
        video_TF: (T, F) float16, one face descriptor a step.
        word_ids_T: (T,) int32, ids of the bundle's tokenizer.
    """

    audio_TF: NDArray[np.float16]
    video_TF: NDArray[np.float16]
    word_ids_T: NDArray[np.int32]
