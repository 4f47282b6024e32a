"""The model of a pre-training on many GPUs: by hand at one point, and as it must be at the ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.scale_model import Machines, Work, epoch_of, grown

WORK = Work(num_clips=1000, flops_per_clip=1e9, bytes_per_clip=1e4, extraction_s=2.0, num_weights=1e6, global_batch=100)
MACHINES = Machines(
    num_gpus=4,
    flops=1e10,
    gpus_per_node=2,
    cores_per_gpu=5,
    clips_per_core_hz=10.0,
    store_bytes_s=1e6,
    node_bytes_s=4e5,
    link_bytes_s=1e8,
    network_bytes_s=1e7,
    step_s=0.01,
    copy_bytes_s=1.2e7,
    checkpoint_every=5,
)


def test_one_epoch_by_hand() -> None:
    epoch = epoch_of(WORK, MACHINES)
    assert epoch.compute_s == pytest.approx(250 * 0.1)
    assert epoch.launch_s == pytest.approx(10 * 0.01)
    assert epoch.loader_s == pytest.approx(250 / 50)
    assert epoch.store_s == pytest.approx(1e7 / 8e5)
    assert epoch.all_reduce_s == pytest.approx(10 * 1.5 * 4e6 / 1e7)
    assert epoch.checkpoint_s == pytest.approx(2 * 1.2e7 / 1.2e7)
    assert epoch.extraction_s == pytest.approx(1000 * 2 / 20)
    assert epoch.total_s == pytest.approx(25.1 + 6 + 2)
    assert epoch.gpu_hours == pytest.approx(33.1 * 4 / 3600)
    assert epoch.busy == pytest.approx(25 / 33.1)
    assert epoch.limit == "compute"


def test_one_gpu_sums_nothing_and_a_node_sums_over_its_links() -> None:
    assert epoch_of(WORK, replace(MACHINES, num_gpus=1)).all_reduce_s == 0
    one_node = epoch_of(WORK, replace(MACHINES, num_gpus=2))
    assert one_node.all_reduce_s == pytest.approx(10 * 4e6 / 1e8)


def test_a_slow_store_is_the_limit_however_many_gpus_there_are() -> None:
    slow = replace(MACHINES, store_bytes_s=1e4)
    for num_gpus in (1, 8, 64):
        epoch = epoch_of(WORK, replace(slow, num_gpus=num_gpus))
        assert epoch.limit == "store"
        assert epoch.total_s >= 1000


def test_a_hundred_times_the_clips_take_a_hundred_times_as_long() -> None:
    assert epoch_of(grown(WORK, 100), MACHINES).total_s == pytest.approx(100 * epoch_of(WORK, MACHINES).total_s)


def test_more_gpus_for_the_same_updates_leave_their_fixed_cost() -> None:
    many = epoch_of(WORK, replace(MACHINES, num_gpus=4000, network_bytes_s=1e12, store_bytes_s=1e12))
    assert many.limit == "checkpoint"
    assert many.launch_s == epoch_of(WORK, MACHINES).launch_s
    assert epoch_of(WORK, replace(MACHINES, step_s=1e4)).limit == "launch"
