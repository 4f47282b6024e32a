"""The synthetic voice: a source-filter synthesizer at 16 kHz.

Pulses at the pitch (with jitter and tremor) and breath are shaped by the spectral tilt and by three formants a
syllable, and carried by a loudness contour with pauses. `CUES` says what each emotion does to the voice; the
speaker's own pitch, vocal tract and habits vary as much, and carry nothing.

Shape suffixes: T samples.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

SAMPLE_RATE_HZ: Final = 16_000


@dataclass(frozen=True)
class Manner:
    """How something is said, relative to how the speaker says things.

    Attributes:
        pitch: semitones above the speaker's own.
        pitch_range: semitones that syllables rise and fall.
        slope: semitones from the first to the last syllable.
        rate: syllables a second, as a factor.
        level_db: loudness.
        tilt: brightness; how much less high frequencies fall off, 0 to 1 for a wholly pressed voice.
        jitter: share by which one period differs from the next.
        tremor: semitones of trembling at 7 Hz.
        breath: share of noise in the source.
        tract: formants, as a factor.
    """

    pitch: float = 0.0
    pitch_range: float = 2.0
    slope: float = -1.0
    rate: float = 1.0
    level_db: float = 0.0
    tilt: float = 0.35
    jitter: float = 0.006
    tremor: float = 0.0
    breath: float = 0.04
    tract: float = 1.0


CUES: Final[dict[str, Manner]] = {
    "neutral": Manner(),
    "happy": Manner(pitch=3.5, pitch_range=4.5, slope=2.0, rate=1.1, level_db=2, tilt=0.5, tract=1.06),
    "sad": Manner(pitch=-2, pitch_range=1.0, slope=-3.0, rate=0.78, level_db=-5, tilt=0.1, breath=0.14, tract=0.97),
    "angry": Manner(pitch=1.5, pitch_range=4.0, slope=-2.5, rate=1.15, level_db=5, tilt=0.8, jitter=0.02),
    "fearful": Manner(pitch=5, pitch_range=2.0, slope=0.5, rate=1.25, level_db=-2, tremor=0.7, breath=0.1, tilt=0.3),
    "disgusted": Manner(pitch=-3, pitch_range=3.0, slope=-4.0, rate=0.85, tilt=0.55, jitter=0.03, tract=0.9),
}

# How much one utterance differs from the table by chance: standard deviation of each cue.
SPREAD: Final = Manner(
    pitch=1.1,
    pitch_range=0.8,
    slope=1.0,
    rate=0.07,
    level_db=1.5,
    tilt=0.09,
    jitter=0.004,
    tremor=0.12,
    breath=0.02,
    tract=0.015,
)
_LOWEST: Final = Manner(-9, 0.3, -8, 0.6, -14, 0.0, 0.001, 0.0, 0.0, 0.8)

# First three formants of five vowels, in hertz.
_VOWELS_HZ: Final = ((730, 1190, 2500), (530, 1840, 2480), (300, 2250, 2950), (560, 900, 2410), (320, 870, 2240))
_BANDWIDTHS_HZ: Final = (80.0, 110.0, 170.0)
_SYLLABLES_PER_S: Final = 5.0
_PAUSE_S: Final = 0.08


@dataclass(frozen=True)
class Voice:
    """What is the speaker's own: the register, pitch in hertz, length of the vocal tract as a factor, and habits."""

    is_high: bool
    pitch_hz: float
    tract: float
    rate: float
    level_db: float
    tilt: float
    breath: float


def draw_voice(generator: np.random.Generator) -> Voice:
    """A speaker's voice; the two usual registers are about equally frequent."""
    is_high = generator.random() < 0.5
    return Voice(
        is_high=is_high,
        pitch_hz=float((200 if is_high else 115) * 2 ** (generator.normal(0, 2.0) / 12)),
        tract=float((1.12 if is_high else 0.97) * np.exp(generator.normal(0, 0.03))),
        rate=float(np.exp(generator.normal(0, 0.08))),
        level_db=float(generator.normal(0, 2.0)),
        tilt=float(generator.normal(0, 0.08)),
        breath=float(abs(generator.normal(0, 0.03))),
    )


@dataclass(frozen=True)
class Utterance:
    """A spoken sentence: waveform_T in [-1, 1] at 16 kHz, and the same length of loudness_T in [0, 1]."""

    waveform_T: NDArray[np.float32]
    loudness_T: NDArray[np.float64]


def speak(voice: Voice, emotion: str, num_syllables: int, generator: np.random.Generator) -> Utterance:
    """Say a sentence of `num_syllables` in the manner of an emotion."""
    manner = _vary(CUES[emotion], generator)
    starts_T, lengths = _syllable_times(voice, manner, num_syllables, generator)
    num_samples = int(starts_T[-1] + lengths[-1] + 0.12 * SAMPLE_RATE_HZ)
    time_T = np.arange(num_samples) / SAMPLE_RATE_HZ
    envelope_T = np.zeros(num_samples)
    centers = starts_T + lengths / 2
    accents = generator.normal(0, 1, num_syllables)
    source_T = _source(voice, manner, np.interp(np.arange(num_samples), centers, accents), time_T, generator)
    waveform_T = np.zeros(num_samples)
    for index in range(num_syllables):
        begin, length = int(starts_T[index]), int(lengths[index])
        shape = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 0.7 * (1 + 0.15 * accents[index])
        envelope_T[begin : begin + length] = np.maximum(envelope_T[begin : begin + length], shape)
        spoken = source_T[begin : begin + length]
        vowel = _VOWELS_HZ[generator.integers(len(_VOWELS_HZ))]
        for formant_hz, bandwidth_hz in zip(vowel, _BANDWIDTHS_HZ, strict=True):
            spoken = _resonate(spoken, formant_hz * voice.tract * manner.tract, bandwidth_hz)
        power = np.sqrt(np.mean(spoken**2)) + 1e-9
        waveform_T[begin : begin + length] += spoken / power * shape
        # A consonant: a short hiss where the syllable starts.
        burst = generator.normal(0, 0.35, min(480, length)) * np.linspace(1, 0, min(480, length))
        waveform_T[begin : begin + len(burst)] += np.diff(burst, prepend=0.0)
    level = 0.09 * 10 ** ((manner.level_db + voice.level_db) / 20)
    noise_T = generator.normal(0, 0.0015, num_samples)
    return Utterance(
        waveform_T=np.clip(waveform_T * level + noise_T, -1, 1).astype(np.float32),
        loudness_T=np.clip(envelope_T * (0.75 + 0.03 * manner.level_db), 0, 1),
    )


def _vary(manner: Manner, generator: np.random.Generator) -> Manner:
    values = {}
    for field in fields(Manner):
        drawn = generator.normal(getattr(manner, field.name), getattr(SPREAD, field.name))
        values[field.name] = float(max(drawn, getattr(_LOWEST, field.name)))
    return Manner(**values)


def _syllable_times(
    voice: Voice, manner: Manner, num_syllables: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Starts and lengths of the syllables in samples, with a pause after some of them."""
    seconds = generator.normal(1, 0.15, num_syllables).clip(0.6, 1.5) / (_SYLLABLES_PER_S * manner.rate * voice.rate)
    pauses = _PAUSE_S * (generator.random(num_syllables) < 0.15) / manner.rate
    starts = 0.08 + np.concatenate([[0.0], np.cumsum(seconds + pauses)[:-1]])
    # Whole samples; a syllable runs a little into the next.
    return np.floor(starts * SAMPLE_RATE_HZ), np.floor(seconds * 1.1 * SAMPLE_RATE_HZ)


def _source(
    voice: Voice,
    manner: Manner,
    accent_T: NDArray[np.float64],
    time_T: NDArray[np.float64],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Glottal pulses and breath, with the voice's tilt."""
    progress_T = time_T / time_T[-1]
    semitones_T = manner.pitch + manner.pitch_range * accent_T / 2 + manner.slope * (progress_T - 0.5)
    semitones_T = semitones_T + manner.tremor * np.sin(2 * np.pi * 7.0 * time_T)
    # Jitter: a new deviation about every period.
    num_periods = int(time_T[-1] * voice.pitch_hz * 2) + 2
    deviation_T = np.interp(progress_T, np.linspace(0, 1, num_periods), generator.normal(0, 1, num_periods))
    pitch_T = voice.pitch_hz * 2 ** (semitones_T / 12) * (1 + 2 * manner.jitter * deviation_T)
    phase_T = np.cumsum(pitch_T / SAMPLE_RATE_HZ)
    pulses_T = np.diff(np.floor(phase_T), prepend=0.0) - pitch_T / SAMPLE_RATE_HZ
    breath = manner.breath + voice.breath
    source_T = pulses_T + breath * generator.normal(0, 0.3, len(time_T))
    pole = float(np.clip(0.97 - 0.35 * (manner.tilt + voice.tilt), 0.5, 0.985))
    return np.asarray(lfilter([1.0], [1.0, -pole], source_T))


def _resonate(signal_T: NDArray[np.float64], center_hz: float, bandwidth_hz: float) -> NDArray[np.float64]:
    radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE_HZ)
    angle = 2 * np.pi * min(center_hz, 0.45 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    poles = [1.0, -2 * radius * np.cos(angle), radius**2]
    return np.asarray(lfilter([sum(poles)], poles, signal_T))
