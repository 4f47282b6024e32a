"""The stage `features` on a small corpus of real files: same bits, same bytes, resumed, and honest about losses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from components import clip_table, task
from components.clip import SPLITS
from components.extract import extract, extract_clips
from components.features import clip_features, text
from components.media import write_mp4, write_wav
from components.params import Choices, Features, resolve, to_yaml
from components.shards import ShardSet, Skipped, open_split
from tests.conftest import REPOSITORY
from tests.test_features import film, voice

CONFIG = Features(clips_per_shard=5)
NUM_CLIPS = 24
LABELS = ["happy", "sad"]
TASK = task.Task("classes", tuple(LABELS), source="made up")


@pytest.fixture
def clips_folder(tmp_path: Path) -> Path:
    """What ingest hands on: 24 clips of 6 speakers, sound with or without a picture, one of words alone."""
    folder = tmp_path / "build" / "clips"
    (folder / "media").mkdir(parents=True)
    frames = np.repeat(film(20)[..., None], 3, axis=-1)
    write_mp4(folder / "media" / "face.mp4", frames, frame_rate_hz=25, waveform_T=voice(0.8), sample_rate_hz=16_000)
    rows = [_row(folder, number) for number in range(NUM_CLIPS)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=clip_table.SCHEMA), folder / "clips.parquet")
    task.write(folder, TASK)
    return folder


def _row(folder: Path, number: int) -> dict[str, Any]:
    split = ("train", "train", "train", "unlabelled", "test", "train")[number % 6]
    audio_uri: str | None = "media/face.mp4"
    if number % 3:
        audio_uri = f"media/{number:02d}.wav"
        write_wav(folder / audio_uri, voice(0.5 + number / 50, seed=number), sample_rate_hz=16_000)
    if number == 0:
        audio_uri = None
    return {
        "clip_id": f"clip-{number:02d}",
        "corpus": "hand",
        "speaker_id": f"speaker-{number % 6}",
        "session_id": "",
        "split": split,
        "audio_uri": audio_uri,
        "video_uri": audio_uri if audio_uri and audio_uri.endswith("mp4") else None,
        "start_s": 0.0,
        "end_s": None,
        "duration_s": 1.0,
        "transcript": f"{split} word {number}",
        "speaker_sex": None,
        "speaker_age": None,
        "labels": [] if split == "unlabelled" else [(LABELS[number % 2], 1.0)],
        "num_bytes": 1,
        "md5": str(number),
    }


def _content(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("ray_address")
def test_stage_writes_the_same_features_as_serving_computes(clips_folder: Path) -> None:
    target = clips_folder.with_name("features")
    extract(clips_folder, target, CONFIG)
    first = _content(target)
    assert {name for name in first if "/" not in name} == {
        "labels.json",
        "preprocess.json",
        "skipped.json",
        "summary.json",
        "task.json",
        "tokenizer.json",
    }
    assert task.read(target) == TASK
    assert Features.model_validate_json(first["preprocess.json"]) == CONFIG
    assert json.loads(first["summary.json"]) == {"num_clips": NUM_CLIPS, "num_skipped": 0, "num_warnings": {}}
    tokenizer = text.load_tokenizer(target / "tokenizer.json")
    assert tokenizer.token_to_id("unlabelled") is not None
    assert tokenizer.token_to_id("test") is None

    clips = {row["clip_id"]: clip_table.to_clip(row) for row in clip_table.read_clips(clips_folder).to_pylist()}
    assert {split: len(open_split(target, split)) for split in SPLITS} == {
        "train": 16,
        "validation": 0,
        "test": 4,
        "unlabelled": 4,
    }
    source = open_split(target, *SPLITS)
    for index, clip_id in enumerate(source.clip_ids):
        clip = clips[clip_id]
        audio, video = (uri and Path(uri).read_bytes() for uri in (clip.audio_uri, clip.video_uri))
        recording = clip_features.record(audio=audio or None, video=video or None, config=CONFIG)
        expected, _ = clip_features.compute(recording, clip.transcript, CONFIG, tokenizer)
        found = source.features(index)
        np.testing.assert_array_equal(found.audio_TF, expected.audio_TF)
        np.testing.assert_array_equal(found.video_TF, expected.video_TF)
        np.testing.assert_array_equal(found.word_ids_T, expected.word_ids_T)
        assert (len(found.video_TF) > 0) == (clip.video_uri is not None)
        values = [clip.labels.get(label, 0.0) for label in LABELS]
        np.testing.assert_array_equal(source.labels_NC[index], values if clip.labels else [np.nan] * 2)

    extract(clips_folder, target, CONFIG)
    assert _content(target) == first
    assert sorted(path.name for path in target.parent.iterdir()) == ["clips", "features"]


@pytest.mark.usefixtures("ray_address")
def test_lost_clips_are_listed_and_too_many_stop_the_stage(clips_folder: Path) -> None:
    target = clips_folder.with_name("features")
    lost = {path: path.read_bytes() for path in (clips_folder / "media" / f"{n:02d}.wav" for n in (1, 5, 7))}
    for path in lost:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 24 clips cannot be read any more \(first: clip-01, empty\): bring"):
        extract(clips_folder, target, CONFIG)
    assert not target.exists()

    # The files are back but for one: only shards that lacked a clip are written again.
    kept = {path: path.stat().st_mtime_ns for path in target.with_name("features.partial").rglob("*.arrow")}
    for path, content in list(lost.items())[1:]:
        path.write_bytes(content)
    extract(clips_folder, target, CONFIG)
    assert json.loads((target / "skipped.json").read_text()) == [{"clip_id": "clip-01", "reason": "empty"}]
    assert json.loads((target / "summary.json").read_text())["num_clips"] == NUM_CLIPS - 1
    written = {
        path: (target / path.relative_to(target.with_name("features.partial"))).stat().st_mtime_ns for path in kept
    }
    num_same = sum(written[path] == time_ns for path, time_ns in kept.items())
    assert 0 < num_same < len(kept)


@pytest.mark.usefixtures("ray_address")
def test_clips_are_extracted_again_with_other_settings(clips_folder: Path, tmp_path: Path) -> None:
    clips = [clip_table.to_clip(row) for row in clip_table.read_clips(clips_folder).to_pylist()][1:6]
    (clips_folder / "media" / "04.wav").unlink()
    other = CONFIG.model_copy(update={"audio": CONFIG.audio.model_copy(update={"num_mels": 20})})
    tokenizer = text.fit_tokenizer([], other.text)
    folder = tmp_path / "again"
    skipped = extract_clips(clips, config=other, tokenizer=tokenizer, folder=folder)
    assert skipped == [Skipped("clip-04", "missing")]
    source = ShardSet(sorted(folder.glob("*.arrow")))
    assert sorted(source.clip_ids) == ["clip-01", "clip-02", "clip-03", "clip-05"]
    assert source.widths[0] == 80


def _stage(workspace: Path, ray_address: str) -> subprocess.Popen[str]:
    """The stage as a process of its own, in a workspace that holds the code."""
    if not (workspace / "components").exists():
        (workspace / "components").symlink_to(REPOSITORY / "components")
    return subprocess.Popen(
        [sys.executable, "-m", "components.extract"],
        cwd=workspace,
        env={**os.environ, "AFFECT_RAY_ADDRESS": ray_address, "AFFECT_HOME": str(workspace / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_stage_goes_on_and_ends_in_the_same_bytes(clips_folder: Path, ray_address: str) -> None:
    workspace, target = clips_folder.parent.parent, clips_folder.with_name("features")
    parameters = resolve(Choices(overrides={"features": {"clips_per_shard": 1}}))
    (target.parent / "params.yaml").write_text(to_yaml(parameters))
    extract(clips_folder, target, parameters.features)
    expected = _content(target)
    target.rename(target.with_name("expected"))

    killed = _stage(workspace, ray_address)
    partial = target.with_name("features.partial")
    deadline = time.monotonic() + 120
    while len(list(partial.rglob("*.arrow"))) < 2 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not target.exists()
    before = {path.relative_to(partial): path.stat().st_mtime_ns for path in partial.rglob("*.arrow")}
    assert len(before) >= 2

    again = _stage(workspace, ray_address)
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert '@progress {"stage": "features", "done": 25, "total": 25, "message": "24/24 clips"}' in output
    assert _content(target) == expected
    for path, time_ns in before.items():
        assert (target / path).stat().st_mtime_ns == time_ns


def test_stage_without_its_input_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "params.yaml").write_text(to_yaml(resolve(Choices())))
    stage = _stage(tmp_path, "")
    _, errors = stage.communicate(timeout=120)
    assert stage.returncode == 1
    assert errors.startswith("error: build/clips/clips.parquet is missing: run the ingest stage")
    assert errors.count("\n") == 1


def test_workers_do_not_wait_for_torch() -> None:
    code = "import sys, components.shard_plans; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
