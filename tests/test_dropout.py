"""Dropout on a processor: as often, as large and as repeatable as PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.models.dropout import Dropout, drop

NUM_ELEMENTS = 400_000


@pytest.mark.parametrize("chance", [0.05, 0.1, 0.5, 0.9])
def test_as_many_elements_are_dropped_as_the_chance_says_and_the_mean_stays(chance: float) -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(NUM_ELEMENTS), chance)
    error = 5 * (chance * (1 - chance) / NUM_ELEMENTS) ** 0.5
    assert float((dropped == 0).float().mean()) == pytest.approx(chance, abs=error + 2**-16)
    assert float(dropped.double().mean()) == pytest.approx(1.0, abs=error / (1 - chance))
    assert float(dropped.max()) == pytest.approx(1 / (1 - chance), rel=1e-3)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(NUM_ELEMENTS), 0.5) > 0).double() - 0.5
    for distance in range(1, 9):
        correlation = float((kept[distance:] * kept[:-distance]).mean()) / 0.25
        assert abs(correlation) < 5 / NUM_ELEMENTS**0.5


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(0, 7), min_size=1, max_size=3))
def test_an_equal_seed_drops_equally_and_another_call_otherwise(seed: int, sizes: list[int]) -> None:
    x = torch.ones(sizes)
    torch.manual_seed(seed)
    one = drop(x, 0.5)
    torch.manual_seed(seed)
    assert torch.equal(drop(x, 0.5), one)
    assert one.shape == x.shape


def test_two_calls_drop_differently() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000)
    assert not torch.equal(drop(x, 0.5), drop(x, 0.5))


def test_slopes_go_through_what_was_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    y = drop(x, 0.2)
    y.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_nothing_is_dropped_without_chance_or_out_of_training() -> None:
    x = torch.randn(100)
    assert drop(x, 0.0) is x
    assert Dropout(0.5).eval()(x) is x
    assert not torch.equal(Dropout(0.5)(x), x)
