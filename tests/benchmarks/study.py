"""The papers' systems, sized down, on real speech: what pre-training adds, and how far they are from ridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.params import Corpus
from components.settings import PROJECT_ROOT
from components.settings import load as load_settings
from components.study import StudyChoices
from flows import study_runs
from flows.study import write_report
from flows.study_runs import Ended
from tests.benchmarks.run import Result, Runs

ROOT = PROJECT_ROOT.parent / "shared" / "data" / "ravdess"
# Audio alone at least this much above ridge on log-mel statistics, in points of accuracy.
RIDGE_AIM = 10.0
# Small enough for two cores: the same modules and schedules, narrower and shorter.
SMALLER: dict[str, dict[str, Any]] = {
    "khare2021": {
        "model": {"width": 96, "num_heads": 4, "num_layers": 2},
        "pretrain": {"num_epochs": 12},
        "finetune": {"num_epochs": 20},
    },
    "tran2022_base": {
        "model": {"width": 64, "num_heads": 4, "num_layers": 2},
        "pretrain": {"num_epochs": 12},
        "finetune": {"num_epochs": 20},
    },
}


def measure(tell: Callable[[str], None]) -> list[Result]:
    """Gain of pre-training at all and at a tenth of the labels, and the distance from ridge, by system.

    Raises:
        ValueError: the recordings are not there.
        RuntimeError: a run failed.
    """
    if not ROOT.is_dir():
        raise ValueError(f"RAVDESS is not at {ROOT}: put its Actor_NN folders there (Zenodo record 1188976)")
    results = []
    for recipe, overrides in SMALLER.items():
        choices = StudyChoices(
            recipe=recipe,
            finetune_on=Corpus(dataset="ravdess", root=str(ROOT)),
            num_folds=4,
            modalities=["audio"],
            overrides=overrides,
        )
        results += _results(recipe, _study(choices, tell))
    return results


def _study(choices: StudyChoices, tell: Callable[[str], None]) -> dict[str, Any]:
    settings = load_settings()
    prepared = study_runs.prepare(choices, settings)

    def told(ended: Ended, number: int, total: int) -> None:
        tell(f"{choices.recipe} {number}/{total}: {ended.job.stage} of {ended.job.run} {ended.error or 'done'}")

    study_runs.carry_out(prepared, settings, told)
    summary = write_report(prepared, settings).summary
    if summary["failed"]:
        name, error = next(iter(summary["failed"].items()))
        raise RuntimeError(f"{len(summary['failed'])} runs failed, the first: {name}: {error}")
    tell(f"report: {prepared.records.storage.uri(f'studies/{prepared.digest}/report.html')}")
    return summary


def _results(recipe: str, summary: dict[str, Any]) -> list[Result]:
    how = (
        "RAVDESS speech, 480 clips of actors 01 to 08, 8 emotions, audio alone, four folds of two actors, validation "
        "actor drawn, seed 0, system sized down; answers of all folds pooled, interval by bootstrap over actors, "
        "paired for differences"
    )
    results = []
    for each in summary["conditions"]:
        name = f"study.ravdess.{recipe}.labels_{100 * each['label_share']:g}.{each['learner']}"
        results.append(_result(name, each["figures"]["wa"], how, aim=None))
    for each in [*summary["gains"], *summary["beside_ridge"]]:
        name = f"study.ravdess.{recipe}.labels_{100 * each['label_share']:g}.{each['better']}_minus_{each['worse']}"
        aim = {"scratch": 0.0, "ridge": RIDGE_AIM / 100}[each["worse"]] if each["better"] == "pretrained" else None
        results.append(_result(name, each["figures"]["wa"], how, aim=aim))
    return results


def _result(name: str, figure: dict[str, float], how: str, *, aim: float | None) -> Result:
    value, low, high = figure["value"], figure["low"], figure["high"]
    return Result(name, value, "accuracy", "higher", aim, Runs(low, value, high), how, low, high)
