"""Decoding on real little files: what is right, and every way a file can be wrong."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tempfile
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components import media
from tests.conftest import SHARED_DATA

RATE_HZ = 16_000


def tone(duration_s: float, *, frequency_hz: float = 300.0, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    time_T = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_T)).astype(np.float32)


def ramp(num_frames: int, *, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Frames whose brightness tells their number: 5 a frame from 20 on."""
    values_T = (20 + 5 * np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(values_T[:, None, None, None], (num_frames, height, width, 3)).copy()


def decode(
    source: Path | bytes,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    limits: media.Limits | None = None,
    want: tuple[media.Stream, ...] = ("audio", "video"),
    frame_rate_hz: float = 12.5,
) -> media.Recording:
    return media.decode(
        source,
        sample_rate_hz=RATE_HZ,
        frame_rate_hz=frame_rate_hz,
        start_s=start_s,
        end_s=end_s,
        limits=limits,
        want=want,
    )


def code_of(source: Path | bytes, *, limits: media.Limits | None = None) -> str:
    with pytest.raises(media.MediaError) as caught:
        decode(source, limits=limits)
    assert "\n" not in str(caught.value)
    return caught.value.code


def pcm(samples_TC: NDArray[np.int16], rate_hz: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples_TC.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(samples_TC.astype("<i2").tobytes())
    return file.getvalue()


def float_wav(samples_T: NDArray[np.float32], *, rate_hz: int = RATE_HZ) -> bytes:
    data = samples_T.astype("<f4").tobytes()
    head = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, rate_hz, 4 * rate_hz, 4, 32)
    body = b"WAVE" + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "talking.mp4"
    media.write_mp4(path, ramp(40), frame_rate_hz=25, waveform_T=tone(1.6), sample_rate_hz=RATE_HZ)
    return path


def test_both_streams_come_out_of_one_file(talking: Path) -> None:
    recording = decode(talking)
    assert recording.waveform_T is not None
    assert recording.frames_THW is not None
    assert recording.waveform_T.dtype == np.float32
    assert recording.frames_THW.dtype == np.uint8
    assert recording.waveform_T.shape == (25_600,)
    assert recording.frames_THW.shape == (20, 64, 96)
    assert recording.duration_s == pytest.approx(1.6)
    assert np.corrcoef(recording.waveform_T, tone(1.6))[0, 1] > 0.99
    # Every second frame of 25 a second: brightness grows by twice the step, in coded luma (219 of 255 levels).
    steps = np.diff(recording.frames_THW[:, 32, 48].astype(int))
    assert steps == pytest.approx(np.full(19, 10 * 219 / 255), abs=1.5)
    np.testing.assert_allclose(recording.frame_times_s, np.arange(20) / 12.5)


def test_bytes_and_path_are_the_same(talking: Path) -> None:
    first, second = decode(talking), decode(talking.read_bytes())
    np.testing.assert_array_equal(first.waveform_T, second.waveform_T)
    np.testing.assert_array_equal(first.frames_THW, second.frames_THW)


def test_content_decides_not_the_name(talking: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "http:__x.txt"
    renamed.write_bytes(talking.read_bytes())
    assert decode(renamed).frames_THW is not None


def test_span_is_cut_by_time(talking: Path) -> None:
    whole, part = decode(talking), decode(talking, start_s=0.4, end_s=1.0)
    assert whole.waveform_T is not None
    assert part.waveform_T is not None
    assert part.frames_THW is not None
    assert whole.frames_THW is not None
    np.testing.assert_array_equal(part.waveform_T, whole.waveform_T[6_400:16_000])
    # 0.4 s is grid step 5 of the whole recording.
    np.testing.assert_array_equal(part.frames_THW, whole.frames_THW[5:13])
    assert part.duration_s == pytest.approx(0.6)


def test_late_span_of_a_long_file_is_found_by_seeking(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    frames_THW3 = np.repeat((10 * np.arange(20, dtype=np.uint8) + 20)[:, None, None, None], 25, axis=0)
    media.write_mp4(
        path,
        np.broadcast_to(frames_THW3, (500, 32, 32, 3)).copy(),
        frame_rate_hz=25,
        waveform_T=np.concatenate([tone(1.0, frequency_hz=200 + 40 * second) for second in range(20)]),
    )
    part = decode(path, start_s=12.0, end_s=13.0, frame_rate_hz=5)
    assert part.waveform_T is not None
    assert part.frames_THW is not None
    assert part.frames_THW.shape == (5, 32, 32)
    assert part.frames_THW.mean() == pytest.approx(16 + (20 + 120) * 219 / 255, abs=3)
    spectrum = np.abs(np.fft.rfft(part.waveform_T))
    assert spectrum.argmax() == pytest.approx(200 + 40 * 12, abs=2)


def test_frames_are_taken_at_the_rate_asked_for(talking: Path) -> None:
    for frame_rate_hz, num_frames in ((25.0, 40), (5.0, 8), (50.0, 80)):
        recording = decode(talking, frame_rate_hz=frame_rate_hz)
        assert recording.frames_THW is not None
        assert len(recording.frames_THW) == len(recording.frame_times_s) == num_frames


def test_nearest_frame_wins_where_frames_come_irregularly(tmp_path: Path) -> None:
    path = tmp_path / "irregular.mkv"
    times_ms = [0, 90, 210, 260, 500]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "gray"
        stream.time_base = Fraction(1, 1000)
        for index, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32), 40 * index, np.uint8), format="gray")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    recording = decode(path, frame_rate_hz=10)
    assert recording.frames_THW is not None
    nearest = [min(range(5), key=lambda index: abs(times_ms[index] - 100 * step)) for step in range(6)]
    assert [int(frame[0, 0]) // 40 for frame in recording.frames_THW] == nearest[: len(recording.frames_THW)]
    assert len(recording.frames_THW) >= 5


def test_stereo_at_another_rate_becomes_mono_at_ours() -> None:
    time_T = np.arange(44_100) / 44_100
    left_T, right_T = np.sin(2 * np.pi * 440 * time_T), np.zeros(44_100)
    source = pcm(np.round(np.stack([left_T, right_T], axis=1) * 20_000).astype(np.int16), 44_100)
    recording = decode(source)
    assert recording.frames_THW is None
    assert recording.waveform_T is not None
    assert len(recording.waveform_T) == pytest.approx(16_000, abs=20)
    assert np.abs(recording.waveform_T[1000:-1000]).max() == pytest.approx(0.5 * 20_000 / 32_768, rel=0.02)
    info = media.probe(source)
    assert (info.num_channels, info.sample_rate_hz, info.has_video) == (2, 44_100, False)


def test_same_channels_are_not_louder_than_one() -> None:
    mono_T = np.round(tone(0.5) * 32_000).astype(np.int16)
    single, double = decode(pcm(mono_T[:, None], RATE_HZ)), decode(pcm(np.stack([mono_T, mono_T], axis=1), RATE_HZ))
    np.testing.assert_allclose(single.waveform_T, double.waveform_T, atol=1e-6)  # type: ignore[arg-type]  # the clip has sound


def test_wide_picture_is_shrunk_and_order_of_pixels_kept(tmp_path: Path) -> None:
    frames_THW3 = np.zeros((4, 90, 1280, 3), np.uint8)
    frames_THW3[:, :, 640:] = 200
    path = tmp_path / "wide.mp4"
    media.write_mp4(path, frames_THW3, frame_rate_hz=10)
    recording = decode(path, frame_rate_hz=10)
    assert recording.frames_THW is not None
    assert recording.waveform_T is None
    assert recording.frames_THW.shape == (4, 45, 640)
    assert recording.frames_THW[0, 20, 100] < 40
    assert recording.frames_THW[0, 20, 500] > 150


def test_writing_twice_gives_the_same_bytes(talking: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mp4"
    media.write_mp4(again, ramp(40), frame_rate_hz=25, waveform_T=tone(1.6), sample_rate_hz=RATE_HZ)
    assert hashlib.md5(again.read_bytes()).digest() == hashlib.md5(talking.read_bytes()).digest()


def test_wav_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    media.write_wav(path, tone(0.5))
    recording = decode(path)
    np.testing.assert_allclose(recording.waveform_T, tone(0.5), atol=1e-4)  # type: ignore[arg-type]  # the clip has sound


def test_missing_stream_is_none_unless_it_alone_is_wanted(talking: Path, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    media.write_wav(path, tone(0.5))
    assert decode(talking, want=("audio",)).frames_THW is None
    with pytest.raises(media.MediaError, match="no video stream") as caught:
        decode(path, want=("video",))
    assert caught.value.code == "no-video"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"hello, this is no recording " * 50, "not-media"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not-media"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git-lfs-stub"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not-media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not-media"),
        (b"RIFF\x00\x00\x00\x00WAVE", "truncated"),
        (float_wav(np.full(8_000, np.nan, np.float32)), "not-finite"),
        (pcm(np.zeros((800, 20), np.int16), RATE_HZ), "too-many-channels"),
        (pcm(np.zeros((800, 1), np.int16), 100), "bad-rate"),
        (pcm(np.zeros((0, 1), np.int16), RATE_HZ), "damaged"),
    ],
)
def test_broken_content_has_a_code(content: bytes, code: str) -> None:
    assert code_of(content) == code


def test_loud_samples_are_clipped() -> None:
    recording = decode(float_wav(np.full(8_000, 7.5, np.float32)))
    assert recording.waveform_T is not None
    assert recording.waveform_T.max() <= 1.0


def test_cut_files_are_truncated(talking: Path) -> None:
    content = talking.read_bytes()
    assert code_of(content[:400]) in ("truncated", "unknown-codec")
    assert code_of(content[: len(content) // 2]) == "truncated"
    wav = pcm(np.round(tone(4.0) * 20_000).astype(np.int16)[:, None], RATE_HZ)
    assert code_of(wav[: len(wav) // 2]) == "truncated"


def test_limits_hold_while_decoding(talking: Path) -> None:
    assert code_of(talking, limits=media.Limits(max_duration_s=1.0)) == "too-long"
    assert code_of(talking, limits=media.Limits(max_bytes=1_000)) == "too-large"
    assert code_of(talking, limits=media.Limits(max_pixels=64 * 64)) == "bad-size"
    assert code_of(talking, limits=media.Limits(max_decoded_bytes=10_000)) == "too-large"
    assert decode(talking, end_s=0.9, limits=media.Limits(max_duration_s=1.0)).duration_s == pytest.approx(0.9)


def test_span_outside_the_file_is_named(talking: Path) -> None:
    with pytest.raises(media.MediaError) as caught:
        decode(talking, start_s=3.0)
    assert caught.value.code == "empty-span"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing.mp4") == "missing"
    assert code_of(tmp_path) == "unreadable"


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(media.MediaError("empty", "a  b")))
    assert (error.code, str(error)) == ("empty", "a b")


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=40),
    keep=st.floats(0.05, 1),
    kind=st.sampled_from(["mp4", "wav"]),
)
def test_mutated_files_end_in_arrays_or_a_media_error(
    talking: Path, edits: list[tuple[float, int]], keep: float, kind: str
) -> None:
    clean = talking.read_bytes() if kind == "mp4" else pcm(np.zeros((4_000, 2), np.int16), 44_100)
    content = bytearray(clean[: max(1, int(len(clean) * keep))])
    for place, value in edits:
        # Half of the edits hit the header, where the structure is.
        content[int(place * min(len(content), 1_500 if value % 2 else len(content)))] = value
    limits = media.Limits(max_duration_s=30, max_decoded_bytes=50_000_000)
    try:
        recording = decode(bytes(content), limits=limits)
    except media.MediaError:
        return
    assert recording.waveform_T is None or np.isfinite(recording.waveform_T).all()
    assert recording.duration_s <= 31


@settings(max_examples=40)
@given(st.binary(max_size=3_000))
def test_garbage_is_never_anything_else_than_a_media_error(content: bytes) -> None:
    with pytest.raises(media.MediaError):
        decode(content)


@pytest.mark.skipif(not (SHARED_DATA / "grid_clips").is_dir(), reason="the shared recordings are not here")
def test_real_talking_heads_in_mpeg_1() -> None:
    for path in sorted((SHARED_DATA / "grid_clips").glob("*.mpg")):
        recording = decode(path)
        assert recording.waveform_T is not None
        assert recording.frames_THW is not None
        assert recording.frames_THW.shape[1:] == (288, 360)
        assert len(recording.frames_THW) == pytest.approx(37, abs=1)
        assert len(recording.waveform_T) == pytest.approx(3 * RATE_HZ, abs=800)
        info = media.probe(path)
        assert (info.width, info.height, info.num_channels) == (360, 288, 2)
        assert info.frame_rate_hz == pytest.approx(25)


def test_unreachable_address_is_a_media_error() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(media.MediaError) as caught:
        media.source_of(f"file://{folder}/nothing.wav")
    assert caught.value.code == "missing"
