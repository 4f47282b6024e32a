"""Trials: the log of them, their figures and gates, and a challenger beside the live model in a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from components import bundle_files
from components.gates.live_trial import judge
from components.params import Gates
from components.storage import Storage
from components.trials import (
    Comparison,
    Observation,
    Trial,
    TrialConfig,
    TrialEnd,
    TrialLog,
    TrialRunning,
    compare,
)
from serving import feature_file
from serving.app import Live
from serving.prediction import ClassPrediction, LabelPrediction, Request, ValuePrediction
from serving.runtime import Runtime
from serving.schema import ClassAnswer, ModelCard
from serving.trial import Challenger, Observations, between
from tests.bundles import LABELS, class_predictions, write_bundle
from tests.endpoint import LIMITS, Endpoint, serve
from tests.kinds import TASKS

TRIAL = Trial(3, "bundles/abc", "abc", "run", "shadow", 0.5)
TEXT = "we saw the door"


def test_a_trial_is_over_with_its_end_or_with_another_release(tmp_path: Path) -> None:
    log = TrialLog(Storage(str(tmp_path)))
    assert log.last() is None
    first = log.begin(TRIAL, live=3)
    assert (first.number, log.running(live=3)) == (1, first)
    with pytest.raises(TrialRunning, match="trial 1 of version abc goes on since"):
        log.begin(TRIAL, live=3)
    # A new release is a new champion: what was compared with the former one says nothing of it.
    assert log.running(live=4) is None
    second = log.begin(TRIAL, live=4)
    assert second.number == 2
    log.end(2, TrialEnd("refused", "gates live_trial/failures"))
    log.end(2, TrialEnd("passed", "too late"))
    assert log.running(live=3) is None
    last = log.last()
    assert last is not None
    assert last[1] is not None
    assert last[1].outcome == "refused"
    with pytest.raises(ValueError, match="no trial 7; the last one is 2"):
        log.read(7)


def test_what_replicas_saw_is_counted_once(tmp_path: Path) -> None:
    log = TrialLog(Storage(str(tmp_path)))
    log.keep(1, [Observation(0.1, 0.2, True, 0.0), Observation(0.1, 0.4, False, 0.5)])
    log.keep(1, [Observation(0.3, failure="RuntimeError"), Observation(0.1)])
    log.keep(2, [Observation(9.0, 9.0, True, 0.0)])
    found = compare(log.observations(1))
    assert (found.num_clips, found.mean_distance) == (3, 0.25)
    assert found.failed_share == pytest.approx(1 / 3)
    assert found.agreement is not None
    assert found.agreement.value == 0.5
    assert found.agreement.low < 0.1
    assert found.challenger_p95_s == pytest.approx(0.39)
    assert found.champion_p95_s == pytest.approx(0.27)
    assert compare([]) == Comparison(0, None, None, None, None, None)


SOUND = [Observation(0.1, 0.12, True, 0.05)] * 40


@pytest.mark.parametrize(
    ("seen", "failed"),
    [
        (SOUND, set()),
        (SOUND[:9], {"requests"}),
        ([*SOUND, Observation(0.1, failure="RuntimeError")], {"failures"}),
        ([Observation(0.1, 0.25, True, 0.0)] * 40, {"slowdown"}),
        ([Observation(0.1, 0.1, False, 0.9)] * 40, {"agreement"}),
        # One in ten less than wanted, of forty, may be chance.
        ([*SOUND[:18], *[Observation(0.1, 0.1, False, 0.9)] * 22], set()),
        ([], {"requests", "failures", "slowdown", "agreement"}),
    ],
)
def test_gates_tell_a_broken_challenger_from_a_sound_one(seen: Sequence[Observation], failed: set[str]) -> None:
    results = judge(Gates(trial_clips=10), TRIAL, compare(seen))
    assert {result.name.removeprefix("live_trial/") for result in results if not result.passed} == failed
    assert [result.name for result in results][-1] == "live_trial/agreement"


def test_answers_are_compared_by_their_kind() -> None:
    def classes(**shares: float) -> ClassPrediction:
        return ClassPrediction((), (), "v", max(shares, key=lambda name: shares[name]), shares, {})

    def labels(**shares: float) -> LabelPrediction:
        return LabelPrediction((), (), "v", shares, dict.fromkeys(shares, 0.5), {})

    def values(**given: float) -> ValuePrediction:
        return ValuePrediction((), (), "v", given, (1.0, 5.0), {})

    for one, other, agrees, distance in (
        (classes(a=0.7, b=0.3), classes(a=0.6, b=0.4), True, 0.1),
        (classes(a=1.0), classes(b=1.0), False, 1.0),
        (labels(a=0.9, b=0.4), labels(a=0.6, b=0.2), True, 0.25),
        (labels(a=0.9), labels(a=0.4), False, 0.5),
        (values(x=3.0), values(x=3.2), True, 0.05),
        (values(x=1.0), values(x=5.0), False, 1.0),
        (values(x=1.0), classes(a=1.0), False, 1.0),
    ):
        found = between(one, other)
        assert found[0] is agrees
        assert found[1] == pytest.approx(distance)


def test_an_endpoint_is_told_no_nonsense() -> None:
    for wrong in ({"share": 0}, {"share": 1.5}, {"mode": "both"}, {"bundle": ""}, {"other": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrialConfig.model_validate({"number": 1, "bundle": "b", "mode": "shadow", "share": 0.5, **wrong})


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runtime]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "A", seed=0)
    write_bundle(folder / "B", seed=1)
    write_bundle(folder / "values", seed=2, asked=TASKS["values"])
    # Made from other features than the others.
    write_bundle(folder / "shorter", seed=3)
    settings = json.loads((folder / "shorter" / bundle_files.PREPROCESS).read_text())
    (folder / "shorter" / bundle_files.PREPROCESS).write_text(json.dumps({**settings, "max_duration_s": 4.0}))
    return {name: Runtime(folder / name, limits=LIMITS) for name in ("A", "B", "values", "shorter")}


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    return TrialLog(Storage(str(tmp_path)))


def _challenger(runtime: Runtime, mode: str, share: float, log: TrialLog) -> Challenger:
    seen = Observations(lambda part: log.keep(1, part))
    return Challenger(runtime, 1, "canary" if mode == "canary" else "shadow", share, seen)


def _seen(log: TrialLog, enough: Callable[[list[Observation]], bool]) -> list[Observation]:
    deadline = time.monotonic() + 60
    while not enough(found := log.observations(1)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def _ask(url: str, name: str) -> ClassAnswer:
    answer = httpx.post(f"{url}/v1/emotion", json={"text": TEXT}, headers={"X-Request-ID": name}, timeout=60.0)
    assert answer.status_code == 200, answer.text
    return ClassAnswer.model_validate_json(answer.content)


@pytest.mark.parametrize(("challenger", "same"), [("A", True), ("B", False), ("values", False)])
def test_a_shadow_is_compared_and_answers_nobody(
    runtimes: dict[str, Runtime], log: TrialLog, challenger: str, same: bool
) -> None:
    beside = _challenger(runtimes[challenger], "shadow", 1.0, log)
    with serve(Endpoint(Live(runtimes["A"], 3, challenger=beside))) as running:
        [expected] = class_predictions(runtimes["A"], [Request(text=TEXT)])
        for number in range(4):
            answer = _ask(running.url, f"r{number}")
            assert (answer.model.version, answer.model.release) == (runtimes["A"].version, 3)
            assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
            seen = _seen(log, lambda found: len(found) >= 1)
        card = ModelCard.model_validate_json(httpx.get(f"{running.url}/v1/model", timeout=60.0).content)
        assert card.trial is not None
        assert (card.trial.version, card.trial.mode) == (runtimes[challenger].version, "shadow")
        metrics = httpx.get(f"{running.url}/metrics", timeout=60.0).text
    assert 'affect_trial_requests_total{outcome="answered",role="challenger"}' in metrics
    assert 'affect_trial_seconds_count{role="champion"} 4.0' in metrics
    assert all(each.champion_s and each.challenger_s and not each.failure for each in seen)
    if same:
        assert all(each.agrees and each.distance is not None and each.distance < 1e-6 for each in seen)
    else:
        assert all(each.distance is not None and each.distance > 0.01 for each in seen)


def test_a_canary_answers_its_share_alone_and_always_the_same_requests(
    runtimes: dict[str, Runtime], log: TrialLog
) -> None:
    beside = _challenger(runtimes["B"], "canary", 0.5, log)
    expected = {
        runtimes[name].version: class_predictions(runtimes[name], [Request(text=TEXT)])[0].probabilities
        for name in "AB"
    }
    names = [f"r{number}" for number in range(16)]
    with serve(Endpoint(Live(runtimes["A"], 3, challenger=beside))) as running:
        answers = [_ask(running.url, name) for name in names]
        again = [_ask(running.url, name).model for name in names]
        seen = _seen(log, lambda found: len(found) == 32)
    assert [answer.model for answer in answers] == again
    for name, answer in zip(names, answers, strict=True):
        is_its = beside.is_chosen(name)
        wanted = (runtimes["B"].version, 0) if is_its else (runtimes["A"].version, 3)
        assert (answer.model.version, answer.model.release) == wanted
        assert answer.probabilities == pytest.approx(expected[answer.model.version], abs=1e-6)
    num_chosen = sum(beside.is_chosen(name) for name in names)
    assert 0 < num_chosen < 16
    assert compare(seen).num_clips == 2 * num_chosen
    # Of many requests it is the share.
    assert sum(beside.is_chosen(str(number)) for number in range(4000)) == pytest.approx(2000, abs=130)


def test_where_the_challenger_fails_the_live_model_answers(runtimes: dict[str, Runtime], log: TrialLog) -> None:
    """Features that were made for the live model are none that another can judge."""
    prepared = runtimes["A"].prepare(Request(text=TEXT))
    body = feature_file.write(prepared.features, runtimes["A"].info().features)
    beside = _challenger(runtimes["shorter"], "canary", 1.0, log)
    with serve(Endpoint(Live(runtimes["A"], 3, challenger=beside))) as running:
        headers = {"Content-Type": feature_file.MEDIA_TYPE}
        answer = httpx.post(f"{running.url}/v1/emotion", content=body, headers=headers, timeout=60.0)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"]["version"] == runtimes["A"].version
        # What no model could answer is the caller's own mistake, and says nothing of the challenger.
        assert httpx.post(f"{running.url}/v1/emotion", json={"text": ""}, timeout=60.0).status_code == 422
        [seen] = _seen(log, lambda found: len(found) == 1)
        metrics = httpx.get(f"{running.url}/metrics", timeout=60.0).text
    assert seen.failure
    assert seen.challenger_s is None
    assert 'affect_trial_requests_total{outcome="failed",role="challenger"} 1.0' in metrics
    assert set(answer.json()["probabilities"]) == set(LABELS)
