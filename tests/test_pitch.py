"""The pitch of a voice: known tones at any rate and level, the paper's formula, and nothing where nobody speaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.features.audio import audio_width, filter_banks, frames_per_step, log_mel
from components.features.pitch import CENTRE_HZ, normalised_differences, pitch
from components.params import AudioFeatures


def buzz(pitch_hz: float, *, rate_hz: int, level: float = 0.1) -> NDArray[np.float32]:
    """A second of harmonics, the stronger the lower, as of a voice."""
    times_S = np.arange(rate_hz) / rate_hz
    return np.asarray(
        level * sum(np.sin(2 * np.pi * pitch_hz * n * times_S + n) / n for n in range(1, 8)), dtype=np.float32
    )


@settings(max_examples=40)
@given(
    pitch_hz=st.floats(75, 450), rate_hz=st.sampled_from([8_000, 16_000, 22_050, 44_100]), level=st.floats(0.005, 0.2)
)
def test_tone_has_its_pitch(pitch_hz: float, rate_hz: int, level: float) -> None:
    centres_N = np.arange(10, 90) * rate_hz // 100
    found_N2 = pitch(buzz(pitch_hz, rate_hz=rate_hz, level=level), centres_N, sample_rate_hz=rate_hz)
    assert found_N2[:, 1].min() > 0.8
    found_hz = CENTRE_HZ * 2 ** (found_N2[:, 0] / found_N2[:, 1])
    np.testing.assert_allclose(found_hz, pitch_hz, rtol=0.01)


def test_noise_and_silence_are_not_voiced() -> None:
    centres_N = np.arange(100) * 160
    noise_S = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    assert pitch(0.1 * noise_S, centres_N, sample_rate_hz=16_000)[:, 1].mean() < 0.05
    assert not pitch(np.zeros(16_000, np.float32), centres_N, sample_rate_hz=16_000).any()
    assert not pitch(np.zeros(0, np.float32), centres_N[:1], sample_rate_hz=16_000).any()


def test_differences_are_those_of_the_slow_definition() -> None:
    frames_NR = np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)
    found_NL = normalised_differences(frames_NR, 30)
    for frame_R, found_L in zip(frames_NR, found_NL, strict=True):
        differences = [sum((frame_R[k] - frame_R[k + lag]) ** 2 for k in range(30)) for lag in range(20)]
        expected = [1.0] + [differences[lag] * lag / sum(differences[1 : lag + 1]) for lag in range(1, 20)]
        np.testing.assert_allclose(found_L, expected, rtol=1e-4)


def test_pitch_stands_behind_the_bands_of_its_frame() -> None:
    config = AudioFeatures(stack=4, pitch=True)
    voice_S = np.concatenate([buzz(200, rate_hz=16_000), np.zeros(8_000, np.float32)])
    found_TF = filter_banks(voice_S, config)
    assert (found_TF.shape[1], frames_per_step(config)) == (audio_width(config), 4)
    frames_NF = found_TF.reshape(-1, 42)
    bands_TF = log_mel(voice_S, AudioFeatures(stack=4))
    np.testing.assert_array_equal(frames_NF[:, :40], bands_TF.reshape(-1, 40))
    assert frames_NF[5:90, 41].min() > 0.9
    assert np.abs(frames_NF[5:90, 40]).max() < 0.02
    assert not frames_NF[110:, 40:].any()


@pytest.mark.parametrize("num_samples", [0, 1, 159, 161])
def test_shortest_sounds_have_all_their_features(num_samples: int) -> None:
    config = AudioFeatures(stack=8, pitch=True)
    found_TF = filter_banks(buzz(120, rate_hz=16_000)[:num_samples], config)
    assert found_TF.shape == (-(-num_samples // 1280), audio_width(config))
    assert np.isfinite(found_TF).all()
