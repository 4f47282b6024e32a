"""How each number of a study was obtained: who tested, whose labels, what chose the epoch, which code and data."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq

from components.clip import SPLITS
from components.markup import Html, details, element, facts, joined, table
from components.params import load_params, to_yaml
from components.study import Division, StudyChoices
from components.study_report.results import NUM_RESAMPLES, Result
from components.task import Task

_PACKAGES = ("torch", "transformers", "ray", "scikit-learn", "numpy")
_NO_DATA: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Study:
    """What a report says of a study beside its runs.

    Attributes:
        digest: its name.
        commit: of the code, with `+` behind it where files differed; empty where nobody knows.
    """

    choices: StudyChoices
    division: Division
    digest: str
    commit: str
    ended_at: str


def obtained(study: Study, asked: Task | None, results: Sequence[Result]) -> Html:
    """The facts behind all numbers, and the speakers and the data of each division."""
    choices = study.choices
    corpus = choices.finetune_on
    selected = sorted({result.evaluation.selected_on for result in results if result.evaluation})
    chosen = {
        "test": "on the TEST speakers: the figures are too good",
        "validation": "by the figure on validation speakers, who are not tested; "
        "when all is chosen a linear part learns from them too",
    }
    extra = f"{choices.pretrain_on.dataset}, and " if choices.pretrain_on else ""
    return joined(
        [
            facts(
                {
                    "corpus": joined([corpus.dataset, f", {corpus.root}" if corpus.root else ", generated"]),
                    "labels": _labels(asked),
                    "division": study.division.description,
                    "epoch chosen": "; ".join(chosen[each] for each in selected) or "no run has figures",
                    "pre-training": f"on {extra}the training part of {corpus.dataset}, without labels; no test or "
                    "validation speaker is in it",
                    "seeds": ", ".join(map(str, choices.seeds)),
                    "share of labels": "drawn within each class from the training speakers, by the seed; the test part "
                    "is the same for all shares",
                    "intervals": f"95 % percentile intervals, {NUM_RESAMPLES} resamples of speakers",
                    "recipe": _recipe(choices),
                    "code": element("code", study.commit or "commit unknown"),
                    "study": element("code", study.digest),
                    "made with": _made_with(),
                    "ended": study.ended_at,
                }
            ),
            _divisions(results),
            _settings(results),
        ]
    )


def _labels(asked: Task | None) -> str:
    if asked is None:
        return "no run has figures"
    return f"{asked.name}: {', '.join(asked.labels)}" + (f" ({asked.source})" if asked.source else "")


def _recipe(choices: StudyChoices) -> str:
    replaced = f", with {json.dumps(choices.overrides)}" if choices.overrides else ", as it comes"
    return choices.recipe + replaced


def _made_with() -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)])


def _divisions(results: Sequence[Result]) -> Html:
    """One row for each division that runs were made with: who is in which part, and the md5 of the data."""
    seen: dict[tuple[tuple[str, str], ...], Result] = {}
    for result in results:
        if result.record is not None and result.outcomes is not None:
            seen.setdefault(_data(result), result)
    rows = []
    for data, result in seen.items():
        speakers = _speakers(Path(result.record.folder) / "build/clips/clips.parquet") if result.record else {}
        counts = ", ".join(f"{len(speakers[split])} {split}" for split in SPLITS if speakers.get(split))
        md5 = joined(element("div", f"{Path(path).name} ", element("code", value)) for path, value in data)
        fold = "–" if result.run.fold is None else result.run.fold
        cells = [fold, result.run.seed, result.run.condition.modality_name, counts, ", ".join(speakers.get("test", ()))]
        rows.append(("", [*cells, md5]))
    head = ["fold", "seed", "modalities", "speakers", "test speakers", "md5 of the data"]
    return details(f"divisions and data ({len(rows)})", table(head, rows))


def _data(result: Result) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(result.record.data.items())) if result.record is not None else _NO_DATA


def _speakers(path: Path) -> Mapping[str, Sequence[str]]:
    if not path.exists():
        return {}
    pairs = pq.read_table(path, columns=["speaker_id", "split"]).group_by(["speaker_id", "split"]).aggregate([])
    return {split: sorted(row["speaker_id"] for row in pairs.to_pylist() if row["split"] == split) for split in SPLITS}


def _settings(results: Sequence[Result]) -> Html:
    """All parameters of the first run that has figures: what differs between runs is in the table of runs."""
    for result in results:
        if result.record is not None and result.outcomes is not None:
            path = Path(result.record.folder) / "build/params.yaml"
            return details(f"all parameters of run {result.run.name}", element("pre", to_yaml(load_params(path))))
    return Html("")
