"""Decoding in processes apart: the same bits, limits that hold, deaths that cost one request, and no orphans."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from starlette.testclient import TestClient

from components import params
from components.features import clip_features
from components.features.clip_features import Frames
from components.media import Limits, MediaError, Recording
from components.sources import Transcribe
from serving.app import Live, create_app
from serving.decoding import Costs, Decoders
from tests.bundles import requests
from tests.conftest import REPOSITORY
from tests.test_media import pcm

FEATURES = params.Features()
LIMITS = Limits()


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(num_workers=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def face() -> bytes:
    content = requests()[1].video
    assert content is not None
    return content


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A small file that takes many seconds: a still picture, as large as allowed, shown 500 times a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=500)
        stream.width, stream.height, stream.pix_fmt = 4096, 2160, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((2160 * 3 // 2, 4096), 128, np.uint8), format="yuv420p")
        packets = []
        for _ in range(3):
            picture.pts = None
            packets += stream.encode(picture)
        packets += stream.encode(None)
        still = bytes(packets[-1])
        for number in range(2_000):
            packet = av.Packet(bytes(packets[0]) if number == 0 else still)
            packet.stream, packet.time_base = stream, packets[0].time_base
            packet.pts = packet.dts = number * 2 if packets[0].time_base.denominator == 1000 else number
            packet.is_keyframe = number == 0
            container.mux(packet)
    return file.getvalue()


def code_of(decoders: Decoders, video: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(MediaError) as refused:
        _frames(decoders, None, video, limits=limits)
    return refused.value.code


def _frames(
    decoders: Decoders,
    audio: bytes | None,
    video: bytes | None,
    config: params.Features = FEATURES,
    *,
    limits: Limits = LIMITS,
) -> Frames:
    decoded = decoders.decode(audio=audio, video=video, config=config, limits=limits)
    return decoded if isinstance(decoded, Frames) else clip_features.compute_frames(decoded, config)


def _frames_here(audio: bytes | None, video: bytes | None, config: params.Features) -> Frames:
    recording = clip_features.record(audio=audio, video=video, config=config, limits=LIMITS)
    return clip_features.compute_frames(recording, config)


def test_a_worker_gives_the_same_bits(decoders: Decoders, face: bytes) -> None:
    voice = requests()[0].audio
    for audio, video in ((face, face), (bytes(bytearray(face)), face), (voice, None), (None, face), (voice, face)):
        apart = _frames(decoders, audio, video)
        here = _frames_here(audio, video, FEATURES)
        np.testing.assert_array_equal(apart.audio_TF, here.audio_TF)
        np.testing.assert_array_equal(apart.video_TF, here.video_TF)
        assert {apart.audio_TF.dtype, apart.video_TF.dtype} == {np.dtype(np.float16)}
        assert apart.warnings == here.warnings


def test_what_an_encoder_is_to_see_comes_back_as_it_was_recorded(decoders: Decoders, face: bytes) -> None:
    """Of a waveform the encoder's own model is not needed, so its samples tell."""
    audio = params.AudioFeatures(kind="waveform")
    config = params.Features(audio=audio)
    apart = _frames(decoders, face, face, config)
    np.testing.assert_array_equal(apart.audio_TF, _frames_here(face, face, config).audio_TF)


def test_what_a_network_is_to_hear_comes_back_as_it_was_recorded(decoders: Decoders, face: bytes) -> None:
    """A speech recognizer that the worker does not load gets the very samples."""
    words = params.TextFeatures(transcribe=Transcribe(path="/of-the-server"))
    config = params.Features(text=words)
    apart = decoders.decode(audio=face, video=face, config=config, limits=LIMITS)
    here = clip_features.record(audio=face, video=face, config=config, limits=LIMITS)
    assert isinstance(apart, Recording)
    assert apart.waveform_T is not None
    assert here.waveform_T is not None
    assert apart.frames_THW is not None
    assert here.frames_THW is not None
    np.testing.assert_array_equal(apart.waveform_T, here.waveform_T)
    np.testing.assert_array_equal(apart.frames_THW, here.frames_THW)
    np.testing.assert_array_equal(apart.frame_times_s, here.frame_times_s)
    assert apart.duration_s == here.duration_s


def test_words_alone_need_no_worker() -> None:
    with Decoders(num_workers=0) as none:
        assert _frames(none, None, None).audio_TF.shape == (0, 160)


def test_what_is_broken_has_the_same_name_as_without_a_worker(decoders: Decoders, face: bytes) -> None:
    assert code_of(decoders, b"no recording at all" * 100) == "not-media"
    assert code_of(decoders, face[: len(face) // 2]) == "truncated"
    assert code_of(decoders, face, Limits(max_pixels=10)) == "bad-size"


def test_a_worker_that_works_on_is_the_same_one(decoders: Decoders, face: bytes) -> None:
    before = decoders.process_ids
    code_of(decoders, b"no recording at all" * 100)
    _frames(decoders, face, face)
    assert decoders.process_ids == before


@pytest.mark.parametrize("costs", [Costs(cpu_s=1), Costs(wall_s=1.0)])
def test_a_recording_that_takes_too_long_costs_one_worker(costs: Costs, slow: bytes) -> None:
    assert len(slow) < 10_000_000
    with Decoders(num_workers=1, costs=costs) as pool:
        [before] = pool.process_ids
        assert code_of(pool, slow) == "too-slow-to-decode"
        assert not psutil.pid_exists(before)
        assert pool.process_ids != [before]


def test_a_recording_that_takes_too_much_memory(slow: bytes, face: bytes) -> None:
    with Decoders(num_workers=1, costs=Costs(memory_bytes=40_000_000)) as pool:
        assert code_of(pool, slow) == "too-large-to-decode"
        assert len(_frames(pool, face, face).video_TF)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_a_decoder_that_dies_costs_one_request(how: signal.Signals, slow: bytes, face: bytes) -> None:
    with Decoders(num_workers=1) as pool:
        _frames(pool, face, face)
        [worker] = pool.process_ids
        killer = threading.Thread(target=_kill_at_work, args=(worker, how))
        killer.start()
        with pytest.raises(MediaError, match=how.name) as refused:
            _frames(pool, None, slow)
        killer.join()
        assert refused.value.code == "undecodable"
        assert len(_frames(pool, face, face).video_TF)


def _kill_at_work(process_id: int, how: signal.Signals) -> None:
    process = psutil.Process(process_id)
    before_s = process.cpu_times().user
    while process.cpu_times().user < before_s + 0.3:
        time.sleep(0.01)
    process.send_signal(how)


def test_a_worker_that_died_of_idleness_costs_nothing(face: bytes) -> None:
    with Decoders(num_workers=1) as pool:
        _frames(pool, face, face)
        [worker] = pool.process_ids
        os.kill(worker, signal.SIGKILL)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
        assert len(_frames(pool, face, face).video_TF)


def test_nothing_is_left_when_the_pool_is_closed_or_its_owner_killed(slow: bytes, tmp_path: Path) -> None:
    with Decoders(num_workers=2) as pool:
        workers = pool.process_ids
        assert len(workers) == 2
    assert not any(psutil.pid_exists(worker) for worker in workers)

    path = tmp_path / "slow.mkv"
    path.write_bytes(slow)
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert owner.stdout is not None
    worker = psutil.Process(int(owner.stdout.readline()))
    before_s = worker.cpu_times().user
    while worker.cpu_times().user < before_s + 0.3:
        time.sleep(0.01)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()


# Decodes, and is killed meanwhile.
_OWNER = """
import sys
from pathlib import Path
from components import params
from components.media import Limits
from serving.decoding import Decoders
with Decoders(num_workers=1) as pool:
    [worker] = pool.process_ids
    import io, wave
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes(bytes(32000))
    config, limits = params.Features(), Limits()
    pool.decode(audio=file.getvalue(), video=None, config=config, limits=limits)
    print(worker, flush=True)
    pool.decode(audio=None, video=Path(sys.argv[1]).read_bytes(), config=config, limits=limits)
"""


def test_an_app_opens_and_closes_its_own() -> None:
    def workers() -> list[psutil.Process]:
        # What has ended and was not waited for yet has no command any more.
        alive = (each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE)
        return [each for each in alive if "serving.decoding_worker" in each.cmdline()]

    before = workers()
    with TestClient(create_app(Live)) as client:
        assert client.get("/healthz").status_code == 200
        assert len(workers()) == len(before) + 2
    assert workers() == before


def test_a_worker_holds_no_secret_and_writes_no_file(face: bytes) -> None:
    os.environ["AFFECT_TEST_SECRET"] = "secret of the house"
    try:
        with Decoders(num_workers=1) as pool:
            _frames(pool, face, face)
            worker = psutil.Process(pool.process_ids[0])
            assert "secret of the house" not in str(worker.environ())
            assert worker.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
            assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)
            assert worker.rlimit(psutil.RLIMIT_AS)[0] < 3_000_000_000
            assert "libtorch" not in str(worker.memory_maps())
    finally:
        del os.environ["AFFECT_TEST_SECRET"]


def test_many_threads_share_few_workers() -> None:
    """As many answers as questions, and each the right one."""
    sounds = [pcm(np.full((1_600 * length, 1), 1_000, np.int16), 16_000) for length in range(1, 9)]
    found: dict[int, int] = {}

    def ask(length: int) -> None:
        found[length] = len(_frames(pool, sounds[length - 1], None).audio_TF)

    with Decoders(num_workers=2) as pool:
        threads = [threading.Thread(target=ask, args=(length,)) for length in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {length: -(-10 * length // 4) for length in range(1, 9)}
