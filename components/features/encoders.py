"""Frozen encoders of transformers, read from a folder: speech to frames, pictures of faces to vectors.

An encoder hears or sees what it was trained on: its own sampling rate, picture size and normalisation, which lie
beside its weights. torch and transformers are imported when the first one is loaded, for most features need neither.

Shapes: S samples, T steps, F features, X side of a picture in pixels.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH: Final = 32
# As in transformers, where an image processor says nothing else.
_PICTURE_MEAN: Final = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class SpeechEncoder:
    """What is known of a speech encoder without loading it.

    Attributes:
        width: features of a step.
        step_samples: samples from one step to the next.
        needed_samples: of the shortest waveform that gives a step.
        is_normalised: whether it hears waveforms of mean 0 and deviation 1.
    """

    width: int
    step_samples: int
    needed_samples: int
    is_normalised: bool


def speech_encoder(path: str, *, sample_rate_hz: int) -> SpeechEncoder:
    """Read what kind of speech encoder lies in a folder.

    Raises:
        ValueError: there is none, or it hears another sampling rate.
    """
    config, preparation = _read(path, "config.json"), _read(path, "preprocessor_config.json", needed=False)
    if not {"hidden_size", "conv_stride", "conv_kernel"} <= config.keys():
        raise ValueError(
            f"features.audio.path {path}: {config.get('model_type', 'this model')} does not turn samples into steps "
            "of one length; take an encoder such as wav2vec2, hubert, wavlm or data2vec-audio"
        )
    rate_hz = preparation.get("sampling_rate", sample_rate_hz)
    if rate_hz != sample_rate_hz:
        raise ValueError(f"features.audio.path {path} hears {rate_hz} Hz: set features.audio.sample_rate_hz to it")
    strides, needed = list(config["conv_stride"]), 1
    for kernel, stride in zip(reversed(config["conv_kernel"]), reversed(strides), strict=True):
        needed = (needed - 1) * stride + kernel
    return SpeechEncoder(config["hidden_size"], math.prod(strides), needed, preparation.get("do_normalize", True))


def encode_speech(waveform_S: NDArray[np.float32], path: str, *, sample_rate_hz: int) -> NDArray[np.float16]:
    """(T, F) last hidden states of a speech encoder; a sound too short for a step is filled up with silence."""
    import torch

    kind = speech_encoder(path, sample_rate_hz=sample_rate_hz)
    if not len(waveform_S):
        return np.zeros((0, kind.width), np.float16)
    if kind.is_normalised:
        waveform_S = (waveform_S - waveform_S.mean()) / np.sqrt(waveform_S.var() + 1e-7)
    waveform_S = np.pad(waveform_S, (0, max(0, kind.needed_samples - len(waveform_S))))
    with torch.inference_mode():
        states_1TF = _model(path)(torch.from_numpy(waveform_S)[None]).last_hidden_state
    return np.asarray(states_1TF[0].numpy(), np.float16)


def picture_width(path: str) -> int:
    """Features of a picture encoder.

    Raises:
        ValueError: there is none in the folder.
    """
    config = _read(path, "config.json")
    width = config.get("hidden_size") or (config.get("hidden_sizes") or [None])[-1]
    if not isinstance(width, int):
        raise ValueError(f"features.video.path {path} says no hidden_size: take an encoder such as vit or dinov2")
    return width


def picture_side(path: str) -> int:
    """Pixels of a side of the pictures that an encoder sees."""
    config, preparation = _read(path, "config.json"), _read(path, "preprocessor_config.json", needed=False)
    size = preparation.get("crop_size") or preparation.get("size") or config.get("image_size", 224)
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(size)


def encode_pictures(pictures_TXX: NDArray[np.uint8], path: str) -> NDArray[np.float16]:
    """(T, F) mean over the places of an encoder's last hidden state, of grey pictures."""
    import torch

    preparation = _read(path, "preprocessor_config.json", needed=False)
    mean_3, deviation_3 = (
        torch.tensor(preparation.get(f"image_{name}", _PICTURE_MEAN), dtype=torch.float32) for name in ("mean", "std")
    )
    side = picture_side(path)
    rows = [np.zeros((0, picture_width(path)), np.float16)]
    for start in range(0, len(pictures_TXX), _BATCH):
        block = [cv2.resize(each, (side, side)) for each in pictures_TXX[start : start + _BATCH]]
        grey_B1XX = torch.from_numpy(np.stack(block)).float()[:, None] / 255
        colour_B3XX = (grey_B1XX - mean_3[:, None, None]) / deviation_3[:, None, None]
        with torch.inference_mode():
            states = _model(path)(pixel_values=colour_B3XX).last_hidden_state
        # A transformer has its places in the middle (B, N, F), a convolutional network at the end (B, F, H, W).
        pooled_BF = states.mean(dim=1) if states.ndim == 3 else states.mean(dim=(2, 3))
        rows.append(np.asarray(pooled_BF.numpy(), np.float16))
    return np.concatenate(rows)


@functools.lru_cache(maxsize=2)
def _model(path: str) -> PreTrainedModel:
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    model: PreTrainedModel = AutoModel.from_pretrained(path, local_files_only=True)
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    return model


@functools.lru_cache(maxsize=8)
def _read(path: str, name: str, *, needed: bool = True) -> dict[str, Any]:
    file = Path(path).expanduser() / name
    if not file.exists() and not needed:
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: name a folder that save_pretrained wrote") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} is no configuration: name a folder that save_pretrained wrote")
    return values
