"""What a pre-training costs on many GPUs: a model of an epoch from measured and assumed costs of its parts.

Compute, reading and padding batches, and reading from the store overlap: the longest of them sets the pace of a step.
The sum of gradients and what a checkpoint makes the loop wait come on top. Making the features comes before, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """A corpus and a model.

    Attributes:
        flops_per_clip: forward and backward of one clip of mean length.
        bytes_per_clip: its features.
        extraction_s: processor seconds that its features take, once.
        num_weights: trained ones.
        global_batch: clips of one update.
    """

    num_clips: float
    flops_per_clip: float
    bytes_per_clip: float
    extraction_s: float
    num_weights: float
    global_batch: int


@dataclass(frozen=True)
class Machines:
    """A cluster of equal nodes.

    Attributes:
        flops: floating-point operations a second that a GPU reaches in training.
        clips_per_core_hz: clips that one processor reads into padded batches a second.
        store_bytes_s: what the object store gives to all nodes together, and `node_bytes_s` to one.
        link_bytes_s, network_bytes_s: between the GPUs of a node, and between nodes, each way and GPU.
        step_s: fixed cost of an update: kernels, Python, launching.
        checkpoint_every: updates from one state to the next.
    """

    num_gpus: int
    flops: float
    gpus_per_node: int
    cores_per_gpu: int
    clips_per_core_hz: float
    store_bytes_s: float
    node_bytes_s: float
    link_bytes_s: float
    network_bytes_s: float
    step_s: float
    copy_bytes_s: float
    checkpoint_every: int


@dataclass(frozen=True)
class Epoch:
    """Seconds of one epoch, by what they are for, and of making the features before the first.

    `launch_s` is the fixed cost of its updates, whatever the clips in them.
    """

    compute_s: float
    launch_s: float
    loader_s: float
    store_s: float
    all_reduce_s: float
    checkpoint_s: float
    extraction_s: float
    num_gpus: int

    @property
    def total_s(self) -> float:
        """Of the epoch: what overlaps counts once."""
        return max(self.compute_s + self.launch_s, self.loader_s, self.store_s) + self.all_reduce_s + self.checkpoint_s

    @property
    def gpu_hours(self) -> float:
        return self.total_s * self.num_gpus / 3600

    @property
    def busy(self) -> float:
        """The share of the epoch in which GPUs compute."""
        return self.compute_s / self.total_s

    @property
    def limit(self) -> str:
        """What would have to be faster first."""
        parts = {
            "compute": self.compute_s,
            "launch": self.launch_s,
            "loader": self.loader_s,
            "store": self.store_s,
            "all-reduce": self.all_reduce_s,
            "checkpoint": self.checkpoint_s,
        }
        return max(parts, key=lambda name: parts[name])


def epoch_of(work: Work, machines: Machines) -> Epoch:
    """An epoch of this work on these machines."""
    num_gpus = machines.num_gpus
    num_nodes = -(-num_gpus // machines.gpus_per_node)
    num_steps = work.num_clips / work.global_batch
    per_gpu = work.num_clips / num_gpus
    bandwidth = machines.link_bytes_s if num_nodes == 1 else machines.network_bytes_s
    gradient_bytes = 4 * work.num_weights
    # A ring passes every byte on twice, less what each keeps.
    all_reduce_s = 0.0 if num_gpus == 1 else 2 * (num_gpus - 1) / num_gpus * gradient_bytes / bandwidth
    # Weights and the two moments of Adam, copied from the GPU; the rest is written beside the training.
    checkpoint_s = 3 * gradient_bytes / machines.copy_bytes_s
    store = min(machines.store_bytes_s, num_nodes * machines.node_bytes_s)
    return Epoch(
        compute_s=per_gpu * work.flops_per_clip / machines.flops,
        launch_s=num_steps * machines.step_s,
        loader_s=per_gpu / (machines.cores_per_gpu * machines.clips_per_core_hz),
        store_s=work.num_clips * work.bytes_per_clip / store,
        all_reduce_s=num_steps * all_reduce_s,
        checkpoint_s=num_steps / machines.checkpoint_every * checkpoint_s,
        extraction_s=work.num_clips * work.extraction_s / (num_gpus * machines.cores_per_gpu),
        num_gpus=num_gpus,
    )


def grown(work: Work, times: float) -> Work:
    """The same work on that many times the clips."""
    return replace(work, num_clips=work.num_clips * times)
