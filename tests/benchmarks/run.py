"""Running benchmarks: each module of this folder with a `measure` function is one, and its name is its address."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform as host
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.storage import write_atomically
from tests import benchmarks

Tell = Callable[[str], None]
# Of values in one panel, largest over smallest, from which on the small ones would not be seen.
_WIDE_RANGE = 30


@dataclass(frozen=True)
class Runs:
    """The single runs behind a figure."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class Result:
    """One figure of a benchmark.

    Attributes:
        better: whether more or less of it is wanted.
        aim: what is asked for, or None for a figure that only explains another.
        low, high: ends of its 95 % interval, where it has one.
        how: on which data, split, selection and seeds it was obtained.
    """

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    aim: float | None
    runs: Runs
    how: str
    low: float | None = None
    high: float | None = None


def runs_of(values: Sequence[float]) -> Runs:
    return Runs(min(values), statistics.median(values), max(values))


def in_turn(variants: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, round by round, after one that does not count."""
    times_s: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(num_rounds + 1):
        for name, call in variants.items():
            begin_s = time.perf_counter()
            call()
            if number:
                times_s[name].append(time.perf_counter() - begin_s)
    return times_s


def names() -> list[str]:
    """Benchmarks that there are."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if hasattr(_load(name), "measure"))


def run(name: str | None, folder: Path, tell: Tell) -> dict[str, Any]:
    """Run one benchmark, or all, and write JSON and a picture of it into `folder`.

    Raises:
        ValueError: there is no such benchmark.
    """
    if name is not None and name not in names():
        raise ValueError(f"unknown benchmark {name!r}; there are: {', '.join(names())}")
    results: list[Result] = []
    for each in [name] if name else names():
        tell(f"benchmark {each}")
        results += _load(each).measure(tell)
    report = {"machine": _machine(), "results": [asdict(result) for result in results]}
    stem = name or "all"
    write_atomically(folder / f"{stem}.json", json.dumps(report, indent=2).encode())
    _draw(results, folder / f"{stem}.png")
    tell(f"written: {folder / stem}.json and .png")
    return report


def show(report: dict[str, Any]) -> None:
    """Print a report for a person."""
    for result in report["results"]:
        interval = "" if result["low"] is None else f"  [{result['low']:.3f}, {result['high']:.3f}]"
        aim = "" if result["aim"] is None else f"  aim {result['aim']:g}"
        print(f"{result['name']:<44} {result['value']:8.3f} {result['unit']}{interval}{aim}")
        print(f"{'':<44} {result['how']}")


def _load(name: str) -> Any:
    return importlib.import_module(f"{benchmarks.__name__}.{name}")


def _machine() -> dict[str, Any]:
    import torch

    return {"processor": host.processor() or host.machine(), "cores": os.cpu_count(), "torch": torch.__version__}


def _draw(results: Sequence[Result], path: Path) -> None:
    """A panel for each unit, for what is counted in different ones has no common scale."""
    by_unit: dict[str, list[Result]] = {}
    for result in results:
        by_unit.setdefault(result.unit, []).append(result)
    heights = [1.5 + len(each) for each in by_unit.values()]
    figure = Figure(figsize=(10, 0.5 + 0.32 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(by_unit), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (unit, group) in zip(panels, by_unit.items(), strict=True):
        _draw_panel(axes, unit, group[::-1])
    figure.suptitle("line: interval or range of runs; red: aim")
    figure.savefig(path, dpi=110)


def _draw_panel(axes: Axes, unit: str, group: Sequence[Result]) -> None:
    for row, result in enumerate(group):
        low = result.runs.min if result.low is None else result.low
        high = result.runs.max if result.high is None else result.high
        axes.barh(row, result.value, color="#4878a8", height=0.6)
        axes.plot([low, high], [row, row], color="black", linewidth=1.5)
        if result.aim is not None:
            axes.plot([result.aim, result.aim], [row - 0.4, row + 0.4], color="#c03030", linewidth=2)
        axes.text(max(high, result.value, result.aim or 0), row, f"  {result.value:.3g}", va="center", fontsize=8)
    values = [result.value for result in group]
    if min(values) > 0 and max(values) > _WIDE_RANGE * min(values):
        axes.set_xscale("log")
    else:
        axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(range(len(group)), [result.name for result in group])
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
