"""Studies on real recordings: what pre-training adds, the distance from ridge, and what modalities add to each other.

The papers' systems are sized down: the same modules, losses and schedules, narrower and shorter, for two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from components.params import Corpus
from components.sections import merge
from components.settings import PROJECT_ROOT
from components.settings import load as load_settings
from components.study import StudyChoices
from flows import study_runs
from flows.study import write_report
from flows.study_runs import Ended
from tests.benchmarks.run import Result, Runs

DATA: Final = PROJECT_ROOT.parent / "shared" / "data"
RAVDESS: Final = DATA / "ravdess"
ACTION_UNITS: Final = DATA / "ravdess_av_features/ravdess_av_actors_01-08.npz"
MOSI: Final = DATA / "mosi_features/train.npz"
# At least this much above ridge on the same features, by the modalities.
RIDGE_AIMS: Final = {"audio": 0.10, "audio+video": 0.05}
_WITH_UNITS: Final[dict[str, Any]] = {
    "modalities": ["audio", "video"],
    "video": {
        "kind": "precomputed",
        "precomputed": {
            "path": str(ACTION_UNITS),
            "width": 35,
            "array": "au35",
            # The picture's recordings begin with 01 where the sound's begin with 03.
            "rename": ["^03-", "01-"],
        },
    },
}
_SMALLER: Final[dict[str, dict[str, Any]]] = {
    "khare2021": {
        "model": {"width": 96, "num_heads": 4, "num_layers": 2},
        "pretrain": {"num_epochs": 8, "learning_rate": 1.0e-3},
        "finetune": {"num_epochs": 20, "learning_rate": 1.0e-3},
    },
    "tran2022_base": {
        # TRILL embeddings are not at hand: filter banks at their rate.
        "features": {"audio": {"kind": "log_mel", "stack": 20}},
        "model": {"width": 64, "num_heads": 4, "num_layers": 2, "normalise_inputs": True},
        # As many steps as it takes for the loss on the training clips to come down, with and without pre-training.
        "pretrain": {"num_epochs": 40, "batch_size": 16, "learning_rate": 3.0e-4},
        "finetune": {"num_epochs": 30, "batch_size": 8, "learning_rate": 3.0e-4},
    },
}


def measure(tell: Callable[[str], None]) -> list[Result]:
    """All figures of the studies, by system, modalities, share of the labels and learner.

    Raises:
        ValueError: the recordings or the features are not there.
        RuntimeError: a run failed.
    """
    for path in (RAVDESS, ACTION_UNITS, MOSI):
        if not path.exists():
            raise ValueError(f"{path} is missing: put the corpora where tests/benchmarks/study.py says")
    how = (
        "RAVDESS speech, 480 clips of actors 01 to 08, 8 emotions, four folds of two actors, validation actor drawn, "
        "video: clip means of 35 action units, seed 0"
    )
    own = _ravdess("quick", {}).model_copy(
        update={"modalities": ["audio", "audio+video"], "initializations": ["scratch"], "label_shares": [1.0]}
    )
    results = _results("study.ravdess.quick", _study(own, tell), how, RIDGE_AIMS)
    for recipe, smaller in _SMALLER.items():
        results += _results(f"study.ravdess.{recipe}", _study(_ravdess(recipe, smaller), tell), how, {})
    how = "CMU-MOSI training part, 1447 utterances of 62 videos, 2 classes, five folds of videos, seeds 0 to 2"
    return [*results, *_results("study.mosi.quick", _study(_mosi(), tell), how, {})]


def _ravdess(recipe: str, smaller: Mapping[str, Any]) -> StudyChoices:
    return StudyChoices(
        recipe=recipe,
        finetune_on=Corpus(dataset="ravdess", root=str(RAVDESS)),
        num_folds=4,
        overrides=merge({"features": _WITH_UNITS}, smaller),
    )


def _mosi() -> StudyChoices:
    def made(array: str, width: int) -> dict[str, Any]:
        return {"kind": "precomputed", "precomputed": {"path": str(MOSI), "width": width, "array": array}}

    return StudyChoices(
        finetune_on=Corpus(dataset="vectors", root=str(MOSI.parent)),
        num_folds=5,
        initializations=["scratch"],
        label_shares=[1.0],
        modalities=["all", "audio", "video", "text"],
        # What words add to video here is less than what one seed differs from another.
        seeds=[0, 1, 2],
        ridge=False,
        overrides={"features": {"audio": made("audio", 73), "video": made("video", 100)}},
    )


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


def _results(name: str, summary: Mapping[str, Any], how: str, aims: Mapping[str, float]) -> list[Result]:
    how = f"{how}; answers of all folds pooled, interval by bootstrap over speakers, paired for differences"
    results = [_result(f"{_place(name, each)}.{each['learner']}", each, how, None) for each in summary["conditions"]]
    results += [_result(f"{_place(name, each)}.pretraining_gain", each, how, 0.0) for each in summary["gains"]]
    for each in summary["beside_ridge"]:
        aim = aims.get("+".join(each["modalities"])) if each["label_share"] == 1 else None
        results.append(_result(f"{_place(name, each)}.{each['better']}_minus_ridge", each, how, aim))
    for each in summary["beside_single"]:
        other = "+".join(each["worse_modalities"])
        results.append(_result(f"{_place(name, each)}.{each['better']}_minus_{other}", each, how, 0.0))
    return results


def _place(name: str, each: Mapping[str, Any]) -> str:
    return f"{name}.{'+'.join(each['modalities'])}.labels_{100 * each['label_share']:g}"


def _result(name: str, each: Mapping[str, Any], how: str, aim: float | None) -> Result:
    figure = each["figures"]["wa"]
    value, low, high = figure["value"], figure["low"], figure["high"]
    return Result(name, value, "accuracy", "higher", aim, Runs(low, value, high), how, low, high)
