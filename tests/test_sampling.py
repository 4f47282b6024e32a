"""What the endpoint keeps of its requests: numbers and answers, of a share of them, and never at a caller's cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from components import drift_samples
from components.drift import Summary, summary_of
from components.drift_samples import Sample
from components.features.text import unknown_id
from components.predictor import load
from components.storage import Storage
from serving.app import Live
from serving.runtime import Runtime
from serving.sampling import Sampling
from tests.bundles import LABELS, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, serve

RELEASE = 7
WORDS = "a sentence that nobody else says"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0)


@pytest.fixture(scope="module")
def runtime(bundle: Path) -> Runtime:
    return Runtime(bundle, limits=LIMITS)


def ask(endpoint: Endpoint, text: str = WORDS) -> dict[str, float]:
    """The probabilities that the endpoint answers for the talking face and some words."""
    answer = httpx.post(
        f"{endpoint.url}/v1/emotion", files={"video": requests()[1].video or b""}, data={"text": text}, timeout=60
    )
    found: dict[str, float] = answer.raise_for_status().json()["probabilities"]
    return found


def kept(storage: Storage, release: int = RELEASE) -> list[Sample]:
    now = datetime.now(UTC)
    return drift_samples.read(
        storage, release, since=now - timedelta(hours=1), until=now + timedelta(hours=1), max_clips=100
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_request_leaves_its_numbers_and_its_answer_and_nothing_else(
    bundle: Path, runtime: Runtime, tmp_path: Path
) -> None:
    storage, share = Storage(str(tmp_path)), 0.0
    with serve(Endpoint(Live(runtime, release=RELEASE)), sampling=Sampling(storage, lambda: share)) as endpoint:
        ask(endpoint)
        share = 1.0
        answers = [ask(endpoint), ask(endpoint, text="we saw the door")]
    # What had not been written is written when the server ends; the first request came before anything was kept.
    first, second = kept(storage)
    assert dict(first.answers) == pytest.approx(answers[0], abs=1e-6)
    assert dict(second.answers) == pytest.approx(answers[1], abs=1e-6)
    assert (first.release, first.version, first.warnings) == (RELEASE, runtime.version, ())
    core = load(bundle)
    features, _ = core.features_of(None, requests()[1].video, WORDS)
    expected = summary_of(features, unknown_id=unknown_id(core.tokenizer))
    assert first.summary.movements == pytest.approx(expected.movements)
    for name, row in expected.rows.items():
        np.testing.assert_allclose(first.summary.rows[name], row, rtol=1e-6)
    [part] = sorted(tmp_path.rglob("*.parquet"))
    assert set(pq.read_schema(part).names) == {
        *("at", "release", "version", "audio", "video", "text", "movements", "warnings", "answers")
    }
    # Neither its words nor its picture: a few kilobytes of numbers.
    assert WORDS.encode() not in part.read_bytes()
    assert part.stat().st_size < 20_000


def test_a_store_that_fails_costs_no_request_and_is_counted(runtime: Runtime, tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.write_text("a file where a folder should be")
    sampling = Sampling(Storage(str(place)), lambda: 1.0, max_part=1, max_age_s=0.2)
    with serve(Endpoint(Live(runtime, release=RELEASE)), sampling=sampling) as endpoint:

        def count(outcome: str) -> float:
            text = httpx.get(f"{endpoint.url}/metrics", timeout=60).text
            found = [
                line for line in text.splitlines() if line.startswith(f'affect_samples_total{{outcome="{outcome}"')
            ]
            return float(found[0].split()[1]) if found else 0.0

        ask(endpoint)
        wait_for(lambda: count("failed") >= 1)
        assert count("written") == 0
        place.unlink()
        # It is tried again, with what came meanwhile.
        ask(endpoint)
        wait_for(lambda: count("written") == 2)
    assert len(kept(Storage(str(place)))) == 2


def sample(at: datetime, release: int = 1) -> Sample:
    summary = Summary({"text": np.array([3.0, 0.5], np.float32)}, {})
    return Sample(at, release, "v", summary, ("silence",), dict.fromkeys(LABELS, 0.25))


def test_a_window_is_of_one_release_and_its_newest_clips(tmp_path: Path) -> None:
    storage, now = Storage(str(tmp_path)), datetime(2026, 3, 2, 0, 30, tzinfo=UTC)
    ages = [timedelta(minutes=minutes) for minutes in (1, 20, 40, 70, 60 * 23, 60 * 25)]
    drift_samples.write(storage, [sample(now - age) for age in ages], replica="a")
    drift_samples.write(storage, [sample(now - ages[0], release=2)], replica="b")

    def found(**changes: int) -> list[timedelta]:
        settings = {"max_clips": 100, **changes}
        return [now - each.at for each in drift_samples.read(storage, 1, since=now - DAY, until=now, **settings)]

    assert found() == ages[4::-1]
    assert found(max_clips=2) == ages[1::-1]
    assert drift_samples.forget(storage, before=(now - timedelta(hours=12)).date()) == 1
    assert found() == ages[4::-1]
    assert drift_samples.forget(storage, before=now.date()) == 1
    assert found() == ages[1::-1]


DAY = timedelta(days=1)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    storage, now = Storage(str(tmp_path)), datetime.now(UTC)
    [name] = drift_samples.write(storage, [sample(now)], replica="a")
    storage.write(name, b"nothing of the kind")
    with pytest.raises(ValueError, match=r"is no part of samples .*: remove it"):
        drift_samples.read(storage, 1, since=now - DAY, until=now + DAY, max_clips=1)
