"""A sample of what `python -m tests.fuzz` does at length: nothing that is sent breaks the endpoint or ends it."""

from __future__ import annotations

from pathlib import Path

from tests import fuzz


def test_changed_recordings_give_features_or_a_problem_of_their_own(tmp_path: Path) -> None:
    outcomes = fuzz.fuzz_decoders(200, seed=0, deaths=tmp_path)
    assert outcomes.total() == 200
    # Some changes do no harm, and some are noticed: else nothing was tried.
    assert outcomes["features"]
    assert len(outcomes) > 2


def test_changed_recordings_may_be_streams_too() -> None:
    # Number 92 of this seed is one in which PyAV finds a stream that the header did not name.
    outcomes = fuzz.fuzz_streams(100, seed=7)
    assert outcomes.total() == 100
    assert outcomes["features"]
    assert len(outcomes) > 2


def test_requests_made_up_from_the_openapi_document_break_nothing() -> None:
    with fuzz.endpoint() as url:
        done = fuzz.fuzz_api(url, 10, seed=0)
    assert done.returncode == 0, done.stdout + done.stderr
