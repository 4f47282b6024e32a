"""What Ray hands to a training's controller and to its workers. Both load it, so it imports as little as it can.

The controller only passes the job on: loading what trains would take it seconds, before it starts the first worker, and
hundreds of megabytes.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any, Self

import ray.train
from ray import cloudpickle


@dataclass(frozen=True)
class Sealed:
    """A value that is opened by workers alone; what Ray writes down of it is short."""

    content: bytes = field(repr=False)

    @classmethod
    def around(cls, value: object) -> Self:
        """Seal a value; what it refers to is loaded where it is opened."""
        return cls(cloudpickle.dumps(value))  # type: ignore[no-untyped-call]  # Ray leaves it untyped

    def opened(self) -> Any:
        """The value."""
        return pickle.loads(self.content)


class EndOnInputError(ray.train.UserCallback):
    """Ends a run whose worker raised what no restart can mend; Ray itself would try again.

    It runs in Ray's controller: what it raises there ends the run, with that error as the cause.
    """

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        del run_context
        for error in worker_exceptions.values():
            if isinstance(error, ValueError | OSError):
                raise error


def run(config: dict[str, Sealed]) -> Any:
    """What each worker runs: the call that is sealed in `config`."""
    return config["call"].opened()()
