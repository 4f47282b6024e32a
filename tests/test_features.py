"""Features: against slow, obvious references, by their step formulas, and the same in every way in."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.datasets.synthetic import golden_requests
from components.features import ClipFeatures, audio, clip_features, faces, text, video
from components.features.half import to_half
from components.media import MediaError, Recording, write_mp4, write_wav
from components.params import AudioFeatures, Features, TextFeatures, VideoFeatures

RATE_HZ = 16_000
CONFIG = Features()
TOKENIZER = text.fit_tokenizer(["good morning to you", "good night"], CONFIG.text)


def voice(duration_s: float, *, seed: int = 0) -> NDArray[np.float32]:
    """A buzzing tone in noise: something in every band."""
    times_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(seed).normal(0, 0.01, len(times_s))
    return np.asarray(0.2 * np.sign(np.sin(2 * math.pi * 150 * times_s)) * np.sin(3 * times_s) + noise, np.float32)


def face(centre: tuple[float, float], side: float, *, size: int = 128, mouth: float = 0.1) -> NDArray[np.uint8]:
    """A drawn face that the cascade takes for one: forehead, brows, eyes, nose and mouth in their places."""
    picture = np.full((size, size), 90, np.uint8)

    def point(x: float, y: float) -> tuple[int, int]:
        return round(centre[0] + x * side), round(centre[1] + y * side)

    def oval(x: float, y: float, wide: float, high: float, value: int) -> None:
        axes = (max(1, round(wide * side)), max(1, round(high * side)))
        cv2.ellipse(picture, point(x, y), axes, 0, 0, 360, value, -1, cv2.LINE_AA)

    oval(0, 0, 0.48, 0.62, 200)
    for eye in (-0.19, 0.19):
        oval(eye, -0.12, 0.10, 0.055, 235)
        oval(eye, -0.12, 0.05, 0.055, 30)
        cv2.line(picture, point(eye - 0.12, -0.23), point(eye + 0.12, -0.23), 40, max(1, round(side * 0.05)))
    cv2.line(picture, point(-0.03, -0.1), point(-0.05, 0.13), 160, max(1, round(side * 0.03)))
    cv2.line(picture, point(-0.05, 0.13), point(0.05, 0.13), 110, max(1, round(side * 0.03)))
    oval(0, 0.32, 0.17, mouth / 2, 60)
    return picture


def film(num_frames: int, *, side: float = 70, speed: float = 0.5) -> NDArray[np.uint8]:
    """A face that drifts to the right while its mouth opens and closes."""
    return np.stack([face((60 + speed * t, 64), side, mouth=0.06 + 0.1 * (t % 4) / 4) for t in range(num_frames)])


def times(num_frames: int, config: VideoFeatures = CONFIG.video) -> NDArray[np.float64]:
    return np.arange(num_frames) / config.frame_rate_hz


def recording(waveform_T: NDArray[np.float32] | None, frames_THW: NDArray[np.uint8] | None) -> Recording:
    num_frames = 0 if frames_THW is None else len(frames_THW)
    num_samples = 0 if waveform_T is None else len(waveform_T)
    duration_s = max(num_samples / RATE_HZ, num_frames / CONFIG.video.frame_rate_hz)
    return Recording(waveform_T, frames_THW, times(num_frames), duration_s)


def slow_log_mel(waveform: NDArray[np.float32], config: AudioFeatures) -> NDArray[np.float64]:
    """The definition, in float64 and one loop a sum: no FFT, no blocks, no matrix product."""
    window, hop = round(config.window_s * config.sample_rate_hz), round(config.hop_s * config.sample_rate_hz)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    energy = sum(value * value for value in hann)

    def hertz(mel: float) -> float:
        return 700 * (10 ** (mel / 2595) - 1)

    lowest, highest = (2595 * math.log10(1 + f / 700) for f in (audio.LOWEST_HZ, config.sample_rate_hz / 2))
    edges = [hertz(lowest + (highest - lowest) * n / (config.num_mels + 1)) for n in range(config.num_mels + 2)]
    bins = np.arange(window // 2 + 1)
    step_samples = hop * config.stack
    steps = []
    for step in range(math.ceil(len(waveform) / step_samples)):
        values: list[float] = []
        for frame in range(step * config.stack, (step + 1) * config.stack):
            samples = [
                float(waveform[n]) if n < len(waveform) else 0.0 for n in range(frame * hop, frame * hop + window)
            ]
            shaped = np.array([sample * weight for sample, weight in zip(samples, hann, strict=True)])
            waves = np.exp(-2j * math.pi * np.outer(bins, np.arange(window)) / window)
            power = np.abs(waves @ shaped) ** 2 / energy
            for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
                weights = []
                for k in bins:
                    points = [(k - 0.5 + (n + 0.5) / 32) * config.sample_rate_hz / window for n in range(32)]
                    rising = [max(0.0, min((f - low) / (centre - low), (high - f) / (high - centre))) for f in points]
                    weights.append(sum(rising) / 32)
                mean_power = float(np.dot(weights, power)) / sum(weights)
                values.append((math.log(max(mean_power, audio.POWER_FLOOR)) - audio.LOG_CENTRE) / audio.LOG_SCALE)
        steps.append(values)
    return np.array(steps)


@pytest.mark.parametrize("config", [AudioFeatures(num_mels=16), AudioFeatures(num_mels=9, hop_s=0.0125, stack=2)])
def test_log_mel_equals_the_slow_definition(config: AudioFeatures) -> None:
    waveform = voice(0.101)
    expected = slow_log_mel(waveform, config)
    found = audio.log_mel(waveform, config)
    assert found.shape == expected.shape
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float64), expected, atol=4e-3)


@settings(max_examples=40)
@given(num_samples=st.integers(0, 40_000), stack=st.integers(1, 6), num_mels=st.sampled_from([8, 40, 128]))
def test_audio_steps_follow_the_formula(num_samples: int, stack: int, num_mels: int) -> None:
    config = AudioFeatures(stack=stack, num_mels=num_mels)
    features = audio.log_mel(voice(3)[:num_samples], config)
    assert features.shape == (audio.num_audio_steps(num_samples, config), audio.audio_width(config))
    assert features.shape[0] == math.ceil(num_samples / (160 * stack))
    assert np.isfinite(features).all()


def test_audio_blocks_leave_no_seam() -> None:
    whole = audio.log_mel(voice(5), CONFIG.audio)
    later = audio.log_mel(voice(5)[RATE_HZ:], CONFIG.audio)
    np.testing.assert_array_equal(whole[25:], later)


def test_no_mel_band_is_empty_however_narrow() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
    features = audio.log_mel(noise, AudioFeatures(num_mels=128, stack=1)).astype(np.float64)
    mean_power = np.exp(features * audio.LOG_SCALE + audio.LOG_CENTRE)[:-2].mean(axis=0)
    # White noise of variance v has the power v in every band.
    np.testing.assert_allclose(mean_power, 0.01, rtol=0.35)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (7, 1), (1, 7), (250, 80)])
def test_half_precision_is_rounded_as_numpy_does(shape: tuple[int, int]) -> None:
    """Any bits, so also what is too large, too small, between two halves, or no number; and a picture turned about."""
    bits_XY = np.random.default_rng(0).integers(0, 1 << 32, shape, dtype=np.uint32)
    between_XY = (np.arange(math.prod(shape), dtype=np.float32).reshape(shape) + 0.5) * 2**-10 + 1
    for values_XY in (bits_XY.view(np.float32), bits_XY.view(np.float32).T, between_XY):
        with np.errstate(over="ignore", invalid="ignore"):
            expected_XY = values_XY.astype(np.float16)
        np.testing.assert_array_equal(to_half(values_XY), expected_XY)


def test_louder_speech_is_seen_as_louder() -> None:
    quiet, loud = (audio.log_mel(gain * voice(1), CONFIG.audio).astype(np.float64) for gain in (0.1, 1.0))
    assert (loud - quiet).mean() == pytest.approx(math.log(100) / audio.LOG_SCALE, abs=0.01)


def test_face_is_found_and_followed() -> None:
    frames = film(30)
    track = faces.track_face(frames, times(30), CONFIG.video)
    assert track is not None
    assert track.is_seen_T.all()
    drift = track.boxes_T3[25, 0] - track.boxes_T3[0, 0]
    assert drift == pytest.approx(0.5 * 25, abs=4)
    assert np.ptp(track.boxes_T3[:, 1]) < 5


def test_describing_a_face_gives_one_row_a_frame() -> None:
    features, share = video.describe(film(13), times(13), CONFIG.video)
    assert features.shape == (13, video.video_width(CONFIG.video))
    assert features.dtype == np.float16
    assert share == 1.0
    assert abs(float(features.astype(np.float64).mean())) < 1
    assert 0.3 < float(features.astype(np.float64).std()) < 3


def test_descriptor_ignores_light_and_contrast() -> None:
    frames = film(4)
    dim = (frames * 0.5 + 20).astype(np.uint8)
    bright, dark = (
        video.histograms(pictures[:, 16:112, 16:112][:, ::2, ::2], CONFIG.video) for pictures in (frames, dim)
    )
    np.testing.assert_allclose(bright, dark, atol=0.06)


def slow_histograms(face_SS: NDArray[np.uint8], config: VideoFeatures) -> NDArray[np.float64]:
    """The definition of the descriptor, pixel by pixel."""
    size, cells, bins = config.cell_size, config.face_size // config.cell_size, config.num_orientations
    side = size * cells
    histogram = np.zeros((cells, cells, bins))
    value = face_SS.astype(float)
    for y in range(side):
        for x in range(side):
            along_x = value[y, min(x + 1, side - 1)] - value[y, max(x - 1, 0)]
            along_y = value[min(y + 1, side - 1), x] - value[max(y - 1, 0), x]
            position = (math.atan2(along_y, along_x) % math.pi) / math.pi * bins
            low, share = int(position) % bins, position - int(position)
            strength = math.hypot(along_x, along_y)
            histogram[y // size, x // size, low] += strength * (1 - share)
            histogram[y // size, x // size, (low + 1) % bins] += strength * share
    energy = (histogram**2).sum(axis=-1)
    result = np.zeros_like(histogram)
    for row in range(cells):
        for column in range(cells):
            around = [
                energy[min(max(row + dy, 0), cells - 1), min(max(column + dx, 0), cells - 1)]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
            norm = math.sqrt(sum(around) / 9 + 0.01 * energy.mean() + 1e-6)
            result[row, column] = np.minimum(histogram[row, column] / norm, 1)
    return result.ravel()


def test_histograms_equal_the_slow_definition() -> None:
    config = VideoFeatures(face_size=32, cell_size=8, num_orientations=5)
    pictures = np.random.default_rng(1).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    pictures[2] = 77
    found = video.histograms(pictures, config)
    expected = np.stack([slow_histograms(picture, config) for picture in pictures])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_no_face_is_invented() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (10, 90, 120)).astype(np.uint8)
    for frames in (noise, np.zeros((10, 120, 90), np.uint8), np.zeros((3, 8, 4), np.uint8), noise[:0]):
        features, share = video.describe(frames, times(len(frames)), CONFIG.video)
        assert features.shape == (0, video.video_width(CONFIG.video))
        assert share == 0.0


def test_steps_far_from_a_sighting_are_zeros() -> None:
    frames = film(40)
    frames[10:30] = 90
    features, share = video.describe(frames, times(40), CONFIG.video)
    is_zero = (features == 0).all(axis=1)
    assert not is_zero[:11].any()
    assert is_zero[17:24].all()
    assert not is_zero[34:].any()
    assert share == 1 - is_zero.mean()


def test_of_two_people_the_larger_is_the_speaker() -> None:
    wide = np.full((20, 128, 256), 90, np.uint8)
    wide[:, :, :128] = face((60, 64), 45)
    wide[:, :, 128:] = face((64, 64), 75)
    track = faces.track_face(wide, times(20), CONFIG.video)
    assert track is not None
    assert (track.boxes_T3[:, 0] > 128).all()


def test_after_a_cut_the_face_is_found_again() -> None:
    frames = np.stack([face((45, 50), 70)] * 10 + [face((85, 75), 80)] * 10)
    track = faces.track_face(frames, times(20), CONFIG.video)
    assert track is not None
    assert track.is_seen_T.all()
    assert track.boxes_T3[0, 0] == pytest.approx(45, abs=6)
    assert track.boxes_T3[-1, 0] == pytest.approx(85, abs=6)


def test_a_face_at_the_border_and_a_large_picture_are_described() -> None:
    large = np.stack([cv2.resize(frame, (640, 640)) for frame in film(6)]).astype(np.uint8)
    small_features, large_features = (video.describe(frames, times(6), CONFIG.video)[0] for frames in (film(6), large))
    assert large_features.shape == small_features.shape
    crop = video.crop(face((10, 64), 70), np.array([10.0, 64.0, 70.0]), 48)
    assert crop.shape == (48, 48)


def test_cell_larger_than_the_face_is_refused() -> None:
    with pytest.raises(ValueError, match=r"features\.video\.cell_size 40 is larger than face_size 16"):
        video.video_width(VideoFeatures(face_size=16, cell_size=40))


def test_words_are_ranked_by_frequency_then_alphabet() -> None:
    tokenizer = text.fit_tokenizer(["b b a", "c a", None, ""], TextFeatures())
    assert sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) == [
        ("[PAD]", 0),
        ("[UNK]", 1),
        ("[MASK]", 2),
        ("a", 3),
        ("b", 4),
        ("c", 5),
    ]


def test_words_are_split_and_normalised() -> None:
    tokenizer = text.fit_tokenizer(["Don't — the ﬁre, Café rock'n'roll 日本語"], TextFeatures())
    ids, is_cut = text.encode(tokenizer, "DON’T? 'the' fire! cafe\u0301... rock'n'roll 日本語", TextFeatures())
    assert [tokenizer.id_to_token(index) for index in ids.tolist()] == [
        "don't",
        "the",
        "fire",
        "café",
        "rock'n'roll",
        "日本語",
    ]
    assert not is_cut


def test_special_words_cannot_be_written_into_a_transcript() -> None:
    ids, _ = text.encode(TOKENIZER, "[MASK] [PAD] good", CONFIG.text)
    assert ids.tolist() == [text.UNKNOWN_ID, text.UNKNOWN_ID, TOKENIZER.token_to_id("good")]


def test_vocabulary_and_words_are_cut() -> None:
    tokenizer = text.fit_tokenizer([" ".join(f"w{n}" for n in range(100))], TextFeatures(vocabulary_size=16))
    assert tokenizer.get_vocab_size() == 16
    ids, is_cut = text.encode(tokenizer, "w1 w2 w3", TextFeatures(max_words=2))
    assert ids.dtype == np.int32
    assert (len(ids), is_cut) == (2, True)


@settings(max_examples=60)
@given(transcript=st.one_of(st.none(), st.text(st.characters(codec=None))))
def test_any_transcript_is_encoded(transcript: str | None) -> None:
    ids, _ = text.encode(TOKENIZER, transcript, CONFIG.text)
    assert ids.dtype == np.int32
    assert ((ids == text.UNKNOWN_ID) | (ids >= 3)).all()
    text.fit_tokenizer([transcript], CONFIG.text)


def test_tokenizer_file_is_the_same_each_time_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    text.save_tokenizer(TOKENIZER, path)
    content = path.read_bytes()
    loaded = text.load_tokenizer(path)
    assert text.encode(loaded, "good day to you", CONFIG.text)[0].tolist() == [3, 1, 6, 7]
    text.save_tokenizer(loaded, path)
    assert path.read_bytes() == content
    for damaged in (content[:-20], b"[]", b'{"model": {"vocab": {"a": 0}}}', content.replace(b"NFKC", b"NFKD")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="build the features again"):
            text.load_tokenizer(path)


def assert_equal(first: ClipFeatures, second: ClipFeatures) -> None:
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_path_and_bytes_give_the_same_bits(tmp_path: Path) -> None:
    frames = np.repeat(np.repeat(film(50), 1, axis=0)[..., None], 3, axis=-1)
    path = tmp_path / "clip.mp4"
    write_mp4(path, frames, frame_rate_hz=25, waveform_T=voice(2), sample_rate_hz=RATE_HZ)
    content = path.read_bytes()
    of_path = clip_features.record(audio=path, video=path, config=CONFIG)
    of_bytes = clip_features.record(audio=content, video=content, config=CONFIG)
    apart = clip_features.record(audio=content, video=path, config=CONFIG)
    first, warnings = clip_features.compute(of_path, "good day", CONFIG, TOKENIZER)
    assert warnings == ()
    assert first.video_TF.shape[0] == 25
    assert first.audio_TF.shape[0] == audio.num_audio_steps(len(of_path.waveform_T), CONFIG.audio)  # type: ignore[arg-type]  # the clip has sound
    for other in (of_path, of_bytes, apart):
        assert_equal(first, clip_features.compute(other, "good day", CONFIG, TOKENIZER)[0])


def test_missing_modalities_have_no_steps_and_full_width(tmp_path: Path) -> None:
    nothing = clip_features.record(audio=None, video=None, config=CONFIG)
    features, warnings = clip_features.compute(nothing, "good night", CONFIG, TOKENIZER)
    assert warnings == ()
    assert features.audio_TF.shape == (0, audio.audio_width(CONFIG.audio))
    assert features.video_TF.shape == (0, video.video_width(CONFIG.video))
    assert features.word_ids_T.tolist() == [3, 5]
    path = tmp_path / "voice.wav"
    write_wav(path, voice(1), sample_rate_hz=RATE_HZ)
    for transcript in (None, "", " ... "):
        features, warnings = clip_features.compute(
            clip_features.record(audio=path, video=None, config=CONFIG), transcript, CONFIG, TOKENIZER
        )
        assert (len(features.audio_TF), len(features.video_TF), len(features.word_ids_T)) == (25, 0, 0)


@pytest.mark.parametrize("modality", ["audio", "video", "text"])
def test_only_the_chosen_modality_is_looked_at(modality: Literal["audio", "video", "text"]) -> None:
    [media] = [media for media in golden_requests() if media.video is not None]
    config = CONFIG.model_copy(update={"modalities": (modality,)})
    assert media.video is not None
    recording = clip_features.record(audio=media.video, video=media.video, config=config)
    features, _ = clip_features.compute(recording, "good night", config, TOKENIZER)
    steps = {"audio": len(features.audio_TF), "video": len(features.video_TF), "text": len(features.word_ids_T)}
    assert [name for name, num_steps in steps.items() if num_steps] == [modality]


def test_what_is_odd_is_told() -> None:
    silent = recording(np.zeros(RATE_HZ, np.float32), np.zeros((12, 64, 64), np.uint8))
    features, warnings = clip_features.compute(silent, None, CONFIG, TOKENIZER)
    assert warnings == ("silence", "no-face")
    assert (len(features.audio_TF), len(features.video_TF)) == (0, 0)


def test_long_clips_are_cut_and_told(tmp_path: Path) -> None:
    short = CONFIG.model_copy(update={"max_duration_s": 1.0})
    path = tmp_path / "clip.mp4"
    frames = np.repeat(film(100, speed=0.1)[..., None], 3, axis=-1)
    write_mp4(path, frames, frame_rate_hz=25, waveform_T=voice(4), sample_rate_hz=RATE_HZ)
    decoded = clip_features.record(audio=path, video=path, config=short)
    assert decoded.duration_s < 2.2
    features, warnings = clip_features.compute(decoded, None, short, TOKENIZER)
    assert warnings == ("truncated",)
    assert (len(features.audio_TF), len(features.video_TF)) == (25, 13)
    # Cutting earlier or later in the file makes no difference to what is kept.
    uncut = clip_features.record(audio=path, video=path, config=CONFIG)
    assert_equal(features, clip_features.compute(uncut, None, short, TOKENIZER)[0])


def test_span_of_a_longer_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    write_wav(path, voice(3), sample_rate_hz=RATE_HZ)
    part = clip_features.record(audio=path, video=None, config=CONFIG, start_s=1.0, end_s=2.0)
    features, _ = clip_features.compute(part, None, CONFIG, TOKENIZER)
    whole = clip_features.record(audio=path, video=None, config=CONFIG)
    assert whole.waveform_T is not None
    expected = audio.log_mel(whole.waveform_T[RATE_HZ : 2 * RATE_HZ], CONFIG.audio)
    np.testing.assert_array_equal(features.audio_TF, expected)


def test_broken_file_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no film")
    with pytest.raises(MediaError):
        clip_features.record(audio=path, video=path, config=CONFIG)
