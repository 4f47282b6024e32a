"""The optimiser and the schedule of BERT-like pre-training, beside what torch brings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT was trained with: without bias correction, decay beside the gradient, each tensor clipped by itself.

    Without the correction the first steps are larger than Adam's, so it wants a warm-up. `learning_rate` is set
    from outside at each step, as `param_groups[...]["lr"]`.

    Args:
        parameters: tensors, or groups of them with settings of their own.
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the root of the latter.
        weight_decay: share of a weight that is taken off, times the learning rate.
        tensor_norm: largest norm of one tensor's gradient.

    Raises:
        ValueError: a setting is out of bounds.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        tensor_norm: float = 1.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} = {value:g}: set it to 0 or more")
        if tensor_norm <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"tensor_norm = {tensor_norm:g}, betas = {betas}: norms lie above 0, betas in [0, 1)")
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "tensor_norm": tensor_norm}
        super().__init__(parameters, settings)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every weight that has a gradient; the gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _update(weight, self.state[weight], group)
        return loss


def _update(weight: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
    assert weight.grad is not None
    norm = torch.linalg.vector_norm(weight.grad)
    gradient = weight.grad * (group["tensor_norm"] / (norm + 1e-6)).clamp(max=1.0)
    (of_mean, of_square), mean, square = group["betas"], state["mean"], state["square"]
    mean.mul_(of_mean).add_(gradient, alpha=1 - of_mean)
    square.mul_(of_square).addcmul_(gradient, gradient, value=1 - of_square)
    change = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * weight
    weight.sub_(change, alpha=group["lr"])


def linear_schedule(step: int, num_steps: int, *, warmup_share: float = 0.1) -> float:
    """Share of the learning rate at a step (from 0): up over the warm-up's steps, then down; it would be 0 at the end.

    A function of the step alone; no step has a rate of 0, which would be a step for nothing.
    """
    num_warmup = max(1, round(warmup_share * num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))
