"""The whole platform on an object store, which dies in the middle of a training."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from components.storage import Storage
from tests.object_store import environment, running_store
from tests.platform import SMALL, new_platform, settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

STORAGE = "s3://affect/platform"


def test_a_run_goes_on_when_the_store_is_back_and_everything_is_kept_there(tmp_path: Path) -> None:
    with running_store(tmp_path / "store") as store, environment(store.environment):
        platform = new_platform(tmp_path / "home", {**store.environment, "AFFECT_STORAGE_URL": STORAGE})
        assert platform.json("bucket")["made"]
        platform.affect("up")
        try:
            run = platform.start("retrain", *settings(*SMALL), "--json")
            storage = Storage(STORAGE)
            _wait_for_checkpoint(storage)
            store.kill()
            # Longer than a client tries: the stage ends, and is run again.
            time.sleep(20)
            store.start()
            output, errors = run.communicate(timeout=600)
            assert run.returncode == 0, output + errors
            outcome = json.loads(output)
            assert outcome["outcome"] == "promoted", outcome
            [release] = platform.json("releases")
            assert platform.json("predict")["model"] == {
                "system": "trimodal",
                "version": release["version"],
                "release": 1,
            }
            assert {"bundles", "releases", "runs"} <= set(storage.names(""))
            assert storage.names("claims") == []
        finally:
            platform.affect("down")
        assert not (platform.home / "store").exists()


def _wait_for_checkpoint(storage: Storage) -> None:
    until = time.monotonic() + 300
    while not any(storage.names(f"checkpoints/{name}") for name in storage.names("checkpoints")):
        assert time.monotonic() < until, "no checkpoint came"
        time.sleep(0.5)
