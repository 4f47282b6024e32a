"""Whether data keep up with training: what features cost to make, to keep and to read, and what is wasted on padding.

Sound and picture are the six clips of GRID in the folder of shared data; features of many clips are random values.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import av
import cv2
import librosa
import numpy as np
import torch
from numpy.typing import NDArray

from components import machine, media, training
from components.batches import Batch, in_advance, padding_waste, plan_epoch
from components.features import ClipFeatures, clip_features
from components.features.audio import log_mel
from components.objectives import Classification
from components.params import AudioFeatures, Features
from components.shards import Example, ShardSet, shard_name, write_shard
from components.training import FitSettings, fit
from tests.benchmarks.data_process import run
from tests.benchmarks.run import Result, in_turn, runs_of
from tests.benchmarks.train_sizes import Sizes, clips_of, lengths_s, model_of
from tests.conftest import SHARED_DATA

GRID: Final = SHARED_DATA / "grid_clips"
_NUM_ROUNDS: Final = 5
_FEW, _MANY = 1_000, 1_000_000
# Of the recipe `quick`.
_SIZES: Final = Sizes(
    "trimodal",
    {
        "audio_features": 160,
        "video_features": 216,
        "vocabulary_size": 300,
        "width": 96,
        "num_heads": 4,
        "num_layers": 2,
    },
    (250, 125, 40),
    batch_size=32,
    num_batches=16,
)
Tell = Callable[[str], None]


def measure(tell: Tell) -> list[Result]:
    """All figures; ratios are medians of rounds in turn.

    Raises:
        ValueError: the recordings are not there.
    """
    clips = sorted(GRID.glob("*.mpg"))
    if not clips:
        raise ValueError(f"{GRID} has no clips: put recordings of the GRID corpus there")
    machine.prepare(model_of(_SIZES))
    torch.set_num_threads(1)
    return [
        *_padding(),
        *_waiting(tell),
        *_reading(tell),
        *_memory(tell),
        *_hearing(tell),
        *_seeing(clips, tell),
        *_extracting(clips, tell),
    ]


def _padding() -> list[Result]:
    lengths_N = np.ceil(lengths_s(np.random.default_rng(0), 20_000) * 25).astype(np.int64)
    wastes = [padding_waste(lengths_N, plan_epoch(lengths_N, batch_size=32, seed=0, epoch=epoch)) for epoch in range(5)]
    how = "20,000 log-normal lengths of mean 7.3 s, batches of 32, five epochs"
    return [Result("data.padding_waste", statistics.median(wastes), "", "lower", 0.08, runs_of(wastes), how)]


def _waiting(tell: Tell) -> list[Result]:
    """The share of an epoch's time in which the loop has no batch, with features in shards."""
    shares = []
    with tempfile.TemporaryDirectory(prefix="affect-") as folder:
        source = _written(Path(folder))
        model = model_of(_SIZES)
        settings = FitSettings(
            num_epochs=1, batch_size=_SIZES.batch_size, learning_rate=1e-4, seed=0, checkpoint_every_steps=10**9
        )
        for _ in range(_NUM_ROUNDS):
            waited_s = [0.0]

            def timed(*arguments: Any, waited_s: list[float] = waited_s, **options: Any) -> Iterator[Batch]:
                batches = in_advance(*arguments, **options)
                while True:
                    begin_s = time.perf_counter()
                    batch = next(batches, None)
                    waited_s[0] += time.perf_counter() - begin_s
                    if batch is None:
                        return
                    yield batch

            begin_s = time.perf_counter()
            with mock.patch.object(training, "in_advance", timed):
                fit(model, source, Classification(), settings)
            shares.append(waited_s[0] / (time.perf_counter() - begin_s))
    tell(f"waiting: {statistics.median(shares):.2%}")
    how = f"recipe quick's model, one thread, {len(source)} clips of features in shards, an epoch, {_NUM_ROUNDS} times"
    return [Result("data.wait_share", statistics.median(shares), "", "lower", 0.02, runs_of(shares), how)]


def _written(folder: Path) -> ShardSet:
    drawn = clips_of(_SIZES, "real")
    paths = []
    for number in range(_SIZES.num_batches):
        rows = range(number * _SIZES.batch_size, (number + 1) * _SIZES.batch_size)
        examples = [
            Example(f"clip{row}", "anna", tuple(drawn.labels_NC[row].tolist()), drawn.clips[row]) for row in rows
        ]
        paths.append(folder / shard_name(number))
        write_shard(paths[-1], examples, widths=(160, 216))
    return ShardSet(paths)


class _Files(torch.utils.data.Dataset[ClipFeatures]):
    """One file a clip, as most code of the field keeps features."""

    def __init__(self, source: ShardSet, folder: Path) -> None:
        self._paths = [folder / f"{number}.npz" for number in range(len(source))]
        for number, path in enumerate(self._paths):
            clip = source.features(number)
            np.savez(path, audio=clip.audio_TF, video=clip.video_TF, words=clip.word_ids_T)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> ClipFeatures:
        with np.load(self._paths[index]) as arrays:
            return ClipFeatures(arrays["audio"], arrays["video"], arrays["words"])


def _padded(clips: list[ClipFeatures]) -> list[torch.Tensor]:
    def pad(sequences: list[NDArray[Any]], dtype: torch.dtype) -> torch.Tensor:
        tensors = [torch.from_numpy(each).to(dtype) for each in sequences]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)

    return [
        pad([clip.audio_TF for clip in clips], torch.float32),
        pad([clip.video_TF for clip in clips], torch.float32),
        pad([clip.word_ids_T for clip in clips], torch.long),
    ]


def _reading(tell: Tell) -> list[Result]:
    """Clips a second into padded batches, without a model: shards, and a DataLoader over one file a clip."""
    with tempfile.TemporaryDirectory(prefix="affect-") as folder:
        source = _written(Path(folder))
        files = torch.utils.data.DataLoader(
            _Files(source, Path(folder)), batch_size=_SIZES.batch_size, shuffle=True, collate_fn=_padded
        )
        lengths_N = source.num_steps_N3.max(axis=1)
        plan = plan_epoch(lengths_N, batch_size=_SIZES.batch_size, seed=0, epoch=0)
        times_s: dict[str, list[float]] = {"shards": [], "files": []}
        for _ in range(_NUM_ROUNDS):
            for name, batches in (("shards", in_advance(source, plan)), ("files", iter(files))):
                begin_s = time.perf_counter()
                for _batch in batches:
                    pass
                times_s[name].append(time.perf_counter() - begin_s)
    ratios = [other / own for own, other in zip(times_s["shards"], times_s["files"], strict=True)]
    tell(f"reading: {statistics.median(ratios):.1f} times a DataLoader over files")
    how = f"{len(source)} clips of real lengths from the page cache into padded batches of {_SIZES.batch_size}"
    rates = [len(source) / value for value in times_s["shards"]]
    return [
        Result("data.read.vs_dataloader", statistics.median(ratios), "x", "higher", None, runs_of(ratios), how),
        Result("data.read_hz", statistics.median(rates), "clips/s", "higher", None, runs_of(rates), how),
    ]


def _memory(tell: Tell) -> list[Result]:
    found: dict[int, dict[str, float]] = {}
    for num_clips in (_FEW, _MANY):
        with tempfile.TemporaryDirectory(prefix="affect-") as folder:
            write_many(Path(folder), num_clips)
            found[num_clips] = run("read", folder)
        tell(f"memory: {num_clips:,} clips, {found[num_clips]['own_mb']:.0f} MB, {found[num_clips]['rate_hz']:.0f}/s")
    few, many = found[_FEW], found[_MANY]
    how = (
        f"a process that opens {_MANY:,} clips of small features, plans an epoch and reads 1,000 batches of 32, over "
        f"one with {_FEW:,}; memory of its own, without the pages of mapped files, which the system takes back at will"
    )
    ratio = many["own_mb"] / few["own_mb"]
    results = [Result("data.memory_1m_over_1k", ratio, "x", "lower", 1.1, runs_of([ratio]), how)]
    for name, unit in (("own_mb", "MB"), ("start_s", "s")):
        results.append(Result(f"data.1m.{name}", many[name], unit, "lower", None, runs_of([many[name]]), how))
    rate_hz = many["rate_hz"]
    return [*results, Result("data.1m.rate_hz", rate_hz, "clips/s", "higher", None, runs_of([rate_hz]), how)]


def write_many(folder: Path, num_clips: int, clips_a_shard: int = 5_000) -> None:
    """Shards of that many clips of a few small steps."""
    random = np.random.default_rng(0)
    clip = ClipFeatures(
        random.normal(size=(4, 8)).astype(np.float16),
        random.normal(size=(2, 8)).astype(np.float16),
        np.arange(3, dtype=np.int32),
    )
    for number, first in enumerate(range(0, num_clips, clips_a_shard)):
        names = range(first, min(first + clips_a_shard, num_clips))
        examples = [Example(f"clip-{name:07d}", f"speaker-{name % 6112:04d}", (1.0, 0.0), clip) for name in names]
        write_shard(folder / shard_name(number), examples, widths=(8, 8))


def _hearing(tell: Tell) -> list[Result]:
    config = AudioFeatures(num_mels=80)
    rate_hz = config.sample_rate_hz
    sound_S = np.random.default_rng(0).normal(scale=0.1, size=10 * rate_hz).astype(np.float32)
    hop, window = round(config.hop_s * rate_hz), round(config.window_s * rate_hz)

    def theirs() -> None:
        power = librosa.feature.melspectrogram(y=sound_S, sr=rate_hz, n_fft=window, hop_length=hop, n_mels=80)
        np.log(np.maximum(power, 1e-10))

    times_s = in_turn({"ours": lambda: log_mel(sound_S, config), "librosa": theirs}, _NUM_ROUNDS)
    ratios = [other / own for own, other in zip(times_s["ours"], times_s["librosa"], strict=True)]
    rates = [10 / value for value in times_s["ours"]]
    tell(f"log-mel: {statistics.median(rates):.0f} times real time, {statistics.median(ratios):.2f} times librosa")
    how = f"10 s of noise at {rate_hz} Hz, 80 bands, windows of {window} every {hop} samples, one thread"
    return [
        Result("data.logmel.vs_librosa", statistics.median(ratios), "x", "higher", 1.9, runs_of(ratios), how),
        Result("data.logmel_real_time", statistics.median(rates), "x", "higher", 10_000.0, runs_of(rates), how),
    ]


def _seeing(clips: list[Path], tell: Tell) -> list[Result]:
    """Everything that is taken from a talking face's file, over decoding its picture alone, at two sizes."""
    results = []
    for name, width, height in (("video", 640, 360), ("video_720p", 1280, 720)):
        with tempfile.TemporaryDirectory(prefix="affect-") as folder:
            films = [_as_h264(path, Path(folder) / f"{path.stem}.mp4", (width, height)) for path in clips]
            times_s = in_turn(
                {"ours": partial(_each, describe, films), "decode": partial(_each, _decode, films)}, _NUM_ROUNDS
            )
        ratios = [other / own for own, other in zip(times_s["ours"], times_s["decode"], strict=True)]
        tell(f"{name}: {statistics.median(ratios):.2f} of the speed of decoding")
        how = (
            f"{len(clips)} clips of GRID (3 s) as H.264 of {width} x {height}, 25 frames/s, by x264's own defaults: "
            "sound, faces and features, one thread"
        )
        results.append(
            Result(f"data.{name}.vs_decode", statistics.median(ratios), "", "higher", 0.5, runs_of(ratios), how)
        )
    return results


def _each(call: Callable[[Path], None], paths: list[Path]) -> None:
    for path in paths:
        call(path)


def _decode(path: Path) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for _frame in container.decode(video=0):
            pass


def describe(path: Path) -> None:
    """Take sound, faces and features of both from a file."""
    config = Features()
    recording = clip_features.record(audio=path, video=path, config=config, limits=None)
    assert isinstance(recording, media.Recording)
    clip_features.compute_frames(recording, config)


def _as_h264(path: Path, target: Path, size: tuple[int, int]) -> Path:
    """The clip as films are today: GRID's own MPEG-1 of 360 x 288 is decoded in next to no time."""
    with av.open(str(path)) as container:
        frames = [
            cv2.resize(frame.to_ndarray(format="rgb24"), size, interpolation=cv2.INTER_CUBIC)
            for frame in container.decode(video=0)
        ]
    sound = media.decode(path, sample_rate_hz=16_000, frame_rate_hz=1.0, want=("audio",)).waveform_T
    media.write_mp4(target, np.asarray(frames, np.uint8), frame_rate_hz=25.0, waveform_T=sound, encoder={})
    return target


def _extracting(clips: list[Path], tell: Tell) -> list[Result]:
    ratios = []
    for _ in range(3):
        rates = {}
        for num_workers in (1, 2):
            with tempfile.TemporaryDirectory(prefix="affect-") as folder:
                rates[num_workers] = run("extract", folder, str(num_workers), *map(str, clips))["rate_hz"]
        ratios.append(rates[2] / rates[1])
        tell(f"extraction: {rates[1]:.2f} shards/s with one worker, {rates[2]:.2f} with two")
    how = "shards of 12 clips of GRID a second on a Ray of two workers over one of one, start-up left out, three rounds"
    return [Result("data.extract2.vs_1", statistics.median(ratios), "x", "higher", 1.8, runs_of(ratios), how)]
