"""Gathering what the gates judge by: both bundles, loaded from their files, in front of the same test clips."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from components import bundle, clip_table, evaluate, metrics_calibration, params, report
from components.bundle import Bundle
from components.gates.disturbing import answers_on_disturbed
from components.gates.evidence import Disturbed, Evidence, Package, Slice, read_package
from components.gates.slices import groups_of
from components.metrics_calibration import Calibration
from components.report import HEADLINES, ClassReport, LabelReport
from components.scoring import Answers


def gather(
    bundle_folder: Path,
    champion_folder: Path | None,
    *,
    settings: params.Gates,
    build: Path = Path("build"),
    package: Path | None = None,
) -> Evidence:
    """Collect what the gates judge by.

    Args:
        package: the file in which `serving.package_check` left what it measured.

    Raises:
        ValueError: a bundle is damaged or not complete, or another one was measured.
        FileNotFoundError: a stage before has not run.
    """
    candidate = bundle.load(bundle_folder)
    answers = evaluate.score_bundle(candidate, build=build)
    champion = bundle.load(champion_folder) if champion_folder else None
    rescored = None
    if champion is not None:
        with contextlib.suppress(evaluate.NoSharedLabels):
            same = champion.version == candidate.version
            rescored = answers if same else evaluate.score_bundle(champion, build=build)
    figures = report.read(build / "evaluation" / report.FILE)
    rows = evaluate.rows_of(answers.clip_ids, build=build)
    return Evidence(
        candidate=answers.outcomes,
        candidate_version=candidate.version,
        champion=rescored.outcomes if rescored else None,
        champion_version=champion.version if champion else None,
        golden_error=candidate.golden_error(),
        kind=candidate.task.kind,
        champion_kind=champion.task.kind if champion else candidate.task.kind,
        selected_on=figures.selected_on,
        constant=_constant(figures),
        slices=_slices(answers, rescored, rows, settings),
        by_modalities=evaluate.score_subsets(candidate, build=build),
        disturbed=_disturbed(candidate, answers, rows, settings),
        calibration=_calibration(answers),
        package=_package(package, candidate),
    )


def _slices(
    candidate: Answers, champion: Answers | None, rows: list[dict[str, Any]], settings: params.Gates
) -> tuple[Slice, ...]:
    groups = groups_of(rows, min_clips=settings.min_slice_clips)
    return tuple(
        Slice(name, candidate.only(is_in_N).outcomes, champion.only(is_in_N).outcomes if champion else None)
        for name, is_in_N in groups.items()
    )


def _disturbed(
    candidate: Bundle, answers: Answers, rows: list[dict[str, Any]], settings: params.Gates
) -> tuple[Disturbed, ...]:
    """On some of the clips that have a recording, drawn alike for every model.

    Of features that were made elsewhere nobody can say what a worse recording would have made of them.
    """
    if candidate.features.audio.precomputed or candidate.features.video.precomputed:
        return ()
    recorded = [row for row in rows if row["audio_uri"] or row["video_uri"]]
    drawn = np.random.default_rng(0).permutation(len(recorded))[: settings.num_robustness_clips]
    clips = [clip_table.to_clip(recorded[number]) for number in sorted(drawn)]
    return tuple(answers_on_disturbed(candidate, clips, answers))


def _calibration(answers: Answers) -> Calibration | None:
    if answers.task.kind == "values":
        return None
    if answers.task.kind == "multilabel":
        return Calibration(answers.answers_NC, answers.present_NC, answers.speaker_ids)
    return metrics_calibration.of_classes(answers.actual_N, answers.answers_NC, answers.speaker_ids)


def _constant(figures: ClassReport | LabelReport) -> float:
    if isinstance(figures, ClassReport):
        return figures.majority_macro_f1
    constant = HEADLINES[figures.kind].constant
    assert constant is not None
    return constant


def _package(path: Path | None, candidate: Bundle) -> Package | None:
    if path is None:
        return None
    measured = read_package(path)
    if measured.version != candidate.version:
        raise ValueError(f"{path} is of bundle {measured.version}, not of {candidate.version}: measure this one")
    return measured
