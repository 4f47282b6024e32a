"""What an endpoint asks of a model, as one recorded graph that runs without Python.

At an endpoint's sizes a model is some thousand small operations, and half of its time is Python's way from one to the
next. Recorded once (TorchScript), the same kernels run on the same weights in the same order, so the answers are the
same; and while they run, the threads that talk to callers have Python for themselves. The graph travels with the
bundle, so a server need not even import what models are built with, which takes longer than PyTorch itself.

PyTorch no longer develops TorchScript. What would follow it, `torch.compile` and AOTInductor, needs a compiler and
minutes where this takes a third of a second.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from components import params
from components.bundle_files import GRAPH
from components.features.audio import audio_width
from components.features.video import video_width
from components.storage import write_atomically

WINDOW_S: Final = 1.0

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Asked = Callable[[Inputs, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Inputs of `forward`, `row_R`, `present_RM`, `whole_N` to the logits of rows, (R, C), and of windows, (N, K, C)."""

# Of the clips by which a model is recorded: a few, of which nothing is special.
_NUM_CLIPS: Final = 2
_NUM_STEPS: Final = 7
# What says where the code was when it was recorded, and when: the same model shall be the same file.
_LEFT_OUT: Final = (".debug_pkl", "serialization_id")


@runtime_checkable
class Sharing(Protocol):
    """A system that need not compute again what a clip and the clip less a modality have in common."""

    def judged_rows(
        self, inputs: Inputs, row_R: Tensor, present_RM: Tensor, whole_N: Tensor, *, window_s: float
    ) -> tuple[Tensor, Tensor]: ...


def step_by_step(model: Sharing) -> Asked:
    """The model as Python runs it."""

    def asked(inputs: Inputs, row_R: Tensor, present_RM: Tensor, whole_N: Tensor) -> tuple[Tensor, Tensor]:
        return model.judged_rows(inputs, row_R, present_RM, whole_N, window_s=WINDOW_S)

    return asked


def write(folder: Path, model: nn.Module, features: params.Features) -> None:
    """Put the model's graph, which holds for clips of all lengths, into a bundle, unless its system is of another kind.

    Its parameters are frozen thereby: weights that could still be trained cannot be part of a graph.
    """
    if not isinstance(model, Sharing):
        return
    model.requires_grad_(False)
    recorded = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        # The example has all modalities, and rows that lack each.
        graph = torch.jit.trace(step_by_step(model), _example(features), check_trace=False)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.jit.save(graph, recorded)
    write_atomically(folder / GRAPH, _without_origin(recorded))


def load(path: Path) -> Asked:
    """The graph in a file that `write` made.

    Raises:
        ValueError: the file is damaged, or of another PyTorch than this one reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            graph = torch.jit.load(path)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is damaged ({reason[:200]}): build it again with `dvc repro`, or fetch it again"
        ) from error

    def asked(inputs: Inputs, row_R: Tensor, present_RM: Tensor, whole_N: Tensor) -> tuple[Tensor, Tensor]:
        # Otherwise each new length would be watched for a while and get a graph of its own.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # torch does not export it
            logits_RC, windows_NKC = graph(inputs, row_R, present_RM, whole_N)
        return logits_RC, windows_NKC

    return asked


def _example(features: params.Features) -> tuple[Inputs, Tensor, Tensor, Tensor]:
    lengths_N = torch.full((_NUM_CLIPS,), _NUM_STEPS)
    audio_NTF = torch.zeros(_NUM_CLIPS, _NUM_STEPS, audio_width(features.audio))
    video_NTF = torch.zeros(_NUM_CLIPS, _NUM_STEPS, video_width(features.video))
    words_NT = torch.zeros(_NUM_CLIPS, _NUM_STEPS, dtype=torch.long)
    present_CM = torch.cat([torch.ones(1, 3, dtype=torch.bool), ~torch.eye(3, dtype=torch.bool)])
    row_R = torch.arange(_NUM_CLIPS).repeat_interleave(len(present_CM))
    inputs = (audio_NTF, lengths_N, video_NTF, lengths_N, words_NT, lengths_N)
    return inputs, row_R, present_CM.repeat(_NUM_CLIPS, 1), torch.arange(_NUM_CLIPS)


def _without_origin(recorded: io.BytesIO) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(recorded) as source, zipfile.ZipFile(kept, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(_LEFT_OUT):
                target.writestr(entry, source.read(entry))
    return kept.getvalue()
