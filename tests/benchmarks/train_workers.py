"""Trainings of `affect bench train` in processes of their own: the bare loop, torchrun's, Ray Train's; checkpoints.

`python -m tests.benchmarks.train_workers bare|ddp FOLDER` is one of them; its objective notes the time of each step.
"""

from __future__ import annotations

import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from components import cluster, machine
from components.batches import collate, costs, plan_epoch, share
from components.checkpoints import Checkpoints, Writer
from components.cluster import Job
from components.masking import Moment
from components.objectives import Classification
from components.storage import Storage
from components.training import FitSettings, TrainingState, fit
from tests.benchmarks.run import Result, runs_of
from tests.benchmarks.timed import NUM_WARM_STEPS, OfFirst, Timed
from tests.benchmarks.train_sizes import Sizes, clips_of, model_of
from tests.conftest import REPOSITORY
from tests.ray_endpoint import running_ray

_NUM_ROUNDS: Final = 3
_BATCHES: Final = 40
# Of 20 ms or more a step, as the smallest real trainings have.
_SIZES: Final = Sizes(
    "trimodal",
    {"audio_features": 80, "video_features": 64, "vocabulary_size": 300, "width": 128, "num_heads": 4, "num_layers": 2},
    (100, 100, 20),
    batch_size=16,
    num_batches=_BATCHES,
)
_SETTINGS: Final = FitSettings(
    num_epochs=1, batch_size=_SIZES.batch_size, learning_rate=1e-4, seed=0, checkpoint_every_steps=10**9
)
_TIMES: Final = "times"


def measure_workers(tell: Callable[[str], None]) -> list[Result]:
    """Steps a second under Ray Train with one and two workers, as shares of the bare loop's and of torchrun's."""
    rates: dict[str, list[float]] = {name: [] for name in ("bare", "ray1", "torchrun2", "ray2")}
    first_s: list[float] = []
    with running_ray() as here, tempfile.TemporaryDirectory(prefix="affect-") as folder:
        os.environ.update(here.environment())
        for number in range(_NUM_ROUNDS):
            for name in rates:
                place = Path(folder) / f"{name}-{number}"
                place.mkdir()
                begin_s = time.monotonic()
                rates[name].append(_run(name, place))
                if name == "ray2":
                    begun_s = struct.unpack_from("d", (place / f"{_TIMES}-0").read_bytes())[0]
                    first_s.append(begun_s - begin_s)
            tell(f"workers {number}: " + ", ".join(f"{name} {each[-1]:.1f}/s" for name, each in rates.items()))
    how = (
        f"trimodal, width 128, 2 layers, batches of {_SIZES.batch_size}, 100 steps; median step of {_BATCHES} "
        f"({NUM_WARM_STEPS} left out), {_NUM_ROUNDS} rounds in turn, {os.cpu_count()} threads in all, gloo"
    )
    results = []
    for ours, other, name in (("ray1", "bare", "train.ray1.vs_bare"), ("ray2", "torchrun2", "train.ray2.vs_torchrun")):
        ratios = [one / another for one, another in zip(rates[ours], rates[other], strict=True)]
        results.append(Result(name, statistics.median(ratios), "x", "higher", 0.97, runs_of(ratios), how))
    for name, values in rates.items():
        results.append(
            Result(f"train.{name}_hz", statistics.median(values), "steps/s", "higher", None, runs_of(values), how)
        )
    how = "from the call to the first step of two workers, Ray running"
    return [
        *results,
        Result("train.ray2.first_step_s", statistics.median(first_s), "s", "lower", 9.0, runs_of(first_s), how),
    ]


def _run(name: str, place: Path) -> float:
    if name.startswith("ray"):
        timed = Timed(Classification(), place / f"{_TIMES}-0")
        num_workers = int(name.removeprefix("ray"))
        objective = timed if num_workers == 1 else OfFirst(timed)
        # One name a run: a finished one would be handed back.
        run = f"bench-{place.name}-{os.getpid()}"
        model = model_of(_SIZES)
        cluster.train(Job(run, "pretrain", model, clips_of(_SIZES, "full"), None, objective, _SETTINGS, num_workers))
        cluster.forget(run)
        return timed.rate_hz()
    command = [sys.executable, "-m", "tests.benchmarks.train_workers"]
    if name == "torchrun2":
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *command[1:]]
    kind = "ddp" if name == "torchrun2" else "bare"
    subprocess.run([*command, kind, str(place)], cwd=REPOSITORY, check=True, capture_output=True)
    return Timed(Classification(), place / f"{_TIMES}-0").rate_hz()


@dataclass(frozen=True)
class _Costed(Checkpoints):
    """States whose writing is measured.

    Attributes:
        cpu_s: processor seconds of each write.
    """

    cpu_s: list[float] = field(default_factory=list)

    def write(self, state: TrainingState) -> None:
        begin_s = time.thread_time()
        super().write(state)
        self.cpu_s.append(time.thread_time() - begin_s)


def measure_checkpoints(tell: Callable[[str], None]) -> list[Result]:
    """The share of a training's time that checkpoints cost at the default interval."""
    default = FitSettings.checkpoint_every_steps
    sizes = Sizes("audiovisual", {}, (100, 100, 0), batch_size=16, num_batches=2 * default)
    clips, shares = clips_of(sizes, "full"), []
    settings = replace(_SETTINGS, batch_size=sizes.batch_size, checkpoint_every_steps=default)
    for number in range(_NUM_ROUNDS):
        with tempfile.TemporaryDirectory(prefix="affect-") as folder:
            states = _Costed(Storage(folder), "run")
            writer, stalls_s = Writer(states), [0.0]

            def save(state: TrainingState, writer: Writer = writer, stalls_s: list[float] = stalls_s) -> None:
                begin_s = time.perf_counter()
                assert writer.failure() is None
                writer.start(state)
                stalls_s[0] += time.perf_counter() - begin_s

            begin_s = time.perf_counter()
            fit(model_of(sizes), clips, Classification(), settings, on_checkpoint=save)
            whole_s = time.perf_counter() - begin_s
            assert writer.failure() is None
            shares.append((stalls_s[0] + sum(states.cpu_s) / (os.cpu_count() or 1)) / whole_s)
        tell(f"checkpoints {number}: {shares[-1]:.2%} of {whole_s:.0f} s")
    how = (
        f"tran2022_base, batches of {sizes.batch_size}, every {default} steps and at the end: the time that the loop "
        "waits, and the processor time of writing over the processors"
    )
    return [Result("train.checkpoint_share", statistics.median(shares), "", "lower", 0.01, runs_of(shares), how)]


def _bare(place: Path) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    timed = Timed(Classification(), place / f"{_TIMES}-0")
    fit(model_of(_SIZES), clips_of(_SIZES, "full"), timed, _SETTINGS)


def _ddp(place: Path) -> None:
    """The same loop by torch's own wrapper."""
    torch.distributed.init_process_group("gloo")
    rank, num_workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_workers))
    objective, clips = Timed(Classification(), place / f"{_TIMES}-{rank}"), clips_of(_SIZES, "full")
    model = DistributedDataParallel(model_of(_SIZES), find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_SETTINGS.learning_rate, fused=True)
    model.train()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for batch_N in plan_epoch(costs(clips), batch_size=_SETTINGS.batch_size, seed=0, epoch=0):
        batch = collate(clips, share(batch_N, rank=rank, num_workers=num_workers))
        terms = objective(model, batch, Moment(0, 0))
        optimizer.zero_grad()
        loss = terms.sums_L.sum() / terms.counts_L.sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(model.parameters(), _SETTINGS.clip_norm)
        assert bool(loss.isfinite())
        optimizer.step()
    torch.distributed.destroy_process_group()


def main(kind: str, place: Path) -> None:
    """Train once."""
    machine.prepare(model_of(_SIZES))
    {"bare": _bare, "ddp": _ddp}[kind](place)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
