"""Dynamic batches in front of a model: what waits is judged together, clips of like lengths with one runtime.

Nothing waits for a batch to fill: whenever the model is free, it takes the oldest clip and those that go well with it.
So a lone request is judged at once, and batches grow by themselves as load does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
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
    """The queue of one model thread. For one event loop; whoever awaits an answer may be cancelled at any time.

    Args:
        metrics: where waiting, model time and batch sizes are counted.
        max_clips: of one batch.
    """

    def __init__(self, metrics: Metrics, *, max_clips: int = MAX_CLIPS) -> None:
        self._metrics = metrics
        self._max_clips = max_clips
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        # A thread of its own: PyTorch keeps its helper threads by the thread that calls it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def predict(self, clip: Prepared, runtime: Runtime) -> Prediction:
        """Judge one clip by one runtime, together with what else waits for it.

        Raises:
            Exception: whatever the model raises, for each clip of its batch.
        """
        loop = asyncio.get_running_loop()
        entry = _Waiting(clip, runtime, loop.create_future(), time.perf_counter())
        self._waiting.append(entry)
        self._metrics.queue.set(len(self._waiting))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
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
            batch = self._take()
            start_s = time.perf_counter()
            loop = asyncio.get_running_loop()
            judged = loop.run_in_executor(
                self._thread, batch[0].runtime.predict_prepared, [entry.clip for entry in batch]
            )
            await asyncio.wait([judged])
            self._observe(batch, start_s)
            error = judged.exception()
            for number, entry in enumerate(batch):
                if entry.answer.done():
                    continue  # its caller went away meanwhile
                if error is not None:
                    entry.answer.set_exception(error)
                else:
                    entry.answer.set_result(judged.result()[number])

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
