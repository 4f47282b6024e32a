"""What a training asks of the processor and of the C library, so that a step costs what it must.

Both settings are of the whole process and change no result beyond the order of float32 sums.
"""

from __future__ import annotations

import ctypes
import logging
import platform
from typing import Final

import torch
from torch import nn

# Weights of this many elements and more are worth it: oneDNN makes a program for each shape that it meets, which costs
# a small model as much as it gains, and hundreds of megabytes.
_WORTH_IT: Final = 2**16
_SIZE: Final = 512
# Of the mean absolute product: float32 sums of that length err by a hundredth of it, bfloat16 by thousands.
_TOLERANCE: Final = 2e-5

# Parameters of glibc's mallopt, by their numbers in malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MOST: Final = 2**31 - 1
_TOP_PAD_BYTES: Final = 2**28

_log = logging.getLogger(__name__)


def prepare(model: nn.Module) -> None:
    """Choose the faster exact float32 product for a model, and keep memory that was freed for the next step."""
    if max((each.numel() for each in model.parameters() if each.ndim > 1), default=0) >= _WORTH_IT:
        _choose_product()
    _keep_memory()


def has_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 itself; others take several times as long for them."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def warn_of_slow(precision: str, device: torch.device) -> None:
    """Tell the log of a precision that this machine has no unit for."""
    if precision == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        _log.warning(
            "precision: this processor has no unit for bfloat16 and takes several times as long as in float32: "
            "set precision to float32"
        )


def _choose_product() -> None:
    """Let oneDNN multiply float32 matrices where it does so exactly.

    PyTorch takes MKL, which uses half of an AMD processor. "medium" means oneDNN, which is float32 too on processors
    without a unit for bfloat16 matrices, and bfloat16 on others: so it is tried.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(_SIZE, _SIZE, generator=generator) for _ in range(2))
    exact = one.double() @ other.double()
    error = ((one @ other).double() - exact).abs().max() / exact.abs().mean()
    if not float(error) <= _TOLERANCE:
        torch.set_float32_matmul_precision(before)


def _keep_memory() -> None:
    """Keep the C library from giving each step's large tensors back to the system, which fills them with zeros anew."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _MOST)
    libc.mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
