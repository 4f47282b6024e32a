"""How fast a training step is: against the same model written the usual way, the Hugging Face Trainer, and the floor.

All variants of a comparison take turns in one process, a few batches each, on the same clips and in the same
environment: as many threads as processors, products and memory as trainings have them (`components.machine`). So a
ratio is the code's. The floor is the needed floating-point operations over the rate of one large product, measured in
the same rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components import machine
from components.batches import collate
from components.masking_joint import fill_bank
from components.objectives import Classification, Objective
from components.objectives_audiovisual import JointMaskedModelling
from components.predictor import LoadedClips
from components.training import FitSettings, fit
from tests.benchmarks.hf_trainer import TrainerTraining
from tests.benchmarks.run import Result, in_turn, runs_of
from tests.benchmarks.train_sizes import Sizes, clips_of, model_of
from tests.benchmarks.train_workers import measure_checkpoints, measure_workers
from tests.benchmarks.usual import UsualTraining, usual

_NUM_ROUNDS: Final = 5
_RATE: Final = 1e-4
_LARGE: Final = 2048
Tell = Callable[[str], None]


# Of MulT on unaligned CMU-MOSEI (Tsai et al. 2019).
_MULT: Final = Sizes(
    "trimodal",
    {"audio_features": 74, "video_features": 35, "vocabulary_size": 300, "width": 30, "num_heads": 5, "num_layers": 5},
    (500, 500, 50),
    batch_size=16,
    num_batches=2,
)
_D256: Final = Sizes(
    "trimodal",
    {"audio_features": 80, "video_features": 64, "vocabulary_size": 300, "width": 256, "num_heads": 4, "num_layers": 4},
    (200, 200, 40),
    batch_size=16,
    num_batches=1,
)
_TRAN: Final = Sizes("audiovisual", {}, (100, 100, 0), batch_size=64, num_batches=1)


def measure(tell: Tell) -> list[Result]:
    """Ratios of steps a second, each the median of the rounds of one run."""
    # The small model first: once chosen, the product of large ones stays.
    machine.prepare(model_of(_MULT))
    torch.set_num_threads(os.cpu_count() or 1)
    results = _against_the_trainer(tell)
    for name, sizes, lengths, aim in (
        ("mult_full", _MULT, "full", 2.0),
        ("mult_real", replace(_MULT, num_batches=8), "real", 5.0),
        ("d256", _D256, "full", 3.0),
    ):
        results += _against_the_usual(name, sizes, lengths, aim, tell)
    return [*results, *_against_the_floor(tell), *measure_checkpoints(tell), *measure_workers(tell)]


def _against_the_usual(name: str, sizes: Sizes, lengths: str, aim: float, tell: Tell) -> list[Result]:
    clips = clips_of(sizes, lengths)
    machine.prepare(model_of(sizes))
    ours = _Ours(sizes, clips)
    torch.manual_seed(0)
    theirs = UsualTraining(usual(model_of(sizes), dropout=0.1), clips, batch_size=sizes.batch_size, learning_rate=_RATE)
    variants: dict[str, Callable[[], object]] = {"float32": ours.epoch, "usual": theirs.epoch}
    if machine.has_bfloat16():
        variants["bfloat16"] = _Ours(sizes, clips, precision="bfloat16").epoch
    times_s = _in_turn(variants, tell, name)
    how = (
        f"{sizes.system}, width {sizes.options.get('width')}, {sizes.options.get('num_layers')} layers, batches of "
        f"{sizes.batch_size}, {lengths} lengths up to {sizes.most_steps}, random values, {_NUM_ROUNDS} rounds in turn"
    )
    return _ratios(f"train.{name}", times_s, len(clips), aim, how)


def _ratios(name: str, times_s: dict[str, list[float]], num_clips: int, aim: float, how: str) -> list[Result]:
    """Each precision against the usual way, which knows float32 alone, and under the plain name the faster one."""
    ratios = {
        precision: [other / own for own, other in zip(times_s[precision], times_s["usual"], strict=True)]
        for precision in times_s
        if precision != "usual"
    }
    best = max(ratios, key=lambda precision: statistics.median(ratios[precision]))
    found = [_ratio(f"{name}.vs_usual", ratios[best], aim, f"{best}, the faster setting here, against float32; {how}")]
    found += [_ratio(f"{name}.{precision}.vs_usual", each, None, how) for precision, each in ratios.items()]
    for variant, values_s in times_s.items():
        rates = [num_clips / value_s for value_s in values_s]
        found.append(
            Result(f"{name}.{variant}_hz", statistics.median(rates), "clips/s", "higher", None, runs_of(rates), how)
        )
    return found


def _ratio(name: str, values: list[float], aim: float | None, how: str) -> Result:
    return Result(name, statistics.median(values), "x", "higher", aim, runs_of(values), how)


def _against_the_trainer(tell: Tell) -> list[Result]:
    sizes = replace(_MULT, num_batches=8)
    clips = clips_of(sizes, "real")
    with tempfile.TemporaryDirectory(prefix="affect-") as folder:
        theirs = TrainerTraining(
            model_of(sizes), clips, batch_size=sizes.batch_size, learning_rate=_RATE, folder=Path(folder)
        )
        times_s = _in_turn({"ours": _Ours(sizes, clips).epoch, "trainer": theirs.epoch}, tell, "hf_trainer")
    ratios = [other / own for own, other in zip(times_s["ours"], times_s["trainer"], strict=True)]
    how = f"this project's model under both, MulT's sizes, real lengths, float32, {_NUM_ROUNDS} rounds in turn"
    return [_ratio("train.vs_hf_trainer", ratios, 1.3, how)]


def _against_the_floor(tell: Tell) -> list[Result]:
    sizes = _TRAN
    clips = clips_of(sizes, "full")
    machine.prepare(model_of(sizes))
    ours = _Ours(sizes, clips, JointMaskedModelling(fill_bank(clips)))
    flops = needed_flops(model_of(sizes), clips, sizes)
    times_s = _in_turn({"ours": ours.epoch, "product": _product}, tell, "tran2022_base")
    floors_s = [flops * value_s / (2 * _LARGE**3) for value_s in times_s["product"]]
    shares = [floor_s / own_s for floor_s, own_s in zip(floors_s, times_s["ours"], strict=True)]
    how = (
        f"tran2022_base, pre-training, {sizes.batch_size} clips of {sizes.most_steps[0]} steps; the floor is "
        f"{flops / 1e9:.0f} GFLOP at the rate of a product of {_LARGE}, in float32, {_NUM_ROUNDS} rounds in turn"
    )
    rates = [2 * _LARGE**3 / value_s / 1e9 for value_s in times_s["product"]]
    return [
        Result("train.tran2022_base.vs_floor", statistics.median(shares), "", "higher", 0.5, runs_of(shares), how),
        Result(
            "train.tran2022_base.step_s",
            statistics.median(times_s["ours"]),
            "s",
            "lower",
            None,
            runs_of(times_s["ours"]),
            how,
        ),
        Result("train.product_gflops", statistics.median(rates), "GFLOP/s", "higher", None, runs_of(rates), how),
    ]


class _Ours:
    """The project's own loop, an epoch at a time."""

    def __init__(
        self,
        sizes: Sizes,
        clips: LoadedClips,
        objective: Objective | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self._model, self._clips = model_of(sizes), clips
        self._objective = objective or Classification()
        self._settings = FitSettings(
            num_epochs=1,
            batch_size=sizes.batch_size,
            learning_rate=_RATE,
            seed=0,
            checkpoint_every_steps=10**9,
            precision=precision,
        )

    def epoch(self) -> None:
        fit(self._model, self._clips, self._objective, self._settings)


def _in_turn(variants: dict[str, Callable[[], object]], tell: Tell, name: str) -> dict[str, list[float]]:
    times_s = in_turn(variants, _NUM_ROUNDS)
    tell(f"{name}: " + ", ".join(f"{variant} {statistics.median(each):.3f} s" for variant, each in times_s.items()))
    return times_s


_operands: list[torch.Tensor] = []


def _product() -> None:
    if not _operands:
        _operands.extend(torch.randn(_LARGE, _LARGE) for _ in range(2))
    torch.mm(*_operands)


def needed_flops(model: nn.Module, clips: LoadedClips, sizes: Sizes) -> float:
    """Of forward and backward of one batch; of what causal attention computes only the half that it uses."""
    batch = collate(clips, range(sizes.batch_size))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(**batch.inputs())
        output.joint_BTE.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    in_attention = sum(count for kind, count in counts.items() if "bmm" in str(kind))
    return float(counter.get_total_flops() - in_attention / 2)
