"""Processes of `affect bench data`: `python -m tests.benchmarks.data_process read|extract ...` prints its figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

from tests.conftest import REPOSITORY

_NUM_BATCHES: Final = 1_000
_BATCH: Final = 32
_CLIPS_A_SHARD: Final = 12
_NUM_SHARDS: Final = 12


def run(kind: str, *arguments: str) -> dict[str, float]:
    """The figures of one such process."""
    command = [sys.executable, "-m", "tests.benchmarks.data_process", kind, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def read(folder: Path) -> dict[str, float]:
    """Open all shards, plan an epoch and read batches of it, with all that a training imports."""
    from components import finetune
    from components.batches import costs, in_advance, plan_epoch
    from components.shards import ShardSet

    assert finetune
    begin_s = time.perf_counter()
    source = ShardSet(sorted(folder.glob("*.arrow")))
    plan = plan_epoch(costs(source), batch_size=_BATCH, seed=0, epoch=0)
    start_s = time.perf_counter() - begin_s
    # A small set is read again and again.
    parts = [plan[number % len(plan)] for number in range(_NUM_BATCHES)]
    begin_s = time.perf_counter()
    num_clips = sum(len(batch.index_B) for batch in in_advance(source, parts))
    rate_hz = num_clips / (time.perf_counter() - begin_s)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"own_mb": int(status["RssAnon"].split()[0]) / 1024, "start_s": start_s, "rate_hz": rate_hz}


def extract(folder: Path, num_workers: int, clips: list[Path]) -> dict[str, float]:
    """Shards a second, from the end of the first to that of the last."""
    import ray

    from components.clip import Clip
    from components.features.text import fit_tokenizer
    from components.params import Features
    from components.shard_plans import plan_shards, write_shards

    config = Features(clips_per_shard=_CLIPS_A_SHARD)
    many = [
        Clip(f"{number:03d}-{path.stem}", path.stem, audio_uri=str(path), video_uri=str(path), transcript="")
        for number in range(_NUM_SHARDS * _CLIPS_A_SHARD // len(clips))
        for path in clips
    ]
    ray.init(num_cpus=num_workers, include_dashboard=False, log_to_driver=False)
    plans = plan_shards(many, folder, config, fit_tokenizer(["bin blue"], config.text), None)
    ends_s = [time.perf_counter() for _plan in write_shards(plans)]
    ray.shutdown()
    return {"rate_hz": float((len(ends_s) - num_workers) / np.ptp(ends_s[num_workers - 1 :]))}


def main() -> None:
    """Print the figures of one kind of work."""
    kind, folder, *rest = sys.argv[1:]
    figures = (
        read(Path(folder)) if kind == "read" else extract(Path(folder), int(rest[0]), [Path(each) for each in rest[1:]])
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
