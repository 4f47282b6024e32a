"""Dynamic batches in front of a model: what waits is judged together, clips of like lengths with one runtime.

A free thread takes the oldest clip and those that go well with it. It does not wait for a batch to fill, unless another
thread is at work, or more clips are on their way than the processors can prepare: then clips judged together leave more
of the processors to the others, and all are answered sooner. So a lone request is judged at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from serving.observation import Metrics
from serving.prediction import Prediction, Prepared

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

# On a processor a batch takes nearly as long as its clips one by one, and whoever comes meanwhile waits for all of it.
MAX_CLIPS: Final = 4
# Padding of a batch as a share of its clips' own steps. As many steps as the second says cost next to nothing.
_MAX_PADDING: Final = 0.25
_FREE_STEPS: Final = 64
# Longest wait for a batch to fill, as long as a few short clips take to prepare; a long one must not hold up others.
_MAX_WAIT_S: Final = 0.05
# Batches that are judged at once, each on one processor.
_NUM_THREADS: Final = 2

Steps = tuple[int, int, int]
"""Steps of a clip's audio, video and text."""


@dataclass(eq=False)
class _Waiting:
    """One clip that waits for the model.

    Attributes:
        since_s: when it came, on the clock of `time.perf_counter`.
    """

    clip: Prepared
    runtime: Runtime
    answer: asyncio.Future[Prediction]
    since_s: float

    @property
    def steps(self) -> Steps:
        features = self.clip.features
        return len(features.audio_TF), len(features.video_TF), len(features.word_ids_T)


class Batches:
    """The queue of the model's threads. For one event loop; whoever awaits an answer may be cancelled at any time.

    Args:
        metrics: where waiting, model time and batch sizes are counted.
        max_clips: of one batch.
        are_many_coming: whether the processors have more clips to prepare than they can at once.
    """

    def __init__(
        self, metrics: Metrics, *, max_clips: int = MAX_CLIPS, are_many_coming: Callable[[], bool] = lambda: False
    ) -> None:
        self._metrics = metrics
        self._max_clips = max_clips
        self._are_many_coming = are_many_coming
        self._waiting: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._num_judging = 0
        self._workers: set[asyncio.Task[None]] = set()
        # Threads of its own: PyTorch keeps its helper threads by the thread that calls it.
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="model")

    async def predict(self, clip: Prepared, runtime: Runtime) -> Prediction:
        """Judge one clip by one runtime, together with what else waits for it.

        Raises:
            Exception: whatever the model raises, for each clip of its batch.
        """
        loop = asyncio.get_running_loop()
        entry = _Waiting(clip, runtime, loop.create_future(), time.perf_counter())
        self._waiting.append(entry)
        self._metrics.queue.set(len(self._waiting))
        self._changed.set()
        # One that has ended is in the set until the loop comes round, and would not see this clip.
        if sum(not worker.done() for worker in self._workers) < _NUM_THREADS:
            worker = loop.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        try:
            return await entry.answer
        finally:
            # A caller that went away while it waited costs the model nothing.
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._metrics.queue.set(len(self._waiting))

    async def _work(self) -> None:
        """Take batches until nothing waits."""
        while self._waiting:
            await self._fill()
            if not self._waiting:
                return  # all others were taken meanwhile, or their callers went away
            batch = self._take()
            start_s = time.perf_counter()
            loop = asyncio.get_running_loop()
            self._num_judging += 1
            judged = loop.run_in_executor(
                self._threads, batch[0].runtime.predict_prepared, [entry.clip for entry in batch]
            )
            await asyncio.wait([judged])
            self._num_judging -= 1
            self._changed.set()
            self._observe(batch, start_s)
            error = judged.exception()
            for number, entry in enumerate(batch):
                if entry.answer.done():
                    continue  # its caller went away meanwhile
                if error is not None:
                    entry.answer.set_exception(error)
                else:
                    entry.answer.set_result(judged.result()[number])

    async def _fill(self) -> None:
        """Wait for a whole batch while another is judged, or while more clips come than can be prepared at once."""
        until_s = self._waiting[0].since_s + _MAX_WAIT_S
        while 0 < len(self._waiting) < self._max_clips and (self._num_judging or self._are_many_coming()):
            self._changed.clear()
            try:
                async with asyncio.timeout(until_s - time.perf_counter()):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """Remove the next batch from the queue: the oldest clip, and those of its runtime that are like it."""
        own = [entry for entry in self._waiting if entry.runtime is self._waiting[0].runtime]
        batch = [own[index] for index in alike([entry.steps for entry in own], max_clips=self._max_clips)]
        self._waiting = [entry for entry in self._waiting if entry not in batch]
        self._metrics.queue.set(len(self._waiting))
        return batch

    def _observe(self, batch: Sequence[_Waiting], start_s: float) -> None:
        end_s = time.perf_counter()
        self._metrics.batch_clips.observe(len(batch))
        for entry in batch:
            self._metrics.seconds.labels("queue").observe(start_s - entry.since_s)
            self._metrics.seconds.labels("model").observe(end_s - start_s)


def alike(steps_N3: Sequence[Steps], *, max_clips: int) -> list[int]:
    """Which clips make a batch with the first: at most `max_clips`, of lengths that need little padding.

    Args:
        steps_N3: steps of each clip, the oldest first.

    Returns:
        Positions, the first always among them, in order of age.
    """
    first = steps_N3[0]
    nearest = sorted(
        range(1, len(steps_N3)),
        key=lambda n: sum(abs(steps - wanted) for steps, wanted in zip(steps_N3[n], first, strict=True)),
    )
    chosen = [0]
    for n in nearest:
        if len(chosen) == max_clips:
            break
        together = [steps_N3[index] for index in (*chosen, n)]
        own = sum(map(sum, together))
        if padding(together) <= max(_MAX_PADDING * own, _FREE_STEPS):
            chosen.append(n)
    return sorted(chosen)


def padding(steps_N3: Sequence[Steps]) -> int:
    """Steps that a batch of these clips computes for nothing."""
    return sum(len(steps_N) * max(steps_N) - sum(steps_N) for steps_N in zip(*steps_N3, strict=True))
