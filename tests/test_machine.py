"""What a training asks of processor and C library: results stay float32, and memory stays."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from components import machine
from tests.conftest import REPOSITORY


def test_products_of_a_large_model_stay_as_exact_as_float32_is() -> None:
    machine.prepare(nn.Linear(1000, 1000))
    torch.manual_seed(0)
    one, other = torch.randn(300, 700), torch.randn(700, 200)
    exact = one.double() @ other.double()
    assert float(((one @ other).double() - exact).abs().max() / exact.abs().mean()) < 1e-4


def test_a_small_model_keeps_the_products_that_it_had() -> None:
    before = torch.get_float32_matmul_precision()
    machine.prepare(nn.Linear(10, 10))
    assert torch.get_float32_matmul_precision() == before


def test_bfloat16_without_a_unit_for_it_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
    machine.warn_of_slow("float32", cpu)
    machine.warn_of_slow("bfloat16", gpu)
    assert not caplog.messages
    machine.warn_of_slow("bfloat16", cpu)
    assert "set precision to float32" in caplog.text
    caplog.clear()
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)
    machine.warn_of_slow("bfloat16", cpu)
    assert not caplog.messages


def test_memory_that_was_freed_is_not_fetched_from_the_system_again() -> None:
    """Page faults of the last of many equal steps; without the setting there are as many as pages, 24,000.

    Many, since glibc takes new memory for some first steps: an aligned block of a size needs a hole that is larger.
    """
    program = (
        "import resource, sys, torch\n"
        "from components import machine\n"
        "if sys.argv[1] == 'prepared': machine.prepare(torch.nn.Linear(1, 1))\n"
        "for _ in range(40):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(25_000_000).sum()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        kind: int(
            subprocess.run(
                [sys.executable, "-c", program, kind], cwd=REPOSITORY, capture_output=True, text=True, check=True
            ).stdout
        )
        for kind in ("prepared", "bare")
    }
    assert faults["prepared"] < 100, faults
    assert faults["bare"] > 100, faults
