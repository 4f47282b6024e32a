"""Decoding in processes that may die without harm: a few warm workers, each limited in time and memory.

What a stranger uploads goes through hundreds of thousands of lines of C. It does so in `serving.decoding_worker`: a
recording that crashes it, or takes too long or too much, costs its own request a problem, and the worker is replaced.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from components import params
from components.features import clip_features
from components.features.audio import audio_width
from components.features.clip_features import Frames
from components.features.video import video_width
from components.media import Limits, MediaError, Recording
from serving import confinement
from serving.decoding_messages import READY, Job, Reply, receive, receive_header, send, set_deadline, to_array

_Value = TypeVar("_Value", bound=np.generic)

_MODULE: Final = "serving.decoding_worker"
# On a machine under load Python itself takes its time.
_START_S: Final = 120.0
_END_S: Final = 5.0
# With the model's threads they keep two processors busy; a third would only take turns with them.
NUM_DECODERS: Final = 2


class DecoderError(RuntimeError):
    """A decoding process does not start: the installation is at fault, not a recording."""


@dataclass(frozen=True)
class Costs:
    """What decoding one request may cost.

    Attributes:
        cpu_s: processor time; the kernel ends a worker that takes more. Twenty seconds of 4K take some fifteen.
        wall_s: time until the answer, from when a worker has the request.
        memory_bytes: beyond what a worker takes when it has nothing to do.
    """

    cpu_s: int = 20
    wall_s: float = 100.0
    memory_bytes: int = 1024 * 1024 * 1024


class Decoders:
    """A pool of decoding processes. Safe to use from several threads; close it, or use it in a `with` block.

    Args:
        num_workers: recordings that are decoded at the same time, each in one thread of one process.
        costs: what one request may cost.
    """

    def __init__(self, *, num_workers: int = NUM_DECODERS, costs: Costs | None = None) -> None:
        self.num_workers = num_workers
        self._costs = costs or Costs()
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()
        self._is_open = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers, for who watches them."""
        with self._lock:
            return [worker.process.pid for worker in self._workers]

    def start(self) -> None:
        """Begin to start the workers; who asks before they are warm waits for them."""
        with self._lock:
            if self._is_open:
                return
            self._is_open = True
            for _ in range(self.num_workers):
                self._add_worker()

    def close(self) -> None:
        """End the workers, in the middle of a recording too."""
        with self._lock:
            self._is_open = False
            for worker in self._workers:
                worker.end()
            self._workers.clear()
            self._idle = queue.LifoQueue()

    def decode(
        self, *, audio: Path | bytes | None, video: Path | bytes | None, config: params.Features, limits: Limits | None
    ) -> Recording | Frames:
        """Decode a clip's files, as far as its frames unless a neural network has to see or hear it; blocks meanwhile.

        Raises:
            MediaError: a file is broken, passes a limit, costs too much (`too-slow-to-decode`,
                `too-large-to-decode`) or crashes its decoder (`undecodable`).
            DecoderError: the workers do not start, or are closed.
        """
        if not isinstance(audio, bytes | None) or not isinstance(video, bytes | None):
            raise ValueError("audio and video must be bytes: a worker is sent what it decodes, so read the file first")
        if audio is None and video is None:
            return clip_features.record(audio=None, video=None, config=config, limits=limits)
        if not self._is_open:
            raise DecoderError("the decoders are closed: start them before a recording comes")
        idle = self._idle
        worker = idle.get()
        try:
            worker = self._alive(worker)
            return worker.ask(audio, video, config, limits or Limits(), self._costs)
        except MediaError as error:
            if error.code in _FATAL:
                worker = self._replaced(worker)
            raise
        except (DecoderError, OSError):
            worker = self._replaced(worker)
            raise
        finally:
            idle.put(worker)

    def _add_worker(self) -> None:
        worker = _Worker(self._costs)
        self._workers.add(worker)
        self._idle.put(worker)

    def _alive(self, worker: _Worker) -> _Worker:
        """The worker, or another when it died while it had nothing to do."""
        return worker if worker.process.poll() is None else self._replaced(worker)

    def _replaced(self, worker: _Worker) -> _Worker:
        with self._lock:
            worker.end()
            if worker not in self._workers:
                return worker
            self._workers.remove(worker)
            fresh = _Worker(self._costs)
            self._workers.add(fresh)
            return fresh


# After these a worker is gone, or in an unknown state.
_FATAL: Final = ("too-slow-to-decode", "undecodable")


class _Worker:
    """One process and the connection to it; one thread at a time uses it."""

    def __init__(self, costs: Costs) -> None:
        self.process, self.connection = confinement.start(_MODULE, memory_bytes=costs.memory_bytes, cpu_s=costs.cpu_s)
        self._is_warm = False

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def ask(
        self, audio: bytes | None, video: bytes | None, config: params.Features, limits: Limits, costs: Costs
    ) -> Frames | Recording:
        """Let the process decode.

        Raises:
            MediaError: as `Decoders.decode`.
            DecoderError: it does not start.
        """
        self._wait_until_warm()
        deadline = time.monotonic() + costs.wall_s
        same = audio is not None and (audio is video or audio == video)
        own_audio = None if same else audio
        job = Job(
            features=config.model_dump_json(),
            num_audio_bytes=None if own_audio is None else len(own_audio),
            num_video_bytes=None if video is None else len(video),
            sound_from_video=same,
            **asdict(limits),
        )
        try:
            set_deadline(self.connection, deadline)
            send(self.connection, job, *(content for content in (own_audio, video) if content is not None))
            reply = Reply.model_validate_json(receive_header(self.connection, deadline))
            arrays = self._receive_arrays(reply, costs, deadline)
        except TimeoutError as error:
            raise _too_slow() from error
        except (EOFError, ConnectionError) as error:
            raise self._death() from error
        except (ValidationError, ValueError) as error:
            raise _undecodable("answers what it must not") from error
        if reply.error:
            raise MediaError(reply.error, reply.message)
        try:
            return (
                _recording_of(arrays, reply)
                if clip_features.needs_network(config)
                else _frames_of(arrays, reply, config)
            )
        except (KeyError, ValueError) as error:
            raise _undecodable("answers what it must not") from error

    def _wait_until_warm(self) -> None:
        if self._is_warm:
            return
        try:
            self._is_warm = bytes(receive(self.connection, len(READY), time.monotonic() + _START_S)) == READY
        except (EOFError, ConnectionError, TimeoutError) as error:
            raise DecoderError(f"{_MODULE} does not start: its reason is on standard error") from error

    def _receive_arrays(self, reply: Reply, costs: Costs, deadline: float) -> dict[str, NDArray[np.generic]]:
        if sum(array.num_bytes for array in reply.arrays.values()) > costs.memory_bytes:
            raise ValueError("more bytes are announced than a decoder may hold")
        return {
            name: to_array(array, receive(self.connection, array.num_bytes, deadline))
            for name, array in reply.arrays.items()
        }

    def _death(self) -> MediaError:
        """What a caller is told when the process died over his recording."""
        try:
            status = self.process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            return _undecodable("does not answer")
        if status == -signal.SIGXCPU:
            return _too_slow()
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return _undecodable(f"died of it ({name})")


def _too_slow() -> MediaError:
    return MediaError("too-slow-to-decode", "decoding the recording takes too long: cut or shrink it")


def _undecodable(reason: str) -> MediaError:
    return MediaError(
        "undecodable", f"the process that decoded the recording {reason}: make the file again from its source"
    )


def _frames_of(arrays: dict[str, NDArray[np.generic]], reply: Reply, config: params.Features) -> Frames:
    audio_TF = _checked(arrays["audio_TF"], np.float16, (-1, audio_width(config.audio)))
    video_TF = _checked(arrays["video_TF"], np.float16, (-1, video_width(config.video)))
    return Frames(audio_TF, video_TF, tuple(reply.warnings))


def _recording_of(arrays: dict[str, NDArray[np.generic]], reply: Reply) -> Recording:
    waveform, frames = arrays.get("waveform_T"), arrays.get("frames_THW")
    frame_times_s = _checked(arrays["frame_times_s"], np.float64, (-1,))
    frames_THW = None if frames is None else _checked(frames, np.uint8, (len(frame_times_s), -1, -1))
    return Recording(
        waveform_T=None if waveform is None else _checked(waveform, np.float32, (-1,)),
        frames_THW=frames_THW,
        frame_times_s=frame_times_s,
        duration_s=reply.duration_s,
    )


def _checked(values: NDArray[np.generic], dtype: type[_Value], shape: tuple[int, ...]) -> NDArray[_Value]:
    """The array if it is of that type and of that shape (-1: any size), and all of it are numbers.

    Raises:
        ValueError: it is not.
    """
    fits = len(shape) == values.ndim and all(want in (-1, size) for want, size in zip(shape, values.shape, strict=True))
    if values.dtype != np.dtype(dtype) or not fits:
        raise ValueError(f"an array of {values.dtype} {values.shape} instead of {np.dtype(dtype)} {shape}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("an array with values that are no numbers")
    return values.astype(dtype, copy=False)
