"""What a drill needs of the world: recordings with labels, and callers who never stop asking."""

from __future__ import annotations

import csv
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from components import media, params
from components.datasets import synthetic
from serving.client import Client, ServingError

# Three emotions of the generated corpus, so that few recordings are enough to learn them.
LABELS: Final = ("happy", "sad", "angry")
_NUM_CALLERS: Final = 3
# Between two requests of a caller: three callers leave most of two processors to the training.
_PAUSE_S: Final = 0.5
_SAMPLE_RATE_HZ: Final = 16_000
_FRAME_RATE_HZ: Final = 12.5
_NOISE_DB: Final = -10.0


@dataclass(frozen=True)
class Spoken:
    """One recording of the drill."""

    path: Path
    speaker: str
    words: str
    emotion: str


def record(folder: Path, *, num_speakers: int, clips_per_speaker: int, seed: int, is_noisy: bool) -> list[Spoken]:
    """Recordings of drawn speakers; noisy ones are as from a call centre, with other voices in the room."""
    folder.mkdir(parents=True, exist_ok=True)
    # Twice as many are planned as are wanted: the corpus has twice as many emotions.
    size = params.Synthetic(
        num_speakers=num_speakers, num_labelled=2 * num_speakers * clips_per_speaker, num_unlabelled=0, seed=seed
    )
    generator, found = np.random.default_rng(seed), []
    for plan in synthetic.plan(size):
        if plan.emotion not in LABELS:
            continue
        path = folder / str(synthetic.render(plan, folder).video_uri)
        if is_noisy:
            _make_noisy(path, generator)
        found.append(Spoken(path, f"{seed}-{plan.speaker_id}", plan.transcript, plan.emotion))
    return found


def write_table(path: Path, recordings: Sequence[Spoken], *, is_spoiled: bool = False) -> None:
    """The table of the recordings and their labels; in a spoiled one the column of labels is in another order."""
    # An order without any pattern: a model would learn a label that is always the wrong one.
    order = np.random.default_rng(0).permutation(len(recordings)) if is_spoiled else np.arange(len(recordings))
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "speaker_id", "video_uri", "transcript", "labels"])
        for each, source in zip(recordings, order, strict=True):
            name = f"{each.path.parent.name}-{each.path.stem}"
            writer.writerow([name, each.speaker, each.path, each.words, recordings[source].emotion])
    partial.replace(path)


@dataclass
class Traffic:
    """Callers that ask without end while the block runs; what they ask with can be changed meanwhile.

    Attributes:
        failures: what went wrong, one entry a request that was not answered.
    """

    url: str
    recordings: Sequence[Spoken]
    num_answers: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(_NUM_CALLERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        # Each request is sent once: one that would have to be repeated counts as failed.
        with Client(self.url, patience_s=0) as client:
            for turn in itertools.count(number, _NUM_CALLERS):
                if self._ended.wait(_PAUSE_S):
                    return
                asked = self.recordings[turn % len(self.recordings)]
                started_s = time.monotonic()
                try:
                    client.predict(asked.path, text=asked.words)
                except ServingError as error:
                    self.failures.append(str(error))
                else:
                    self.num_answers += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)


def _make_noisy(path: Path, generator: np.random.Generator) -> None:
    recording = media.decode(path, sample_rate_hz=_SAMPLE_RATE_HZ, frame_rate_hz=_FRAME_RATE_HZ)
    assert recording.waveform_T is not None
    assert recording.frames_THW is not None
    level = float(np.sqrt(np.square(recording.waveform_T).mean())) * 10 ** (_NOISE_DB / 20)
    noise_T = level * generator.standard_normal(len(recording.waveform_T))
    media.write_mp4(
        path,
        np.repeat(recording.frames_THW[..., None], 3, axis=-1),
        frame_rate_hz=_FRAME_RATE_HZ,
        waveform_T=(recording.waveform_T + noise_T).astype(np.float32),
        sample_rate_hz=_SAMPLE_RATE_HZ,
    )
