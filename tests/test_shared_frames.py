"""What folds share: the same bytes as without sharing, and no recording decoded again for another fold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.clip_table import read_clips
from components.features.clip_features import Frames
from components.params import Choices, Corpus, resolve, to_yaml
from components.shards import ShardSet, open_split
from components.shared_frames import SharedFrames
from tests.conftest import REPOSITORY
from tests.corpus_files import write_sound

NUM_ACTORS = 6
EMOTIONS = (1, 3, 5)
CHANGED = Path("Actor_05/03-01-03-01-01-01-05.wav")


class Workspaces:
    """Folders in which stages run as processes of their own, as in a study, with one corpus for all.

    The corpus: six actors with three takes each, in the layout of RAVDESS.
    """

    def __init__(self, folder: Path, ray_address: str) -> None:
        self.folder, self.corpus, self.ray_address = folder, folder / "ravdess", ray_address
        for actor in range(1, NUM_ACTORS + 1):
            for emotion in EMOTIONS:
                write_sound(self.corpus / f"Actor_{actor:02d}" / f"03-01-{emotion:02d}-01-01-01-{actor:02d}.wav", 0.5)

    def features(self, name: str, *, fold: int, share: bool, status: int = 0) -> Path:
        """Run ingest and features of a fold; returns the features."""
        workspace = self.folder / name
        (workspace / "build").mkdir(parents=True)
        (workspace / "components").symlink_to(REPOSITORY / "components")
        overrides = {"ingest": {"num_folds": 3, "fold": fold}, "features": {"clips_per_shard": 4}}
        choices = Choices(finetune_on=Corpus(dataset="ravdess", root=str(self.corpus)), overrides=overrides)
        (workspace / "build/params.yaml").write_text(to_yaml(resolve(choices)))
        environment = {
            **os.environ,
            "AFFECT_HOME": str(self.folder / ("home" if share else "home-alone")),
            "AFFECT_RAY_ADDRESS": self.ray_address,
            "AFFECT_SHARE_FRAMES": str(share),
        }
        for stage in ("ingest", "extract"):
            done = subprocess.run(
                [sys.executable, "-m", f"components.{stage}"],
                cwd=workspace,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                assert status == done.returncode, done.stderr
                return workspace
        assert status == 0
        return workspace / "build" / "features"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Workspaces:
    return Workspaces(tmp_path_factory.mktemp("folds"), ray_address)


@pytest.fixture(scope="module")
def first(workspaces: Workspaces) -> Path:
    """Features of the first fold, the first to be kept for others."""
    features = workspaces.features("first", fold=0, share=True)
    with_clips = [path for path in features.rglob("*.arrow") if len(ShardSet([path]))]
    assert len(list((workspaces.folder / "home/shared/frames").rglob("*.arrow"))) == len(with_clips)
    return features


@pytest.fixture(scope="module")
def changed(workspaces: Workspaces, first: Path) -> Path:
    """Features of the same fold after another recording took the place of one."""
    assert first.exists()
    recording = workspaces.corpus / CHANGED
    recording.unlink()
    write_sound(recording, 0.9)
    return workspaces.features("changed", fold=0, share=True)


@pytest.fixture(scope="module")
def alone(workspaces: Workspaces, changed: Path) -> dict[int, Path]:
    """What two folds of that corpus look like with nothing shared."""
    assert changed.exists()
    return {fold: workspaces.features(f"alone-{fold}", fold=fold, share=False) for fold in (0, 1)}


@pytest.fixture(scope="module")
def damaged(workspaces: Workspaces, alone: dict[int, Path]) -> Path:
    """Features of the first fold after every shared file was cut short."""
    assert alone
    shared = [path for path in (workspaces.folder / "home/shared").rglob("*") if path.is_file()]
    assert {path.suffix for path in shared} == {".arrow", ".sqlite"}
    for path in shared:
        path.write_bytes(path.read_bytes()[:50])
    return workspaces.features("damaged", fold=0, share=True)


@pytest.fixture(scope="module")
def ruined(workspaces: Workspaces, damaged: Path) -> Path:
    """The corpus with every recording undecodable, of its size and its time as it was."""
    assert damaged.exists()
    for path in workspaces.corpus.rglob("*.wav"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return workspaces.corpus


def test_a_changed_recording_is_inspected_and_described_again(
    first: Path, changed: Path, alone: dict[int, Path]
) -> None:
    assert content(changed) == content(alone[0])
    assert content(changed) != content(first)
    rows = {row["clip_id"]: row for row in read_clips(changed.parent / "clips").to_pylist()}
    assert rows[CHANGED.stem]["duration_s"] == pytest.approx(0.9, abs=0.01)


def test_without_sharing_nothing_is_kept_for_others(workspaces: Workspaces, alone: dict[int, Path]) -> None:
    assert alone
    assert not (workspaces.folder / "home-alone" / "shared").exists()


def test_lost_or_damaged_shared_files_cost_nothing_but_time(damaged: Path, alone: dict[int, Path]) -> None:
    assert content(damaged) == content(alone[0])


def test_another_fold_has_the_same_bytes_without_decoding_anything(
    workspaces: Workspaces, first: Path, alone: dict[int, Path], ruined: Path
) -> None:
    assert ruined.exists()
    second = workspaces.features("second", fold=1, share=True)
    assert content(second) == content(alone[1])
    parts = {name: set(open_split(second, name).speaker_ids) for name in ("train", "validation", "test")}
    assert parts["test"] == {"Actor_03", "Actor_04"} != set(open_split(first, "test").speaker_ids)


def test_without_sharing_the_ruined_recordings_are_refused(workspaces: Workspaces, ruined: Path) -> None:
    assert ruined.exists()
    workspace = workspaces.features("refused", fold=1, share=False, status=1)
    assert (workspace / "build" / "rejected.parquet").exists()


def test_frames_come_back_to_the_bit_with_what_is_told_about_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = {
        "whole": Frames(
            random.normal(size=(7, 4)).astype(np.float16), random.normal(size=(3, 5)).astype(np.float16), ()
        ),
        "silent": Frames(np.zeros((2, 4), np.float16), np.zeros((0, 5), np.float16), ("silence", "no-face")),
        "nameless": Frames(np.ones((1, 4), np.float16), np.ones((1, 5), np.float16), ("truncated",)),
    }
    SharedFrames(tmp_path, {"whole": "k1", "silent": "k2"}, {}).keep(frames, (4, 5))
    [path] = tmp_path.glob("*.arrow")
    shared = SharedFrames(tmp_path, {"whole": "k1", "silent": "k2"}, {"k1": (path, 0), "k2": (path, 1)})
    for name in ("whole", "silent"):
        found = shared.only([name, "unknown"]).find(name)
        assert found is not None
        np.testing.assert_array_equal(found.audio_TF, frames[name].audio_TF)
        np.testing.assert_array_equal(found.video_TF, frames[name].video_TF)
        assert found.warnings == frames[name].warnings
    assert shared.find("nameless") is None
    assert shared.only(["whole"]).find("silent") is None
