"""The gates: each judges alone, all are shown, and the stage says by how much a candidate failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from components import bundle, evaluate, gates, params
from components.bundle_files import version_of
from components.gates import Evidence, GoldenReproduced, HeadlineFloor, NotWorseThanChampion
from components.metrics import Outcomes
from tests.conftest import REPOSITORY
from tests.finished_run import LABELS, FinishedRun, write_model
from tests.test_bundle import requests

NUM_SPEAKERS, CLIPS_EACH, NUM_CLASSES = 12, 20, 4


def answers(*, num_wrong_each: int, num_speakers: int = NUM_SPEAKERS) -> Outcomes:
    """Every speaker has each class equally often, and the first clips of each are answered wrongly."""
    actual_N = np.tile(np.arange(CLIPS_EACH) % NUM_CLASSES, num_speakers)
    is_wrong_N = np.tile(np.arange(CLIPS_EACH) < num_wrong_each, num_speakers)
    predicted_N = np.where(is_wrong_N, (actual_N + 1) % NUM_CLASSES, actual_N)
    return Outcomes(actual_N, predicted_N, [f"speaker-{n // CLIPS_EACH}" for n in range(len(actual_N))], NUM_CLASSES)


def evidence(candidate: Outcomes, champion: Outcomes | None, *, golden_error: float = 0.0) -> Evidence:
    return Evidence(candidate, "candidate", champion, "champion" if champion else None, golden_error)


def test_the_floor_is_reached_or_missed_by_so_much() -> None:
    candidate = answers(num_wrong_each=8)
    passed = HeadlineFloor(0.5, 200).judge(evidence(candidate, None))
    assert passed.passed
    assert passed.value == pytest.approx(0.6)
    assert "0.100 above the floor of 0.500" in passed.message
    failed = HeadlineFloor(0.75, 200).judge(evidence(candidate, None))
    assert not failed.passed
    assert "0.150 below the floor of 0.750" in failed.message
    assert HeadlineFloor(0.0, 200).judge(evidence(candidate, None)).passed


def test_the_first_model_has_nobody_to_beat() -> None:
    result = NotWorseThanChampion(0.02, 200).judge(evidence(answers(num_wrong_each=8), None))
    assert result.passed
    assert result.value is None
    assert "first release" in result.message


def test_the_same_bundle_is_not_worse_than_itself() -> None:
    outcomes = answers(num_wrong_each=8)
    same = replace(evidence(outcomes, outcomes), candidate_version="abc", champion_version="abc")
    result = NotWorseThanChampion(0.0, 200).judge(same)
    assert result.passed
    assert "identical (version abc)" in result.message


def test_a_champion_of_other_labels_cannot_be_compared() -> None:
    strange = replace(evidence(answers(num_wrong_each=8), None), champion_version="abc")
    result = NotWorseThanChampion(0.0, 200).judge(strange)
    assert result.passed
    assert "version abc) knows none of these labels" in result.message


def test_a_better_model_passes_and_a_worse_one_fails_by_so_much() -> None:
    good, bad = answers(num_wrong_each=4), answers(num_wrong_each=8)
    better = NotWorseThanChampion(0.02, 200).judge(evidence(good, bad))
    assert better.passed
    assert better.value == pytest.approx(0.2)
    worse = NotWorseThanChampion(0.02, 200).judge(evidence(bad, good))
    assert not worse.passed
    assert worse.low == pytest.approx(-0.2)
    assert "the low end is 0.180 below -0.020" in worse.message


def test_a_loss_that_may_be_chance_fails_unless_it_is_allowed() -> None:
    champion = answers(num_wrong_each=6)
    predicted_N = champion.predicted_N.copy()
    # Two speakers lose half of their clips, two others gain theirs: no difference on average, but not surely.
    predicted_N[: 2 * CLIPS_EACH] = (champion.actual_N[: 2 * CLIPS_EACH] + 2) % NUM_CLASSES
    predicted_N[-2 * CLIPS_EACH :] = champion.actual_N[-2 * CLIPS_EACH :]
    candidate = replace(champion, predicted_N=predicted_N)
    strict = NotWorseThanChampion(0.0, 500).judge(evidence(candidate, champion))
    assert strict.low is not None
    assert strict.low < 0
    assert not strict.passed
    assert NotWorseThanChampion(abs(strict.low) + 1e-9, 500).judge(evidence(candidate, champion)).passed


def test_one_test_speaker_is_said() -> None:
    good, bad = (answers(num_wrong_each=wrong, num_speakers=1) for wrong in (4, 8))
    assert "one test speaker only" in NotWorseThanChampion(0.02, 200).judge(evidence(good, bad)).message


@pytest.mark.parametrize(("error", "passed"), [(0.0, True), (1e-5, True), (1.1e-5, False), (1.0, False)])
def test_golden_answers_must_be_reproduced(error: float, passed: bool) -> None:
    outcomes = answers(num_wrong_each=4)
    result = GoldenReproduced().judge(evidence(outcomes, None, golden_error=error))
    assert result.passed is passed
    assert ("too much" in result.message) is not passed


def test_all_gates_judge_also_after_one_has_failed(tmp_path: Path) -> None:
    settings = params.Gates(min_macro_f1=0.99, max_champion_loss=0.0, num_resamples=100)
    found = evidence(answers(num_wrong_each=8), answers(num_wrong_each=4), golden_error=0.5)
    verdict = gates.judge(gates.gates_of(settings), found)
    assert not verdict.passed
    assert [gate.passed for gate in verdict.gates] == [False, False, False]
    assert verdict.failures == verdict.gates
    (tmp_path / "gates.json").write_text(gates.to_json(verdict))
    assert gates.read_verdict(tmp_path / "gates.json") == verdict
    assert all("\n" not in gate.message for gate in verdict.gates)


def test_a_damaged_verdict_is_named(tmp_path: Path) -> None:
    (tmp_path / "gates.json").write_text('{"passed": true, "ga')
    with pytest.raises(ValueError, match=r"gates\.json is no verdict"):
        gates.read_verdict(tmp_path / "gates.json")


@dataclass(frozen=True)
class TwoBundles:
    """A finished run whose bundle is the candidate, and a champion with other weights."""

    build: Path
    champion: Path


@pytest.fixture(scope="module")
def two_bundles(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> TwoBundles:
    folder = tmp_path_factory.mktemp("gates")
    for name, seed in (("champion", 1), ("candidate", 0)):
        build = folder / name / "build"
        shutil.copytree(finished_run.build, build)
        write_model(build, finished_run.settings, seed=seed)
        evaluate.evaluate(finished_run.settings, build=build)
        bundle.write(build / "bundle", settings=finished_run.settings, requests=requests(), build=build)
    return TwoBundles(folder / "candidate" / "build", folder / "champion" / "build" / "bundle")


def arguments(two: TwoBundles, *, champion: Path | str, candidate: Path | None = None) -> list[str]:
    found = ["--champion", str(champion), "--build", str(two.build), "--output", str(two.build / "gates.json")]
    return [*found, "--bundle", str(candidate or two.build / "bundle")]


def test_the_stage_judges_against_the_champion_on_the_same_clips(
    two_bundles: TwoBundles, capsys: pytest.CaptureFixture[str]
) -> None:
    gates.main(arguments(two_bundles, champion=two_bundles.champion))
    verdict = gates.read_verdict(two_bundles.build / "gates.json")
    assert verdict.champion_version is not None
    assert verdict.champion_version != verdict.candidate_version
    floor, comparison, golden = verdict.gates
    own = evaluate.read_outcomes(two_bundles.build / "evaluation", LABELS)
    theirs = evaluate.read_outcomes(two_bundles.champion.parent / "evaluation", LABELS)
    expected = NotWorseThanChampion(0.02, 1000).judge(evidence(own, theirs))
    assert (comparison.value, comparison.low) == (expected.value, expected.low)
    assert golden.passed
    # A model that was never trained does not reach the floor, and the stage ends well all the same.
    assert not floor.passed
    assert "FAILED  macro_f1_floor" in capsys.readouterr().out
    assert json.loads((two_bundles.build / "gates.json").read_text())["passed"] is False


def test_the_stage_without_a_champion_and_against_itself(two_bundles: TwoBundles) -> None:
    evidence_alone = gates.gather(two_bundles.build / "bundle", None, build=two_bundles.build)
    assert evidence_alone.champion is None
    itself = gates.gather(two_bundles.build / "bundle", two_bundles.build / "bundle", build=two_bundles.build)
    result = NotWorseThanChampion(0.0, 100).judge(itself)
    assert result.passed
    assert "identical" in result.message


def test_the_stage_against_a_champion_of_other_labels(two_bundles: TwoBundles, tmp_path: Path) -> None:
    strange = Path(shutil.copytree(two_bundles.champion, tmp_path / "strange"))
    (strange / "labels.json").write_text('["a", "b", "c", "d", "e", "f"]')
    found = gates.gather(two_bundles.build / "bundle", strange, build=two_bundles.build)
    assert found.champion is None
    assert found.champion_version == version_of(strange)


def test_a_damaged_bundle_ends_the_stage_with_one_line(two_bundles: TwoBundles, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(two_bundles.build / "bundle", folder)
    (folder / "model.safetensors").unlink()
    command = [sys.executable, "-m", "components.gates"]
    command += arguments(two_bundles, champion="none", candidate=folder)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "model.safetensors is missing" in done.stderr
