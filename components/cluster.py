"""Training on Ray: the only module that imports `ray.train`, with what it hands to Ray (`cluster_entry`).

It puts `training.fit` on workers, carries its states to the store and back, and turns what Ray reports into the
error that a person can act on. A run's name is its identity: the same name goes on where it stopped.

Ray's record of the checkpoints (`checkpoint_manager_snapshot.json`) is not written atomically, and Ray refuses to start
on a damaged one, so it is never read again: a start looks at the files themselves, takes the newest that is whole, and
removes the others.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer
from torch import Tensor
from transformers import PreTrainedModel

from components import checkpoints, cluster_entry, compute, machine, settings
from components.batches import ClipSource
from components.checkpoints import CheckpointFailed, Checkpoints, Writer
from components.cluster_entry import EndOnInputError, Sealed
from components.objectives import Objective
from components.shard_parcels import Parcel, pack
from components.stage import Cost, own_cost, progress, spend
from components.storage import Storage
from components.store_errors import is_passing_in_arrow
from components.training import FitSettings, NonFiniteLoss, TrainingState, Validation, fit

_SNAPSHOT_FILE: Final = "checkpoint_manager_snapshot.json"

# Ray polls its workers every two seconds by default, several times before the first step.
_ENVIRONMENT: Final = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Ray prints a worker's lines again with its own logger.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
# Several machines: a lost one's successor has to be found, and to start.
_REPLACEMENT_S: Final = 1800
_NUM_RESTARTS: Final = 3


class WorkersFailed(ChildProcessError):
    """The workers ended again and again without a cause that the input explains."""


@dataclass(frozen=True)
class Job:
    """One training, complete: what two equal jobs compute is equal to the bit.

    Attributes:
        name: the run's name; a job of the same name must be the same job.
        stage: name shown with the progress.
        model: the initial weights; left as they are.
        num_workers: processes that share each batch.
        min_workers: with how few of them it begins and goes on where there is no place for more; None: with no fewer.
            Then two equal jobs end in equal weights only if they had the same workers in the same steps.
    """

    name: str
    stage: str
    model: PreTrainedModel
    train: ClipSource
    validation: Validation | None
    objective: Objective
    settings: FitSettings
    num_workers: int
    min_workers: int | None = None

    @property
    def needed_workers(self) -> int:
        return self.min_workers or self.num_workers


@dataclass(frozen=True)
class _Part:
    """What a worker gets: the job, where its states go, and how many threads it may use (0: its share of the node)."""

    job: Job
    storage: Storage
    use_gpu: bool
    num_threads: int

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.storage, self.job.name)


def train(job: Job) -> TrainingState:
    """Run a job to its end, from its newest state if there is one, and return the last state.

    Raises:
        ValueError, OSError: what went wrong in a worker, as it was raised there.
        ConnectionError: the store did not answer; the same job goes on from its newest state when it does.
        WorkersFailed: workers were lost more often than they are replaced.
    """
    storage = Storage(settings.load().storage_url)
    states = Checkpoints(storage, job.name)
    newest = states.newest()
    # What an earlier start left besides.
    states.keep_only(newest, also_remove=_SNAPSHOT_FILE)
    if newest is not None and newest.finished:
        return newest
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    compute.connect()
    use_gpu, resources = _resources(job)
    part: _Part | Parcel = _Part(job, storage, use_gpu, settings.load().train_threads)
    if compute.num_nodes() == 1:
        # It watches for nodes that are about to be taken away, which costs a process.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    else:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_REPLACEMENT_S))
        part = pack(part, storage)
    trainer = TorchTrainer(
        cluster_entry.run,
        train_loop_config={"call": Sealed.around(partial(_work, part))},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(job.min_workers, job.num_workers) if job.min_workers else job.num_workers,  # type: ignore[arg-type]  # as below
            use_gpu=use_gpu,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=storage.uri(checkpoints.FOLDER),
            # Without a limit for the controller Ray retries for ever what can never be placed.
            failure_config=ray.train.FailureConfig(max_failures=_NUM_RESTARTS, controller_failure_limit=0),  # type: ignore[call-arg]  # these are the types of Ray Train 1
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            # Ray tells of every report on every worker; progress is told once an epoch.
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=[EndOnInputError()],  # type: ignore[list-item]  # Ray's own callback type is not exported
        ),
    )
    try:
        ended_by = trainer.fit().return_value  # type: ignore[attr-defined]  # added by Ray Train v2, not in its stubs
    except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
        if is_passing_in_arrow(str(error)):
            raise ConnectionError(
                f"{job.stage}: {storage.url}: the store does not answer Ray: see that it runs, and AWS_ENDPOINT_URL_S3"
            ) from error
        if isinstance(error, ray.train.TrainingFailedError):
            raise _cause(error, job) from error
        raise
    if isinstance(ended_by, Exception):
        raise ended_by
    assert isinstance(ended_by, Cost)
    spend(ended_by)
    state = states.newest()
    assert state is not None
    assert state.finished
    return state


def forget(name: str) -> None:
    """Remove the states of a run whose output is complete."""
    Checkpoints(Storage(settings.load().storage_url), name).forget()


class _Workers:
    """The workers of a Ray job, as `sharding.Group`."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.num_workers: int = context.get_world_size()

    def add(self, tensor: Tensor) -> None:
        if self.num_workers > 1:
            torch.distributed.all_reduce(tensor)


def _work(part_or_parcel: _Part | Parcel) -> Exception | Cost:
    """What each worker runs; what all of them used. An error that all of them meet at once is handed back, without
    Ray's tracebacks."""
    part = _opened(part_or_parcel)
    job, group, started_s = part.job, _Workers(), time.monotonic()
    torch.set_num_threads(part.num_threads or max(1, (os.cpu_count() or 1) // group.num_workers))
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else PyTorch fills each new tensor first, whose values are computed anyway.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # the module is made at run time
    machine.prepare(job.model)
    device = ray.train.torch.get_device()
    if group.rank == 0:
        machine.warn_of_slow(job.settings.precision, device)
    saving = _Saving(part, group, device)
    try:
        fit(
            job.model.to(device),  # type: ignore[arg-type]  # transformers leaves `to` untyped
            job.train,
            job.objective,
            job.settings,
            validation=job.validation,
            group=group,
            state=_agreed_state(part, group, device),
            on_checkpoint=saving.save,
            on_epoch=lambda state: _tell(job, state) if group.rank == 0 else None,
        )
        saving.settle()
    except (NonFiniteLoss, CheckpointFailed) as error:
        return error
    gpu_s = time.monotonic() - started_s if part.use_gpu else 0.0
    used = torch.tensor([own_cost().cpu_s, gpu_s], device=device)
    group.add(used)
    return Cost(*used.tolist())


def _opened(part: _Part | Parcel) -> _Part:
    if isinstance(part, _Part):
        return part
    here = settings.load()
    opened: _Part = part.opened(Storage(here.storage_url), here.home / "shards")
    return opened


def _agreed_state(part: _Part, group: _Workers, device: torch.device) -> TrainingState | None:
    """The newest whole state, the same on every worker: the first one chooses."""
    newest = part.checkpoints.newest() if group.rank == 0 else None
    step = torch.tensor([newest.step if newest is not None else 0], device=device)
    group.add(step)
    if int(step) == 0 or newest is not None:
        return newest
    return part.checkpoints.read(int(step))


class _Saving:
    """Puts states into the store while the training goes on, and tells Ray, which keeps the last two.

    What became of a state is known at the next one, to all workers at once.
    """

    def __init__(self, part: _Part, group: _Workers, device: torch.device) -> None:
        self._group, self._device = group, device
        self._writer = Writer(part.checkpoints) if group.rank == 0 else None
        self._pending: dict[str, int] | None = None

    def save(self, state: TrainingState) -> None:
        """Begin to write a state, after the one before.

        Raises:
            CheckpointFailed: on every worker, when the one before could not be written.
        """
        self.settle()
        if self._writer is not None:
            self._writer.start(state)
        self._pending = {"step": state.step, "epoch": state.epoch}

    def settle(self) -> None:
        """Wait for the state that is being written.

        Raises:
            CheckpointFailed: on every worker, when the first one could not write.
        """
        if self._pending is None:
            return
        metrics, self._pending = self._pending, None
        failure = self._writer.failure() if self._writer is not None else None
        num_failures = torch.tensor([int(failure is not None)], device=self._device)
        self._group.add(num_failures)
        if int(num_failures):
            raise failure or CheckpointFailed("the first worker could not write a checkpoint")
        if self._writer is None:
            ray.train.report(metrics)
            return
        place = ray.train.get_context().get_storage()
        checkpoint = ray.train.Checkpoint(
            path=place.build_checkpoint_path_from_name(checkpoints.step_folder(metrics["step"])),
            filesystem=place.storage_filesystem,
        )
        mode = ray.train.CheckpointUploadMode.NO_UPLOAD
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=mode)


def _tell(job: Job, state: TrainingState) -> None:
    last = state.history[-1]
    score = ""
    if job.validation is not None and last.score is not None:
        score = f", validation {job.validation.judge.told} {last.score:.3f}"
    loss = [row.loss for row in state.history if row.split == "train"][-1]
    message = f"epoch {state.epoch}/{job.settings.num_epochs}, loss {loss:.3f}{score}"
    progress(stage=job.stage, done=state.epoch, total=job.settings.num_epochs, message=message)


def _resources(job: Job) -> tuple[bool, dict[str, float]]:
    """Whether to train on GPUs, and what each worker asks Ray for: room is left for the endpoint beside it.

    Raises:
        ValueError: this Ray is too small for so many workers.
    """
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    num_cpus, num_gpus = found.get("CPU", 0.0), int(found.get("GPU", 0))
    needed = job.needed_workers
    asked = f"{job.stage}.{'min' if job.min_workers else 'num'}_workers = {needed}"
    if num_gpus and num_gpus < needed:
        raise ValueError(f"{asked}: this Ray has {num_gpus} GPU(s); lower it")
    if needed > 2 * num_cpus:
        raise ValueError(
            f"{asked}: this Ray has {num_cpus:g} processors, which is enough for {int(2 * num_cpus)}; lower it or "
            "start a larger Ray"
        )
    cpus = min(1.0, round(0.75 * num_cpus / needed, 2))
    return num_gpus > 0, {"CPU": cpus, **({"GPU": 1.0} if num_gpus else {})}


def _cause(error: ray.train.TrainingFailedError, job: Job) -> Exception:
    """The error behind what Ray reports: the worker's own where the input explains it."""
    failures: list[BaseException] = []
    if isinstance(error, ray.train.WorkerGroupError):
        failures = list(error.worker_failures.values())
    elif isinstance(error, ray.train.ControllerError):
        failures = [error.controller_failure]
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, ValueError | OSError):
                return cause
            cause = cause.__cause__
    last = " ".join(str(failures[0] if failures else error).split())
    return WorkersFailed(f"{job.stage}: the workers failed {_NUM_RESTARTS + 1} times; the last time: {last[-400:]}")
