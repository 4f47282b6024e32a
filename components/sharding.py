"""The workers of a training, and where its weights lie: whole on every worker, or a share of them on each.

`place` chooses. The loop that trains (`components.training`) asks a `Placement` for what depends on it: the sum of the
gradients over the workers, states to save and to go on from, and whole weights to judge with. States are whole under
either, so that a training may go on under the other one, or with another number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

Sharding = Literal["none", "full"]


class Group(Protocol):
    """The workers of a training, seen from one of them."""

    @property
    def rank(self) -> int: ...

    @property
    def num_workers(self) -> int: ...

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers."""


@dataclass(frozen=True)
class Alone:
    """A training of one worker."""

    rank: int = 0
    num_workers: int = 1

    def add(self, tensor: Tensor) -> None:
        """The sum over one worker is what it holds."""


ALONE: Final = Alone()


class Placement(Protocol):
    """Where a model's weights lie. Every worker has to make each of these calls, in the same order."""

    @property
    def group(self) -> Group: ...

    def clip_gradients(self, parameters: list[nn.Parameter], clip_norm: float) -> Tensor:
        """Replace every gradient by its sum over the workers, of norm `clip_norm` at most; the norm before."""

    def weights(self) -> dict[str, Tensor]:
        """The model's state dictionary, whole: on the first worker at least, and empty on the others otherwise."""

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimizer's state dictionary, likewise."""

    def load(self, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Go on from what `weights` and `optimizer_state` gave to the first worker, under this or another placement."""

    def gathered(self) -> AbstractContextManager[None]:
        """Within it the weights are whole on every worker, and the model can be called on each as it likes."""


def place(model: nn.Module, sharding: Sharding, group: Group) -> Placement:
    """Lay a model's weights out over the workers, in place; one worker has nothing to share.

    With `full` the workers have to be the default process group of `torch.distributed`.
    """
    if sharding == "full" and group.num_workers > 1:
        return FullySharded(model, group)
    return Replicated(model, group)


@dataclass(frozen=True)
class Replicated:
    """Every worker holds the whole model, and updates it with the sum of all gradients, one message a step."""

    model: nn.Module
    group: Group

    def clip_gradients(self, parameters: list[nn.Parameter], clip_norm: float) -> Tensor:
        if self.group.num_workers > 1:
            self._add_gradients(parameters)
        return nn.utils.clip_grad_norm_(parameters, clip_norm)

    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load(self, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)
        optimizer.load_state_dict(state)

    def gathered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _add_gradients(self, parameters: list[nn.Parameter]) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.group.add(flat)
        for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


class FullySharded:
    """Each worker holds a share of every weight, of its gradient and of what the optimizer knows of it (FSDP2).

    A layer's weights are whole while it computes; those outside of layers from the beginning of a step to its end.
    Whole states come together in the memory of the first worker's machine, a tensor at a time. Encoders of transformers
    leave out none of their layers (`layerdrop`), for the other workers would wait for it.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        assert distributed.is_initialized(), "the workers have to be a process group"
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        mesh = init_device_mesh(device.type, (group.num_workers,))
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._layers = [fully_shard(layer, mesh=mesh) for layer in layers]
        # Methods beside `forward` read these weights between it and the backward pass, without a hook to gather them.
        self._root = fully_shard(model, mesh=mesh, reshard_after_forward=False)
        for module in (*self._layers, self._root):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        # A weight that one worker did not use in a step may be used by another, which would wait for the first.
        self._root.set_reduce_scatter_unused_params(True)
        self.group, self._model = group, model

    def clip_gradients(self, parameters: list[nn.Parameter], clip_norm: float) -> Tensor:
        # A layer that was not called has none; the optimizer shall treat it as it does under the other placement.
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return _whole(nn.utils.clip_grad_norm_(parameters, clip_norm))

    def weights(self) -> dict[str, Tensor]:
        found = {name: self._collected(value) for name, value in self._model.state_dict().items()}
        return found if self.group.rank == 0 else {}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        found = {
            index: {key: self._collected(value) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        return {**state, "state": found} if self.group.rank == 0 else {}

    def load(self, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        own = self._model.state_dict()
        self._model.load_state_dict({name: _share(value, own[name]) for name, value in weights.items()})
        parameters = [parameter for block in optimizer.param_groups for parameter in block["params"]]
        shares = {
            index: {key: _share(value, parameters[index]) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": shares})

    @contextmanager
    def gathered(self) -> Iterator[None]:
        modules: tuple[FSDPModule, ...] = (*self._layers, self._root)
        for layer in self._layers:
            layer.set_reshard_after_forward(False, recurse=False)
        for module in modules:
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
            for layer in self._layers:
                layer.set_reshard_after_forward(True, recurse=False)

    def _collected(self, value: Tensor) -> Tensor:
        whole = _whole(value.detach())
        return whole.cpu() if self.group.rank == 0 else whole.new_empty(0)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _share(value: Tensor, like: Tensor) -> Tensor:
    """This worker's share of a whole tensor, if it belongs to a sharded weight and is not a number beside it."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Every worker has read the whole state: none has to send it.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
