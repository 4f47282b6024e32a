"""How high a voice is, frame by frame: YIN (de Cheveigné and Kawahara 2002), all frames at once.

A voice repeats itself with a period. For each lag the squared difference between a window and the window that lies so
much later is divided by its mean over the shorter lags; the first lag at which that falls to a clear minimum is the
period. What is left at the minimum says how much of the window does not repeat.

Shapes: S samples, N frames, W samples of a window, L lags.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

LOWEST_HZ: Final = 65.0
HIGHEST_HZ: Final = 600.0
# Zero of the pitch, in octaves: between the usual voices of men and women.
CENTRE_HZ: Final = 200.0
# Mean power of a window below which there is no voice: -70 dB of full scale. Digital silence would repeat perfectly.
SILENCE_POWER: Final = 1e-7

_RATE_HZ: Final = 8000  # Enough for the pitch; more samples cost time and change nothing.
_WINDOW_S: Final = 0.032
_CLEAR_MINIMUM: Final = 0.15  # the paper's threshold
_UNVOICED: Final = 0.5  # as much of the window as this does not repeat
_BLOCK_FRAMES: Final = 256


def pitch(waveform_S: NDArray[np.float32], centres_N: NDArray[np.int64], *, sample_rate_hz: int) -> NDArray[np.float32]:
    """(N, 2): octaves above `CENTRE_HZ` times how voiced the frame is, and how voiced it is, from 0 to 1.

    Args:
        waveform_S: mono in [-1, 1]; silence before and behind it.
        centres_N: the sample in the middle of each frame.
        sample_rate_hz: of the waveform.
    """
    stride = max(1, sample_rate_hz // _RATE_HZ)
    rate_hz = sample_rate_hz / stride
    window, num_lags = round(_WINDOW_S * rate_hz), int(rate_hz / LOWEST_HZ) + 2
    reach = window + num_lags
    slow_S = np.pad(waveform_S, (0, -len(waveform_S) % stride)).reshape(-1, stride).mean(axis=1)
    starts_N = centres_N // stride - reach // 2
    before = max(0, -int(starts_N.min(initial=0)))
    behind = max(0, int(starts_N.max(initial=0)) + reach - len(slow_S))
    views = sliding_window_view(np.pad(slow_S, (before, behind)), reach)
    found_N2 = np.empty((len(centres_N), 2), np.float32)
    for first in range(0, len(centres_N), _BLOCK_FRAMES):
        block = slice(first, first + _BLOCK_FRAMES)
        found_N2[block] = _of_frames(views[starts_N[block] + before], window, rate_hz)
    return found_N2


def _of_frames(frames_NR: NDArray[np.float32], window: int, rate_hz: float) -> NDArray[np.float32]:
    shortest = int(rate_hz / HIGHEST_HZ)
    rest_NL = normalised_differences(frames_NR, window)
    rows = np.arange(len(rest_NL))
    inner_NL = rest_NL[:, shortest:-1]
    is_minimum_NL = (inner_NL <= rest_NL[:, shortest - 1 : -2]) & (inner_NL < rest_NL[:, shortest + 1 :])
    is_clear_NL = is_minimum_NL & (inner_NL < _CLEAR_MINIMUM)
    lags_N = shortest + np.where(is_clear_NL.any(axis=1), is_clear_NL.argmax(axis=1), inner_NL.argmin(axis=1))
    before_N, at_N, after_N = (rest_NL[rows, lags_N + shift] for shift in (-1, 0, 1))
    # The minimum of the parabola through three lags: a high voice has few samples a period.
    bend_N = before_N - 2 * at_N + after_N
    shift_N = np.where(bend_N > 1e-6, 0.5 * (before_N - after_N) / np.maximum(bend_N, 1e-6), 0.0)
    octaves_N = np.log2(rate_hz / (lags_N + np.clip(shift_N, -0.5, 0.5)) / CENTRE_HZ)
    voiced_N = np.clip((_UNVOICED - at_N) / _UNVOICED, 0.0, 1.0)
    voiced_N[np.square(frames_NR[:, :window]).mean(axis=1) < SILENCE_POWER] = 0.0
    return np.stack([octaves_N * voiced_N, voiced_N], axis=1)


def normalised_differences(frames_NR: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """(N, L): equation 8 of the paper at the lags 0 to R - W - 1; 1 on average, near 0 at a period."""
    num_lags = frames_NR.shape[1] - window
    size = scipy.fft.next_fast_len(frames_NR.shape[1], real=True)
    whole_NK = scipy.fft.rfft(frames_NR, size, axis=1)
    whole_NK *= scipy.fft.rfft(frames_NR[:, :window], size, axis=1).conj()
    products_NL = scipy.fft.irfft(whole_NK, size, axis=1)[:, :num_lags]
    squares_NR = np.cumsum(np.square(frames_NR, dtype=np.float64), axis=1)
    powers_NL = squares_NR[:, window - 1 : -1].copy()
    powers_NL[:, 1:] -= squares_NR[:, : num_lags - 1]
    differences_NL = np.maximum(powers_NL[:, :1] + powers_NL - 2 * products_NL, 0.0)
    means_NL = np.cumsum(differences_NL, axis=1) / np.maximum(np.arange(num_lags), 1)
    rest_NL = differences_NL / np.maximum(means_NL, 1e-12)
    rest_NL[:, 0] = 1.0
    return np.asarray(rest_NL, np.float32)
