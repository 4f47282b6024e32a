"""Training on Ray: the only module that imports `ray.train`.

It puts `training.fit` on workers, carries its states to the store and back, and turns what Ray reports into the
error that a person can act on. A run's name is its identity: the same name goes on where it stopped.

A state is one file, written whole, that begins with its own digest. Ray's record of the checkpoints
(`checkpoint_manager_snapshot.json`) is not written atomically, and Ray refuses to start on a damaged one, so it is
never read again: a start looks at the files themselves, takes the newest that is whole, and removes the others.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from dataclasses import asdict, dataclass
from typing import Any, Final

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer
from torch import Tensor
from transformers import PreTrainedModel

from components import compute, settings
from components.batches import ClipSource
from components.objectives import Objective
from components.stage import progress
from components.storage import Storage
from components.training import FitSettings, HistoryRow, NonFiniteLoss, TrainingState, Validation, fit

_FOLDER: Final = "checkpoints"
_STATE_FILE: Final = "state.pt"
_SNAPSHOT_FILE: Final = "checkpoint_manager_snapshot.json"
_DIGEST_CHARACTERS: Final = 64

# Ray polls its workers every two seconds by default, several times before the first step.
_ENVIRONMENT: Final = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Ray prints a worker's lines again with its own logger.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_NUM_RESTARTS: Final = 3


class WorkersFailed(ChildProcessError):
    """The workers ended again and again without a cause that the input explains."""


class CheckpointFailed(OSError):
    """A state could not be written; raised on every worker at once."""


@dataclass(frozen=True)
class Job:
    """One training, complete: what two equal jobs compute is equal to the bit.

    Attributes:
        name: the run's name; a job of the same name must be the same job.
        stage: name shown with the progress.
        model: the initial weights; left as they are.
        num_workers: processes that share each batch.
    """

    name: str
    stage: str
    model: PreTrainedModel
    train: ClipSource
    validation: Validation | None
    objective: Objective
    settings: FitSettings
    num_workers: int


@dataclass(frozen=True)
class _Part:
    """What a worker gets: the job, where its states go, and how many threads it may use (0: its share of the node)."""

    job: Job
    storage: Storage
    use_gpu: bool
    num_threads: int


def train(job: Job) -> TrainingState:
    """Run a job to its end, from its newest state if there is one, and return the last state.

    Raises:
        ValueError, OSError: what went wrong in a worker, as it was raised there.
        WorkersFailed: workers were lost more often than they are replaced.
    """
    storage = Storage(settings.load().storage_url)
    newest = _clean(storage, job.name)
    if newest is not None and newest.finished:
        return newest
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    compute.connect()
    if compute.num_nodes() == 1:
        # It watches for nodes that are about to be taken away, which costs a process.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    use_gpu, resources = _resources(job)
    trainer = TorchTrainer(
        _work,  # type: ignore[arg-type]  # Ray hands over any dictionary
        train_loop_config={"part": _Part(job, storage, use_gpu, settings.load().train_threads)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.num_workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=storage.uri(_FOLDER),
            # Without a limit for the controller Ray retries for ever what can never be placed.
            failure_config=ray.train.FailureConfig(max_failures=_NUM_RESTARTS, controller_failure_limit=0),  # type: ignore[call-arg]  # these are the types of Ray Train 1
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            # Ray tells of every report on every worker; progress is told once an epoch.
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=[_EndOnInputError()],  # type: ignore[list-item]  # Ray's own callback type is not exported
        ),
    )
    try:
        ended_by = trainer.fit().return_value  # type: ignore[attr-defined]  # added by Ray Train v2, not in its stubs
    except ray.train.TrainingFailedError as error:
        raise _cause(error, job) from error
    if isinstance(ended_by, Exception):
        raise ended_by
    state = _newest(storage, job.name)
    assert state is not None
    assert state.finished
    return state


def forget(name: str) -> None:
    """Remove the states of a run whose output is complete."""
    Storage(settings.load().storage_url).remove(f"{_FOLDER}/{name}")


def pack(state: TrainingState) -> bytes:
    """A state as bytes that begin with the digest of the rest."""
    buffer = io.BytesIO()
    torch.save({**vars(state), "history": [asdict(row) for row in state.history]}, buffer)
    content = buffer.getvalue()
    return hashlib.sha256(content).hexdigest().encode() + content


def unpack(content: bytes) -> TrainingState:
    """The state that `pack` wrote. Nothing in it can run code.

    Raises:
        ValueError: a byte is missing or wrong.
    """
    digest, content = content[:_DIGEST_CHARACTERS], content[_DIGEST_CHARACTERS:]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("the state is damaged: its digest differs")
    values: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    history = [HistoryRow(**{**row, "terms": tuple(row["terms"])}) for row in values.pop("history")]
    return TrainingState(**values, history=history)


class _EndOnInputError(ray.train.UserCallback):
    """Ends a run whose worker raised what no restart can mend; Ray itself would try again.

    It runs in Ray's controller: what it raises there ends the run, with that error as the cause.
    """

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        del run_context
        for error in worker_exceptions.values():
            if isinstance(error, ValueError | OSError):
                raise error


class _Workers:
    """The workers of a Ray job, as `training.Group`."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.num_workers: int = context.get_world_size()

    def add(self, tensor: Tensor) -> None:
        if self.num_workers > 1:
            torch.distributed.all_reduce(tensor)


def _work(config: dict[str, _Part]) -> Exception | None:
    """What each worker runs. An error that all of them meet at once is handed back, without Ray's tracebacks."""
    part = config["part"]
    job, group = part.job, _Workers()
    torch.set_num_threads(part.num_threads or max(1, (os.cpu_count() or 1) // job.num_workers))
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = ray.train.torch.get_device()
    try:
        fit(
            job.model.to(device),  # type: ignore[arg-type]  # transformers leaves `to` untyped
            job.train,
            job.objective,
            job.settings,
            validation=job.validation,
            group=group,
            state=_agreed_state(part, group, device),
            on_checkpoint=lambda state: _report(part, group, state, device),
            on_epoch=lambda state: _tell(job, state) if group.rank == 0 else None,
        )
    except (NonFiniteLoss, CheckpointFailed) as error:
        return error
    return None


def _agreed_state(part: _Part, group: _Workers, device: torch.device) -> TrainingState | None:
    """The newest whole state, the same on every worker: the first one chooses."""
    newest = _newest(part.storage, part.job.name) if group.rank == 0 else None
    step = torch.tensor([newest.step if newest is not None else 0], device=device)
    group.add(step)
    if int(step) == 0 or newest is not None:
        return newest
    return unpack(part.storage.read(_state_name(part.job.name, int(step))))


def _report(part: _Part, group: _Workers, state: TrainingState, device: torch.device) -> None:
    """Put a state into the store, and tell Ray, which keeps the last two.

    Raises:
        CheckpointFailed: on every worker, when the first one cannot write.
    """
    failure = _write(part, state) if group.rank == 0 else None
    num_failures = torch.tensor([int(failure is not None)], device=device)
    group.add(num_failures)
    if int(num_failures):
        raise failure or CheckpointFailed("the first worker could not write a checkpoint")
    metrics = {"step": state.step, "epoch": state.epoch}
    if group.rank != 0:
        ray.train.report(metrics)
        return
    place = ray.train.get_context().get_storage()
    checkpoint = ray.train.Checkpoint(
        path=place.build_checkpoint_path_from_name(_step_folder(state.step)), filesystem=place.storage_filesystem
    )
    ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


def _write(part: _Part, state: TrainingState) -> CheckpointFailed | None:
    try:
        part.storage.write(_state_name(part.job.name, state.step), pack(state))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror or str(error)
        return CheckpointFailed(
            f"cannot write a checkpoint to {part.storage.uri(f'{_FOLDER}/{part.job.name}')}: {why}; "
            "free space there, or set AFFECT_STORAGE_URL to another place"
        )
    return None


def _tell(job: Job, state: TrainingState) -> None:
    last = state.history[-1]
    score = ""
    if job.validation is not None and last.score is not None:
        score = f", validation {job.validation.judge.told} {last.score:.3f}"
    loss = [row.loss for row in state.history if row.split == "train"][-1]
    message = f"epoch {state.epoch}/{job.settings.num_epochs}, loss {loss:.3f}{score}"
    progress(stage=job.stage, done=state.epoch, total=job.settings.num_epochs, message=message)


def _clean(storage: Storage, name: str) -> TrainingState | None:
    """The newest whole state of a run, after removing everything else that an earlier start left."""
    newest = _newest(storage, name)
    keep = "" if newest is None else _step_folder(newest.step)
    for entry in storage.names(f"{_FOLDER}/{name}"):
        if entry == _SNAPSHOT_FILE or (entry.startswith("step-") and entry != keep):
            storage.remove(f"{_FOLDER}/{name}/{entry}")
    return newest


def _newest(storage: Storage, name: str) -> TrainingState | None:
    folders = [entry for entry in storage.names(f"{_FOLDER}/{name}") if entry.startswith("step-")]
    for folder in sorted(folders, reverse=True):
        try:
            return unpack(storage.read(f"{_FOLDER}/{name}/{folder}/{_STATE_FILE}"))
        except (ValueError, FileNotFoundError):
            continue
    return None


def _step_folder(step: int) -> str:
    return f"step-{step:09d}"


def _state_name(run: str, step: int) -> str:
    return f"{_FOLDER}/{run}/{_step_folder(step)}/{_STATE_FILE}"


def _resources(job: Job) -> tuple[bool, dict[str, float]]:
    """Whether to train on GPUs, and what each worker asks Ray for: room is left for the endpoint beside it.

    Raises:
        ValueError: this Ray is too small for so many workers.
    """
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    num_cpus, num_gpus = found.get("CPU", 0.0), int(found.get("GPU", 0))
    if num_gpus and num_gpus < job.num_workers:
        raise ValueError(f"{job.stage}.num_workers = {job.num_workers}: this Ray has {num_gpus} GPU(s); lower it")
    if job.num_workers > 2 * num_cpus:
        raise ValueError(
            f"{job.stage}.num_workers = {job.num_workers}: this Ray has {num_cpus:g} processors, which is enough for "
            f"{int(2 * num_cpus)}; lower it or start a larger Ray"
        )
    cpus = min(1.0, round(0.75 * num_cpus / job.num_workers, 2))
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
