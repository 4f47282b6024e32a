"""Compiled layers: the same gradients as without, and a training without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.compilation import compile_layers
from components.models.audiovisual_layers import AudiovisualStack, StackSettings
from components.models.layers import Stack
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

_WIDTH, _HEADS = 16, 2


@pytest.fixture
def own_configuration() -> Iterator[None]:
    """What a training sets for its whole process ends with the test."""
    with torch._dynamo.config.patch(suppress_errors=False):
        yield


def _stack() -> nn.Module:
    stack = Stack(2, _WIDTH, _HEADS, 0.3)
    for name, weight in stack.named_parameters():
        if name.endswith("null_key_value"):
            nn.init.normal_(weight)
    return stack


def _published_stack() -> nn.Module:
    return AudiovisualStack(StackSettings(2, _WIDTH, _HEADS, True, True, 0.1, 0.1, 0.1, 0.1))


def _gradients(stack: nn.Module, num_steps: int) -> list[Tensor]:
    torch.manual_seed(num_steps)
    x_BTD = torch.randn(num_steps - 2, num_steps, _WIDTH, requires_grad=True)
    mask_BT = torch.arange(num_steps)[None] < torch.arange(1, num_steps - 1)[:, None]
    stack.zero_grad()
    stack(x_BTD, None, mask_BT).sin().sum().backward()
    return [each.grad.clone() for each in (x_BTD, *stack.parameters()) if each.grad is not None]


@pytest.mark.long
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler here")
@pytest.mark.parametrize("new", [_stack, _published_stack], ids=lambda new: new.__name__)
# The compiler meets warnings of PyTorch's own on its way and goes on; as errors they would stop it.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("own_configuration")
def test_compiled_layers_have_the_same_gradients(new: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    stack = new()
    names, plain = list(stack.state_dict()), [_gradients(stack, num_steps) for num_steps in (7, 9)]
    torch._dynamo.utils.counters.clear()
    compile_layers(stack)
    compiled = [_gradients(stack, num_steps) for num_steps in (7, 9)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(stack.state_dict()) == names
    for one, other in zip(plain, compiled, strict=True):
        for gradient, its in zip(one, other, strict=True):
            torch.testing.assert_close(its, gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def test_without_a_working_compiler_training_says_so_once_and_goes_on(tmp_path: Path) -> None:
    program = (
        "from dataclasses import replace\n"
        "import torch\n"
        "from components.objectives import Classification\n"
        "from components.training import FitSettings, fit\n"
        "from tests.toy_clips import ToyClips, toy_model\n"
        "settings = FitSettings(num_epochs=1, batch_size=16, learning_rate=1e-3, seed=0)\n"
        "ends = [\n"
        "    fit(toy_model(), ToyClips(), Classification(), replace(settings, compile=asked)).weights\n"
        "    for asked in (False, True)\n"
        "]\n"
        "print(all(torch.equal(ends[1][name], weight) for name, weight in ends[0].items()))\n"
    )
    environment = {**os.environ, "CXX": "false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"]
    told = [line for line in done.stderr.splitlines() if line.startswith("compile: ")]
    assert len(told) == 1, done.stderr
    assert "training goes on uncompiled" in told[0]
    assert "install g++" in told[0]
