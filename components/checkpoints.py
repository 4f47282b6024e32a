"""States of a training in the store: from each a training goes on as if it had never stopped.

A state is one file, written whole, that begins with its own digest: what was cut or changed is told from what is whole,
and passed over. It is written beside the training, which goes on meanwhile.
"""

from __future__ import annotations

import errno
import io
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch
import xxhash
from torch import Tensor
from torch.utils.serialization import config

from components.storage import Storage
from components.training import HistoryRow, TrainingState

FOLDER: Final = "checkpoints"
_STATE_FILE: Final = "state.pt"
_DIGEST_CHARACTERS: Final = 32


class CheckpointFailed(OSError):
    """A state could not be written; raised on every worker at once."""


class CheckpointInterrupted(CheckpointFailed, ConnectionError):
    """A state could not be written because the store does not answer, which it may later."""


@dataclass(frozen=True)
class Checkpoints:
    """The states of one run."""

    storage: Storage
    run: str

    def newest(self) -> TrainingState | None:
        """The newest state that is whole."""
        folders = [entry for entry in self._entries() if entry.startswith("step-")]
        for folder in sorted(folders, reverse=True):
            try:
                return unpack(self.storage.read(f"{FOLDER}/{self.run}/{folder}/{_STATE_FILE}"))
            except (ValueError, FileNotFoundError):
                continue
        return None

    def read(self, step: int) -> TrainingState:
        """The state after a step.

        Raises:
            ValueError: it is damaged.
            FileNotFoundError: there is none.
        """
        return unpack(self.storage.read(self._name(step)))

    def write(self, state: TrainingState) -> None:
        """Put a state into the store.

        Raises:
            CheckpointFailed: it cannot be written; says where and why.
        """
        try:
            self.storage.write(self._name(state.step), pack(state))
        except ConnectionError as error:
            raise CheckpointInterrupted(f"cannot write a checkpoint: {error}") from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else error.strerror or str(error)
            raise CheckpointFailed(
                f"cannot write a checkpoint to {self.storage.uri(f'{FOLDER}/{self.run}')}: {why}; "
                "free space there, or set AFFECT_STORAGE_URL to another place"
            ) from error

    def keep_only(self, state: TrainingState | None, *, also_remove: str) -> None:
        """Remove all other states, and one more entry of the run's folder."""
        kept = "" if state is None else step_folder(state.step)
        for entry in self._entries():
            if entry == also_remove or (entry.startswith("step-") and entry != kept):
                self.storage.remove(f"{FOLDER}/{self.run}/{entry}")

    def forget(self) -> None:
        """Remove everything of the run."""
        self.storage.remove(f"{FOLDER}/{self.run}")

    def _entries(self) -> list[str]:
        return self.storage.names(f"{FOLDER}/{self.run}")

    def _name(self, step: int) -> str:
        return f"{FOLDER}/{self.run}/{step_folder(step)}/{_STATE_FILE}"


class Writer:
    """Writes one state at a time in a thread of its own, from a copy."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def start(self, state: TrainingState) -> None:
        """Begin to write a state, whose weights may change from now on; the one before must have been waited for."""
        assert self._pending is None
        copied = replace(
            state, weights=_copied(state.weights), optimizer=_copied(state.optimizer), history=list(state.history)
        )
        self._pending = self._thread.submit(self._checkpoints.write, copied)

    def failure(self) -> CheckpointFailed | None:
        """Wait for what was begun; why it failed, if it did."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending else None
        if error is not None and not isinstance(error, CheckpointFailed):
            raise error
        return error


def pack(state: TrainingState) -> bytes:
    """A state as bytes that begin with the digest of the rest."""
    buffer = io.BytesIO()
    # The place of the digest, so that nothing has to be copied behind it.
    buffer.write(bytes(_DIGEST_CHARACTERS))
    # The digest finds whatever the file's own sums would.
    with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]  # the module is made at run time
        torch.save({**vars(state), "history": [asdict(row) for row in state.history]}, buffer)
    with buffer.getbuffer() as content:
        content[:_DIGEST_CHARACTERS] = _digest(content[_DIGEST_CHARACTERS:])
    return buffer.getvalue()


def unpack(content: bytes) -> TrainingState:
    """The state that `pack` wrote. Nothing in it can run code.

    Raises:
        ValueError: a byte is missing or wrong.
    """
    digest, content = content[:_DIGEST_CHARACTERS], content[_DIGEST_CHARACTERS:]
    if _digest(content) != digest:
        raise ValueError("the state is damaged: its digest differs")
    values: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    history = [HistoryRow(**{**row, "terms": tuple(row["terms"])}) for row in values.pop("history")]
    return TrainingState(**values, history=history)


def _digest(content: bytes | memoryview) -> bytes:
    """Against accidents, not against forgery: a tenth of what SHA-256 takes."""
    return xxhash.xxh3_128_hexdigest(content).encode()


def step_folder(step: int) -> str:
    """Where the state after a step lies in its run's folder."""
    return f"step-{step:09d}"


def _copied(value: Any) -> Any:
    """A nest of dictionaries and lists with copies of its tensors, in this machine's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
