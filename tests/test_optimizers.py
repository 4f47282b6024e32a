"""BertAdam and its schedule, against slow loops."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.optimizers import BertAdam, linear_schedule


def _weights(seed: int) -> list[nn.Parameter]:
    random = np.random.default_rng(seed)
    return [nn.Parameter(torch.from_numpy(random.normal(size=shape))) for shape in ((3, 2), (4,), ())]


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.01, 30.0))
def test_bert_adam_is_the_slow_loop(seed: int, num_steps: int, scale: float) -> None:
    weights = _weights(seed)
    slow = [weight.detach().numpy().reshape(-1).copy() for weight in weights]
    means, squares = [np.zeros_like(w) for w in slow], [np.zeros_like(w) for w in slow]
    optimizer = BertAdam(weights, lr=0.02, weight_decay=0.1)
    random = np.random.default_rng(seed + 1)
    for _ in range(num_steps):
        for weight, values, mean, square in zip(weights, slow, means, squares, strict=True):
            gradient = random.normal(size=values.shape) * scale
            weight.grad = torch.from_numpy(gradient.reshape(tuple(weight.shape)).copy())
            norm = math.sqrt(sum(value**2 for value in gradient))
            for place in range(len(values)):
                clipped = gradient[place] * min(1.0, 1.0 / (norm + 1e-6))
                mean[place] = 0.9 * mean[place] + 0.1 * clipped
                square[place] = 0.999 * square[place] + 0.001 * clipped**2
                values[place] -= 0.02 * (mean[place] / (math.sqrt(square[place]) + 1e-6) + 0.1 * values[place])
        optimizer.step()
    for weight, values in zip(weights, slow, strict=True):
        np.testing.assert_allclose(weight.detach().numpy().reshape(-1), values, rtol=1e-9, atol=1e-12)


def test_a_weight_without_a_gradient_stays() -> None:
    weights = _weights(0)
    before = weights[0].detach().clone()
    weights[1].grad = torch.ones_like(weights[1])
    BertAdam(weights, lr=0.1).step()
    assert torch.equal(weights[0], before)


def test_it_goes_on_from_its_saved_state_to_the_bit() -> None:
    whole, first = _weights(1), _weights(1)
    gradients = [[torch.randn_like(weight) for weight in whole] for _ in range(6)]

    def run(optimizer: BertAdam, weights: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for weight, gradient in zip(weights, gradients[step], strict=True):
                weight.grad = gradient.clone()
            optimizer.step()

    run(BertAdam(whole), whole, range(6))
    optimizer = BertAdam(first)
    run(optimizer, first, range(3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    second = [nn.Parameter(weight.detach().clone()) for weight in first]
    resumed = BertAdam(second)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    run(resumed, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


@given(st.integers(1, 500), st.floats(0.0, 0.9))
def test_the_schedule_rises_then_falls_and_wastes_no_step(num_steps: int, warmup_share: float) -> None:
    shares = [linear_schedule(step, num_steps, warmup_share=warmup_share) for step in range(num_steps)]
    top = int(np.argmax(shares))
    assert max(shares) == pytest.approx(1)
    assert min(shares) > 0
    assert all(a < b for a, b in itertools.pairwise(shares[: top + 1]))
    assert all(a >= b for a, b in itertools.pairwise(shares[top:]))


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -0.1}, {"tensor_norm": 0.0}, {"betas": (0.9, 1.0)}], ids=str
)
def test_a_setting_out_of_bounds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BertAdam(_weights(0), **wrong)  # type: ignore[arg-type]  # one of them is a pair


def test_a_closure_is_called_with_gradients_on() -> None:
    weight = nn.Parameter(torch.tensor(3.0))
    optimizer = BertAdam([weight], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(loss.detach())

    assert optimizer.step(closure) == 9.0
    assert float(weight.detach()) < 3.0
