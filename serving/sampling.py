"""What the endpoint keeps of a share of its requests, so that drift can be told: numbers, off the request's path.

A request hands over what was prepared and answered, and goes on; a thread makes numbers of it and writes them to the
store, some hundred at a time. What the thread cannot keep up with is dropped, and so is what a store that fails would
have taken: memory is bounded, no request waits, and the metrics say how many were lost.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from components import drift_samples
from components.drift_samples import Sample
from components.stage import one_line
from components.storage import Storage
from serving.observation import Metrics
from serving.prediction import Prediction, Prepared, ValuePrediction

if TYPE_CHECKING:
    # PyTorch takes seconds to import, and before the first promotion there is nothing for it to do.
    from serving.runtime import Runtime

logger = logging.getLogger("affect.sampling")

# Clips whose features wait for the thread, some hundred kilobytes each.
_MAX_WAITING: Final = 64
# Samples that wait to be written, two kilobytes each; a store that stays away for long costs the oldest of them.
_MAX_KEPT: Final = 4096
_POLL_S: Final = 0.5


@dataclass(frozen=True)
class Sampling:
    """Whether and where samples are kept.

    Attributes:
        share: asked for each request, for it may change while the endpoint runs; 0 keeps none.
        max_part: samples that are written at once.
        max_age_s: after which fewer are written, too.
    """

    storage: Storage
    share: Callable[[], float]
    max_part: int = 512
    max_age_s: float = 60.0


@dataclass(frozen=True, eq=False)
class _Judged:
    at: datetime
    release: int
    runtime: Runtime
    prepared: Prepared
    prediction: Prediction


class Sampler:
    """Keeps samples of what one app answers. `offer` is for its event loop; `close` writes what is left."""

    def __init__(self, sampling: Sampling, metrics: Metrics) -> None:
        self._sampling = sampling
        self._metrics = metrics
        self._waiting: queue.Queue[_Judged | None] = queue.Queue(_MAX_WAITING)
        self._kept: list[Sample] = []
        self._replica = uuid.uuid4().hex[:8]
        self._due_s = 0.0
        self._random = random.Random()
        self._thread: threading.Thread | None = None

    def offer(self, prepared: Prepared, prediction: Prediction, runtime: Runtime, *, release: int) -> None:
        """Keep a request, or not, as the share says. Takes microseconds, and never fails."""
        if self._random.random() >= self._sampling.share():
            return
        if self._thread is None:
            # An endpoint that keeps nothing needs no thread.
            self._thread = threading.Thread(target=self._work, name="sampling", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(_Judged(datetime.now(UTC), release, runtime, prepared, prediction))
        except queue.Full:
            self._metrics.samples.labels("dropped").inc()

    def close(self) -> None:
        """Write what is left, and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        is_open = True
        while is_open:
            try:
                judged = self._waiting.get(timeout=_POLL_S)
                is_open = judged is not None
                if judged is not None:
                    self._keep(_sample(judged))
            except queue.Empty:
                pass
            if self._kept and (not is_open or time.monotonic() >= self._due_s):
                self._write()

    def _keep(self, sample: Sample) -> None:
        now_s = time.monotonic()
        if not self._kept:
            self._due_s = now_s + self._sampling.max_age_s
        self._kept.append(sample)
        if len(self._kept) == self._sampling.max_part:
            self._due_s = now_s
        if len(self._kept) > _MAX_KEPT:
            del self._kept[0]
            self._metrics.samples.labels("dropped").inc()

    def _write(self) -> None:
        kept, self._kept = self._kept, []
        try:
            drift_samples.write(self._sampling.storage, kept, replica=self._replica)
        except OSError as error:
            self._put_back(kept, error)
        else:
            self._metrics.samples.labels("written").inc(len(kept))

    def _put_back(self, kept: list[Sample], error: OSError) -> None:
        self._metrics.samples.labels("failed").inc()
        logger.warning("samples are kept back, for the store does not take them: %s", one_line(error))
        self._kept, self._due_s = kept, time.monotonic() + self._sampling.max_age_s


def _sample(judged: _Judged) -> Sample:
    prediction = judged.prediction
    return Sample(
        judged.at,
        judged.release,
        prediction.version,
        judged.runtime.summary_of(judged.prepared),
        prediction.warnings,
        prediction.values if isinstance(prediction, ValuePrediction) else prediction.probabilities,
    )
