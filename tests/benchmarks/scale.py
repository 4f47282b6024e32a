"""How costs grow, measured here at several sizes, and what that says of VoxCeleb2 on many GPUs.

What cannot be measured without GPUs, a network and an object store is assumed and named so: `_ASSUMED`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from components import machine
from components.batches import collate
from components.checkpoints import pack
from components.masking import Moment
from components.masking_joint import fill_bank
from components.objectives import Objective
from components.objectives_audiovisual import JointMaskedModelling
from components.training import FitSettings, TrainingState, fit
from tests.benchmarks.data import GRID, describe, write_many
from tests.benchmarks.data_process import run
from tests.benchmarks.run import Result, runs_of
from tests.benchmarks.scale_model import Epoch, Machines, Work, epoch_of, grown
from tests.benchmarks.train import needed_flops
from tests.benchmarks.train_sizes import Sizes, clips_of, model_of
from tests.conftest import REPOSITORY

# 1,092,009 clips of 7.8 s on average, 5 steps a second.
_VOXCELEB2: Final = 1_092_009
_MEAN_S: Final = 7.8
_MEAN_STEPS: Final = 39
_GRID_CLIP_S: Final = 3.0
_SIZES: Final = Sizes("audiovisual", {}, (100, 100, 0), batch_size=16, num_batches=1)
_GPUS: Final = (1, 8, 64, 512)
_SYSTEMS: Final[dict[str, dict[str, object]]] = {
    "tran2022_base": {},
    "tran2022_large": {"width": 384, "num_heads": 12, "num_layers": 8},
}
# The authors' clips an update on each GPU, up to so many in all; and more, which nobody has tried.
_AUTHORS_BATCH: Final = 64
_MOST_AN_UPDATE: Final = 4096
_TIMES_LARGER: Final = 8
_ASSUMED: Final = Machines(
    num_gpus=1,
    # 0.4 of an H200's 989 TFLOP/s in bfloat16: what is aimed at, not what was measured.
    flops=0.4 * 989e12,
    gpus_per_node=8,
    cores_per_gpu=12,
    clips_per_core_hz=0.0,
    store_bytes_s=20e9,
    node_bytes_s=3e9,
    link_bytes_s=300e9,
    network_bytes_s=40e9,
    step_s=0.02,
    copy_bytes_s=20e9,
    checkpoint_every=FitSettings.checkpoint_every_steps,
)
Tell = Callable[[str], None]


def measure(tell: Tell) -> list[Result]:
    """Exponents of growth, costs of one clip, and the simulated epochs."""
    machine.prepare(model_of(_SIZES))
    torch.set_num_threads(os.cpu_count() or 1)
    results = [
        *_growth("width", [_step(width=width) for width in (120, 240, 480)], (120, 240, 480), tell),
        *_growth("steps", [_step(steps=steps) for steps in (50, 100, 200, 400)], (50, 100, 200, 400), tell),
        *_growth("batch", [_step(batch_size=size) for size in (8, 16, 32)], (8, 16, 32), tell),
        *_all_reduce(tell),
        *_opening(tell),
    ]
    results += [
        _one(
            "scale.extraction_share",
            share := _extraction_share(),
            "",
            "processor time of features over length, GRID",
        ),
        _one("scale.loader_hz", loader_hz := _loader_hz(), "clips/s", "of 39 steps, one processor, page cache"),
    ]
    machines = replace(_ASSUMED, clips_per_core_hz=loader_hz)
    for system, options in _SYSTEMS.items():
        work, costs = _work(system, options, extraction_s=_MEAN_S * share)
        results += costs
        for times in (1, 100):
            for num_gpus in _GPUS:
                usual_batch = min(_AUTHORS_BATCH * num_gpus, _MOST_AN_UPDATE)
                for batch in (usual_batch, _TIMES_LARGER * usual_batch):
                    asked = replace(grown(work, times), global_batch=batch)
                    name = f"scale.{system}{'' if times == 1 else f'.x{times}'}.gpus_{num_gpus}.batch_{batch}"
                    results.append(_told(name, epoch_of(asked, replace(machines, num_gpus=num_gpus)), tell))
    return results


def _work(system: str, options: dict[str, object], *, extraction_s: float) -> tuple[Work, list[Result]]:
    """An epoch of VoxCeleb2 through a model, and what of it was measured."""
    sizes = _mean_sizes(options)
    model = model_of(sizes)
    state = TrainingState(0, 0, 0, dict(model.state_dict()), {}, [], [])
    work = Work(
        num_clips=_VOXCELEB2,
        flops_per_clip=needed_flops(model, clips_of(sizes, "full"), sizes) / sizes.batch_size,
        bytes_per_clip=2 * _MEAN_STEPS * (512 + 17),
        extraction_s=extraction_s,
        num_weights=sum(each.numel() for each in model.parameters() if each.requires_grad),
        global_batch=0,
    )
    return work, [
        _one(f"scale.{system}.gflop", work.flops_per_clip / 1e9, "GFLOP", "a clip of 39 steps, forward and backward"),
        _one(f"scale.{system}.state_mb", len(pack(state)) / 1e6, "MB", "weights as a state, without moments"),
    ]


def _mean_sizes(options: dict[str, object]) -> Sizes:
    return replace(_SIZES, options=options, most_steps=(_MEAN_STEPS, _MEAN_STEPS, 0))


def _told(name: str, epoch: Epoch, tell: Tell) -> Result:
    how = (
        f"simulated from measured and assumed costs, in s: compute {epoch.compute_s:.1f}, launch {epoch.launch_s:.1f}, "
        f"loader {epoch.loader_s:.2f}, store {epoch.store_s:.1f}, all-reduce {epoch.all_reduce_s:.2f}, checkpoint "
        f"{epoch.checkpoint_s:.2f}; {epoch.gpu_hours:.2f} GPU hours; features {epoch.extraction_s / 3600:.2f} h before"
    )
    tell(f"{name}: {epoch.total_s:.0f} s, limit {epoch.limit}; {how}")
    return _one(f"{name}.epoch_s", epoch.total_s, "s", how)


def _growth(name: str, times_s: Sequence[float], sizes: Sequence[int], tell: Tell) -> list[Result]:
    """The exponent by which a step's time grows with a size."""
    exponent = float(np.polyfit(np.log(sizes), np.log(times_s), 1)[0])
    told = ", ".join(f"{size}: {time_s:.3f} s" for size, time_s in zip(sizes, times_s, strict=True))
    tell(f"{name}: {told}; exponent {exponent:.2f}")
    return [
        _one(f"scale.{name}.exponent", exponent, "", f"time of a pre-training step of the audiovisual system; {told}")
    ]


def _step(*, width: int = 240, steps: int = 100, batch_size: int = 16) -> float:
    """Seconds of a pre-training step of the audiovisual system, the median of five."""
    sizes = Sizes("audiovisual", {"width": width}, (steps, steps, 0), batch_size=batch_size, num_batches=1)
    clips, model = clips_of(sizes, "full"), model_of(sizes)
    objective: Objective = JointMaskedModelling(fill_bank(clips))
    settings = FitSettings(
        num_epochs=1, batch_size=batch_size, learning_rate=1e-4, seed=0, checkpoint_every_steps=10**9
    )
    times_s = []
    for _ in range(6):
        begin_s = time.perf_counter()
        fit(model, clips, objective, settings)
        times_s.append(time.perf_counter() - begin_s)
    assert objective(model, collate(clips, range(2)), Moment(0, 0)).counts_L.min() > 0
    return statistics.median(times_s[1:])


def _loader_hz() -> float:
    clips = clips_of(_mean_sizes({}), "full")
    num_done, begin_s = 0, time.perf_counter()
    while time.perf_counter() - begin_s < 2:
        num_done += len(collate(clips, range(len(clips))).index_B)
    return num_done / (time.perf_counter() - begin_s)


def _extraction_share() -> float:
    """Processor seconds that the features of a second of film take."""
    paths = sorted(GRID.glob("*.mpg"))
    describe(paths[0])
    begin_s = time.process_time()
    for path in paths:
        describe(path)
    return (time.process_time() - begin_s) / (_GRID_CLIP_S * len(paths))


def _opening(tell: Tell) -> list[Result]:
    """Seconds until the first batch can be read, and memory, by the number of clips."""
    counts, found = (10_000, 100_000, 1_000_000), []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="affect-") as folder:
            write_many(Path(folder), count)
            found.append(run("read", folder))
    told = ", ".join(
        f"{count:,}: {each['start_s']:.3f} s, {each['own_mb']:.0f} MB"
        for count, each in zip(counts, found, strict=True)
    )
    tell(f"clips: {told}")
    grown_mb = (found[-1]["own_mb"] - found[0]["own_mb"]) / (counts[-1] - counts[0]) * 1e6
    starts_s = [each["start_s"] for each in found]
    exponent = float(np.polyfit(np.log(counts[1:]), np.log(starts_s[1:]), 1)[0])
    how = f"opening shards of small features and planning an epoch; {told}"
    return [
        _one("scale.clips.exponent", exponent, "", how),
        _one("scale.clips.mb_per_million", grown_mb, "MB", how),
    ]


def _all_reduce(tell: Tell) -> list[Result]:
    """Seconds of a sum over two processes of gloo, by the number of bytes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", __name__]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    values = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    sizes, times_s = zip(*values, strict=True)
    rate = sizes[-1] / times_s[-1] / 1e9
    tell("all-reduce: " + ", ".join(f"{size / 1e6:.0f} MB {time_s * 1e3:.1f} ms" for size, time_s in values))
    exponent = float(np.polyfit(np.log(sizes[1:]), np.log(times_s[1:]), 1)[0])
    return [
        _one("scale.all_reduce.exponent", exponent, "", "two processes of gloo on one machine, 4 to 64 MB"),
        _one("scale.all_reduce_gb_s", rate, "GB/s", "the same, 64 MB"),
    ]


def _one(name: str, value: float, unit: str, how: str) -> Result:
    return Result(name, value, unit, "lower", None, runs_of([value]), how)


def _sum_over_two() -> None:
    torch.distributed.init_process_group("gloo")
    for size in (1_000_000, 4_000_000, 16_000_000, 64_000_000):
        tensor, times_s = torch.zeros(size // 4), []
        for _ in range(8):
            begin_s = time.perf_counter()
            torch.distributed.all_reduce(tensor)
            times_s.append(time.perf_counter() - begin_s)
        if torch.distributed.get_rank() == 0:
            print(size, statistics.median(times_s[1:]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _sum_over_two()
