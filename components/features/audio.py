"""What is heard of a waveform: log-mel filter banks, the samples themselves, or what a frozen encoder says.

Of the filter banks consecutive frames are stacked into one step. One real FFT a frame and one sparse product for the
mel bands, in blocks that stay in the processor's cache. All of it runs in one thread, so the bits do not depend on
how many there are. The level is kept: how loud somebody speaks is a cue, so nothing is normalised by the clip.
Instead one fixed affine map, the same for every clip, brings the logarithms of speech near zero mean and unit
variance.

Shapes: S samples, N frames, K frequency bins, M mel bands, T steps, F features of a step.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from components.features import encoders, pitch
from components.features.half import to_half
from components.params import AudioFeatures

LOWEST_HZ = 40.0
POWER_FLOOR = 1e-10  # 16-bit quantisation noise lies near 1e-10; ln(1e-10) = -23
# Mean and deviation of ln(power) over read and acted speech; fixed, because a bundle's features must not move.
LOG_CENTRE = -14.0
LOG_SCALE = 5.0

_BLOCK_STEPS = 64
_PITCH_WIDTH = 2
_POINTS_PER_BIN = 32


def audio_width(config: AudioFeatures) -> int:
    """Features F of one step."""
    if config.precomputed is not None:
        return config.precomputed.width
    if config.kind == "waveform":
        return 1
    if config.kind == "encoder":
        return _encoder(config).width
    return (config.num_mels + (_PITCH_WIDTH if config.pitch else 0)) * config.stack


def frames_per_step(config: AudioFeatures) -> int:
    """Frames that are stacked in one step, one behind the other."""
    return config.stack if config.kind == "log_mel" else 1


def audio_step_s(config: AudioFeatures) -> float:
    """Seconds from one step to the next."""
    if config.precomputed is not None:
        return config.precomputed.step_s
    if config.kind == "waveform":
        return 1 / config.sample_rate_hz
    if config.kind == "encoder":
        return _encoder(config).step_samples / config.sample_rate_hz
    return config.hop_s * config.stack


def describe_sound(waveform_S: NDArray[np.float32], config: AudioFeatures) -> NDArray[np.float16]:
    """(T, F) of a waveform, mono in [-1, 1], at `config.sample_rate_hz`.

    A sample of a waveform keeps eleven bits, whatever its size: noise 66 dB below the voice, wherever that lies.
    """
    if config.kind == "waveform":
        return to_half(waveform_S[:, None])
    if config.kind == "encoder":
        return encoders.encode_speech(waveform_S, config.path or "", sample_rate_hz=config.sample_rate_hz)
    return filter_banks(waveform_S, config)


def filter_banks(waveform_S: NDArray[np.float32], config: AudioFeatures) -> NDArray[np.float16]:
    """Log-mel bands and, with `config.pitch`, the voice's pitch in the same frames: (T, F), frame behind frame."""
    mel_TF = log_mel(waveform_S, config)
    if not config.pitch:
        return mel_TF
    hop, num_frames = _hop_samples(config), len(mel_TF) * config.stack
    centres_N = np.arange(num_frames) * hop + _window_samples(config) // 2
    pitch_N2 = pitch.pitch(waveform_S, centres_N, sample_rate_hz=config.sample_rate_hz)
    frames = [mel_TF.reshape(num_frames, config.num_mels), pitch_N2.astype(np.float16)]
    return np.concatenate(frames, axis=1).reshape(len(mel_TF), audio_width(config))


def num_audio_steps(num_samples: int, config: AudioFeatures) -> int:
    """Steps T of filter banks: every sample begins in one; the last step is filled up with zeros."""
    return -(-num_samples // (_hop_samples(config) * config.stack))


def log_mel(waveform_S: NDArray[np.float32], config: AudioFeatures) -> NDArray[np.float16]:
    """Filter banks of a waveform: (T, M * stack) float16, T = `num_audio_steps`.

    Frame n covers `window_s` from sample n * hop on, under a Hann window; `stack` frames in order make a step.
    A value is (ln(p) - LOG_CENTRE) / LOG_SCALE with p the mean power in the band, so that white noise of variance
    v has p = v in all bands. Behind the last sample the waveform goes on with zeros until the last frame is whole.

    Args:
        waveform_S: mono in [-1, 1], at `config.sample_rate_hz`.
        config: rates and sizes.
    """
    num_steps = num_audio_steps(len(waveform_S), config)
    features_TF = np.empty((num_steps, config.num_mels * config.stack), np.float16)
    if num_steps == 0:
        return features_TF
    hop, window_K = _hop_samples(config), _hann(_window_samples(config))
    weights_MK = _mel_weights(config)
    needed = (num_steps * config.stack - 1) * hop + len(window_K)
    padded_S = np.zeros(max(needed, len(waveform_S)), np.float32)
    padded_S[: len(waveform_S)] = waveform_S
    frames_NK = sliding_window_view(padded_S, len(window_K))[::hop]
    for first in range(0, num_steps, _BLOCK_STEPS):
        last = min(first + _BLOCK_STEPS, num_steps)
        block_NK = frames_NK[first * config.stack : last * config.stack] * window_K
        spectrum_NK = scipy.fft.rfft(block_NK, axis=-1, overwrite_x=True)
        # Real and imaginary parts lie side by side: squared in one go.
        parts_NK2 = spectrum_NK.view(np.float32).reshape(*spectrum_NK.shape, 2)
        np.square(parts_NK2, out=parts_NK2)
        power_NK = parts_NK2[..., 0] + parts_NK2[..., 1]
        mel_NM = (weights_MK @ power_NK.T).T
        np.maximum(mel_NM, POWER_FLOOR, out=mel_NM)
        np.log(mel_NM, out=mel_NM)
        mel_NM -= LOG_CENTRE
        mel_NM /= LOG_SCALE
        features_TF[first:last] = to_half(mel_NM).reshape(last - first, -1)
    return features_TF


def _encoder(config: AudioFeatures) -> encoders.SpeechEncoder:
    return encoders.speech_encoder(config.path or "", sample_rate_hz=config.sample_rate_hz)


def _window_samples(config: AudioFeatures) -> int:
    return max(2, round(config.window_s * config.sample_rate_hz))


def _hop_samples(config: AudioFeatures) -> int:
    return max(1, round(config.hop_s * config.sample_rate_hz))


@functools.lru_cache(maxsize=8)
def _hann(num_samples: int) -> NDArray[np.float32]:
    """A periodic Hann window of unit energy, so that the power of white noise is its variance."""
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(num_samples) / num_samples)
    return np.asarray(window / np.sqrt(np.square(window).sum()), np.float32)


@functools.lru_cache(maxsize=8)
def _mel_weights(config: AudioFeatures) -> scipy.sparse.csr_array:
    """Triangular bands, evenly spaced in mel, each summing to one: (M, K) float32.

    A triangle is averaged over the width of a frequency bin: many narrow bands then overlap a little instead of
    some of them falling between two bins and staying empty.
    """
    num_samples = _window_samples(config)
    bin_hz = config.sample_rate_hz / num_samples
    num_bins = num_samples // 2 + 1
    edges_mel = np.linspace(_mel(LOWEST_HZ), _mel(config.sample_rate_hz / 2), config.num_mels + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    offsets = (np.arange(_POINTS_PER_BIN) + 0.5) / _POINTS_PER_BIN - 0.5
    points_hz = (np.arange(num_bins)[:, None] + offsets) * bin_hz
    weights_KM = np.empty((num_bins, config.num_mels))
    for band in range(config.num_mels):
        low, centre, high = edges_hz[band : band + 3]
        triangle = np.minimum((points_hz - low) / (centre - low), (high - points_hz) / (high - centre))
        weights_KM[:, band] = np.maximum(triangle, 0).mean(axis=1)
    return scipy.sparse.csr_array((weights_KM / weights_KM.sum(axis=0)).T.astype(np.float32))


def _mel(frequency_hz: float) -> float:
    return 2595 * math.log10(1 + frequency_hz / 700)
