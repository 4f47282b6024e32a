"""Batches and admission before a real runtime: like lengths together, one runtime a batch, no caller left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette import requests as http
from starlette.types import Message, Receive, Scope, Send

from serving import batching
from serving.batching import Batches, Steps, alike, padding
from serving.engine import Engine, while_connected
from serving.observation import Metrics, Observed
from serving.prediction import ClassPrediction, Prediction, Prepared, Request, RequestError
from serving.runtime import Runtime
from tests.bundles import requests, write_bundle

STEPS = st.tuples(st.integers(0, 1000), st.integers(0, 300), st.integers(0, 60))


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runtime, Runtime]:
    folder = tmp_path_factory.mktemp("bundles")
    return Runtime(write_bundle(folder / "A", seed=0)), Runtime(write_bundle(folder / "B", seed=1))


@pytest.fixture(scope="module")
def clips(runtimes: tuple[Runtime, Runtime]) -> list[Prepared]:
    """Clips of unlike lengths: a voice, a face with voice, words, everything, and pieces of voice and face."""
    voice, face, words = requests()
    prepared = [
        runtimes[0].prepare(Request(audio=audio, video=video, text=text))
        for audio, video, text in (
            (voice.audio, None, None),
            (None, face.video, None),
            (None, None, words.text),
            (None, face.video, words.text),
        )
    ]
    return [*prepared, *(_cut(prepared[0], share) for share in (0.1, 0.5, 0.9)), _cut(prepared[1], 0.7)]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches wait for others however busy this machine is."""
    monkeypatch.setattr(batching, "_MAX_WAIT_S", 60.0)


def _cut(clip: Prepared, share: float) -> Prepared:
    """The beginning of a clip."""
    features = clip.features
    audio_TF = features.audio_TF[: round(share * len(features.audio_TF))]
    video_TF = features.video_TF[: round(share * len(features.video_TF))]
    return replace(clip, features=replace(features, audio_TF=audio_TF, video_TF=video_TF))


def _judge(batches: Batches, asked: Sequence[tuple[Prepared, Runtime]]) -> list[Prediction]:
    """Ask for all at once."""

    async def gather() -> list[Prediction]:
        return await asyncio.gather(*(batches.predict(clip, runtime) for clip, runtime in asked))

    return asyncio.run(gather())


def _number(metrics: Metrics, name: str) -> float:
    value = metrics.registry.get_sample_value(name)
    assert value is not None, name
    return value


def _same(one: Prediction, other: Prediction) -> None:
    assert isinstance(one, ClassPrediction)
    assert isinstance(other, ClassPrediction)
    assert one.version == other.version
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    for mine, alone in zip(one.timeline, other.timeline, strict=True):
        assert mine.answers == pytest.approx(alone.answers, abs=1e-5)


@given(steps_N3=st.lists(STEPS, min_size=1, max_size=12), max_clips=st.integers(1, 8))
def test_a_batch_holds_the_oldest_clip_and_needs_little_padding(steps_N3: list[Steps], max_clips: int) -> None:
    chosen = alike(steps_N3, max_clips=max_clips)
    assert chosen[0] == 0
    assert len(chosen) <= max_clips
    assert chosen == sorted(set(chosen))
    batch = [steps_N3[index] for index in chosen]
    assert padding(batch) <= max(64, 0.25 * sum(map(sum, batch)))


def test_clips_of_one_length_share_a_batch_and_others_do_not() -> None:
    steps_N3 = [(500, 0, 0), (20, 0, 0), (480, 0, 0), (0, 0, 9), (500, 0, 0)]
    assert alike(steps_N3, max_clips=8) == [0, 2, 4]
    assert alike(steps_N3, max_clips=2) == [0, 4]


def test_padding_counts_the_steps_beyond_each_clip() -> None:
    assert padding([(10, 4, 0), (7, 0, 2)]) == 3 + 4 + 2
    assert padding([(10, 4, 0)]) == 0


def test_answers_do_not_depend_on_the_batch(runtimes: tuple[Runtime, Runtime], clips: list[Prepared]) -> None:
    metrics = Metrics()
    runtime = runtimes[0]
    together = _judge(Batches(metrics), [(clip, runtime) for clip in clips * 4])
    assert _number(metrics, "affect_batch_clips_sum") == 4 * len(clips)
    assert _number(metrics, "affect_batch_clips_count") < 4 * len(clips)
    alone = [runtime.predict_prepared([clip])[0] for clip in clips]
    for one, other in zip(together, alone * 4, strict=True):
        _same(one, other)
    # Whatever a batch is made of: all of them at once, padded to the longest.
    for one, other in zip(runtime.predict_prepared(clips), alone, strict=True):
        _same(one, other)


def test_a_batch_is_of_one_runtime(runtimes: tuple[Runtime, Runtime], clips: list[Prepared]) -> None:
    """As a swap leaves the queue: clips of the old model and of the new one, mixed."""
    asked = [(clips[index % 2], runtimes[index // 2 % 2]) for index in range(12)]
    for (clip, runtime), judged in zip(asked, _judge(Batches(Metrics()), asked), strict=True):
        _same(judged, runtime.predict_prepared([clip])[0])


def test_a_caller_that_goes_away_leaves_the_queue(runtimes: tuple[Runtime, Runtime], clips: list[Prepared]) -> None:
    metrics = Metrics()
    batches = Batches(metrics, max_clips=1)

    async def leave() -> Prediction:
        asked = [asyncio.create_task(batches.predict(clips[0], runtimes[0])) for _ in range(6)]
        await asyncio.sleep(0)
        # The first two are being judged.
        for task in asked[2:5]:
            task.cancel()
        await asyncio.wait(asked)
        assert [task.cancelled() for task in asked] == [False, False, True, True, True, False]
        return asked[5].result()

    _same(asyncio.run(leave()), runtimes[0].predict_prepared([clips[0]])[0])
    assert _number(metrics, "affect_batch_clips_sum") == 3
    assert _number(metrics, "affect_queue_clips") == 0


@pytest.mark.usefixtures("patient")
def test_a_batch_fills_while_more_come_than_can_be_prepared(
    runtimes: tuple[Runtime, Runtime], clips: list[Prepared]
) -> None:
    """Clips that come one after the other: judged one by one when few come, and together when many do."""

    def num_batches(*, are_many_coming: bool) -> float:
        metrics = Metrics()
        batches = Batches(metrics, max_clips=3, are_many_coming=lambda: are_many_coming)

        async def come() -> list[Prediction]:
            asked = []
            for _ in range(3):
                asked.append(asyncio.create_task(batches.predict(clips[2], runtimes[0])))
                # One after the other, where nothing holds them.
                await asyncio.wait([asked[-1]], timeout=0.001 if are_many_coming else None)
            return await asyncio.gather(*asked)

        alone = runtimes[0].predict_prepared([clips[2]])[0]
        for judged in asyncio.run(come()):
            _same(judged, alone)
        return _number(metrics, "affect_batch_clips_count")

    assert num_batches(are_many_coming=False) == 3
    assert num_batches(are_many_coming=True) == 1


def test_a_clip_is_not_held_for_long_by_others_that_do_not_come(
    runtimes: tuple[Runtime, Runtime], clips: list[Prepared]
) -> None:
    """As when each decoder is at work on a long film."""
    batches = Batches(Metrics(), are_many_coming=lambda: True)
    _same(_judge(batches, [(clips[0], runtimes[0])])[0], runtimes[0].predict_prepared([clips[0]])[0])


def test_callers_that_go_away_while_a_batch_fills_leave_nothing_to_judge(
    runtimes: tuple[Runtime, Runtime], clips: list[Prepared]
) -> None:
    metrics = Metrics()
    batches = Batches(metrics, are_many_coming=lambda: True)

    async def leave_and_come() -> Prediction:
        asked = asyncio.create_task(batches.predict(clips[1], runtimes[0]))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        return await batches.predict(clips[0], runtimes[0])

    _same(asyncio.run(leave_and_come()), runtimes[0].predict_prepared([clips[0]])[0])
    assert _number(metrics, "affect_batch_clips_sum") == 1


@pytest.mark.usefixtures("patient")
def test_many_recordings_at_once_are_judged_in_whole_batches(runtimes: tuple[Runtime, Runtime]) -> None:
    metrics = Metrics()
    engine = Engine(metrics, num_decoders=1)
    recording = requests()[1].video

    async def gather() -> list[Prediction]:
        return await asyncio.gather(*(engine.judge(Request(video=recording), runtimes[0]) for _ in range(8)))

    assert len(asyncio.run(gather())) == 8
    assert _number(metrics, "affect_batch_clips_count") < 8


def test_a_clip_that_comes_as_all_threads_end_is_judged(
    runtimes: tuple[Runtime, Runtime], clips: list[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches end in one turn of the event loop, and the first one's caller asks again in the next."""

    class AtOnce(Executor):
        def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(call(*arguments, **options))
            return done

    monkeypatch.setattr(batching, "ThreadPoolExecutor", lambda *_arguments, **_options: AtOnce())
    batches = Batches(Metrics(), max_clips=1)

    async def ask_twice() -> None:
        for _ in range(2):
            await batches.predict(clips[2], runtimes[0])

    async def ask() -> None:
        both = asyncio.gather(ask_twice(), batches.predict(clips[2], runtimes[0]))
        await asyncio.wait_for(both, timeout=60)

    asyncio.run(ask())


def test_a_fault_of_the_model_reaches_its_callers_and_nobody_else(
    runtimes: tuple[Runtime, Runtime], clips: list[Prepared]
) -> None:
    features = clips[0].features
    narrow = replace(clips[0], features=replace(features, audio_TF=np.ascontiguousarray(features.audio_TF[:, :3])))
    batches = Batches(Metrics(), max_clips=1)

    async def ask() -> list[Prediction | BaseException]:
        asked = [batches.predict(clip, runtimes[0]) for clip in (narrow, clips[0])]
        return await asyncio.gather(*asked, return_exceptions=True)

    fault, judged = asyncio.run(ask())
    assert isinstance(fault, (RuntimeError, ValueError))
    assert isinstance(judged, ClassPrediction)


def test_beyond_its_limit_an_engine_refuses_and_says_when_to_come_again() -> None:
    metrics = Metrics()
    engine = Engine(metrics, max_clips=3)
    with engine.admit(2), engine.admit():
        assert _number(metrics, "affect_clips_admitted") == 3
        with pytest.raises(RequestError, match="no more than 3") as refused:
            engine.refuse_if_full()
        assert refused.value.code == "overloaded"
        assert refused.value.retry_after_s is not None
        assert 1 <= refused.value.retry_after_s <= 30
    with engine.admit(3):
        pass
    assert _number(metrics, "affect_clips_admitted") == 0


def test_an_engine_decodes_and_judges(runtimes: tuple[Runtime, Runtime]) -> None:
    metrics = Metrics()
    engine = Engine(metrics)
    asked = [
        Request(video=requests()[1].video),
        Request(audio=requests()[0].audio),
        Request(audio=b"no recording" * 99),
    ]

    async def gather() -> list[Prediction | BaseException]:
        return await asyncio.gather(*(engine.judge(each, runtimes[0]) for each in asked), return_exceptions=True)

    face, voice, broken = asyncio.run(gather())
    assert isinstance(face, ClassPrediction)
    assert isinstance(voice, ClassPrediction)
    _same(face, runtimes[0].predict([asked[0]])[0])
    _same(voice, runtimes[0].predict([asked[1]])[0])
    assert isinstance(broken, RequestError)
    assert broken.code == "not-media"


def test_work_for_a_caller_that_goes_away_is_cancelled() -> None:
    async def ask() -> tuple[str, bool]:
        left, ended = asyncio.Event(), asyncio.Event()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async def work() -> None:
            left.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        try:
            await while_connected(http.Request({"type": "http"}, receive), work())
        except RequestError as gone:
            return gone.code, ended.is_set()
        return "answered", ended.is_set()

    assert asyncio.run(ask()) == ("gone", True)


def test_a_request_that_the_server_cancels_counts_as_gone() -> None:
    metrics = Metrics()

    async def endless(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def drop(_message: Message) -> None: ...

    async def cancel() -> None:
        scope: Scope = {"type": "http", "headers": []}
        running = asyncio.create_task(Observed(endless, metrics)(scope, never, drop))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    asyncio.run(cancel())
    labels = {"route": "other", "status": "499", "problem": "gone"}
    assert metrics.registry.get_sample_value("affect_requests_total", labels) == 1
