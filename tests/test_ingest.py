"""The ingest stage on real little corpora: what it keeps, what it rejects, and who is held out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from components import clip_table, datasets, ingest, media, params, splits, task
from components.clip import SPLITS, Clip
from components.inspection import Bounds
from components.survey import Candidate, Outcome, Rejection, carry_out, survey
from tests.conftest import REPOSITORY, SHARED_DATA

pytestmark = pytest.mark.usefixtures("ray_address")

SMALL = {"synthetic": {"num_speakers": 6, "num_labelled": 36, "num_unlabelled": 12}}
EMOTIONS = ("happy", "sad")
TASK = task.Task("classes", EMOTIONS)


def resolved(
    dataset: str = "synthetic",
    root: Path | None = None,
    *,
    asked: str | None = None,
    pretrain_on: params.Corpus | None = None,
    seed: int = 0,
    **overrides: object,
) -> params.Params:
    corpus = params.Corpus(dataset=dataset, root=None if root is None else str(root), task=asked)
    choices = params.Choices(finetune_on=corpus, pretrain_on=pretrain_on, seed=seed, overrides={**SMALL, **overrides})
    return params.resolve(choices)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def beep(path: Path, duration_s: float = 0.5, *, frequency_hz: float = 300.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_T = np.arange(round(16_000 * duration_s)) / 16_000
    media.write_wav(path, (0.3 * np.sin(2 * np.pi * frequency_hz * time_T)).astype(np.float32))


def make_table(folder: Path, rows: list[str], header: str = "speaker_id,audio_uri,transcript,labels") -> Path:
    path = folder / "my.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def make_corpus(folder: Path, *, num_speakers: int = 4) -> list[str]:
    """Rows of a sound corpus: each speaker once happy, once sad."""
    rows = []
    for speaker in range(num_speakers):
        for emotion in EMOTIONS:
            name = f"s{speaker}-{emotion}.wav"
            beep(folder / name, frequency_hz=200 + 50 * speaker + 10 * len(emotion))
            rows.append(f"s{speaker},{name},some words,{emotion}")
    return rows


@pytest.fixture(scope="module")
def generated(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert ray_address
    folder = tmp_path_factory.mktemp("first") / "clips"
    ingest.ingest(resolved(), folder)
    return folder


def test_generated_corpus_is_whole(generated: Path) -> None:
    table = clip_table.read_clips(generated)
    rows = table.to_pylist()
    assert [row["clip_id"] for row in rows] == sorted(row["clip_id"] for row in rows)
    assert len(rows) == 48
    summary = json.loads((generated / "summary.json").read_text())
    assert summary["num_clips"] == dict(Counter(row["split"] for row in rows))
    assert summary["num_rejected"] == summary["num_unlabelled_held_back"] == 0
    assert json.loads((generated / "labels.json").read_text())[:2] == ["neutral", "happy"]
    assert task.read(generated) == datasets.task_of(params.Corpus())
    assert summary["protocol"] is None
    for row in rows:
        clip = clip_table.to_clip(row)
        assert clip.video_uri is not None
        content = Path(clip.video_uri).read_bytes()
        assert row["md5"] == hashlib.md5(content).hexdigest()
        assert row["num_bytes"] == len(content)
        assert (clip.split == "unlabelled") == (not clip.labels)
    assert pyarrow.parquet.read_table(generated / "rejected.parquet").num_rows == 0


def test_no_speaker_is_in_two_splits(generated: Path) -> None:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for row in clip_table.read_clips(generated).to_pylist():
        splits_of[row["speaker_id"]].add(row["split"])
    assert len(splits_of) == 6
    assert all(len(found - {"unlabelled"}) == 1 for found in splits_of.values())
    assert all("unlabelled" not in found for found in splits_of.values() if found & {"validation", "test"})


def test_second_run_gives_the_same_bytes(generated: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "clips"
    ingest.ingest(resolved(), again)
    assert digests(again) == digests(generated)
    assert sorted(path.name for path in again.parent.iterdir()) == ["clips"]


def test_table_with_broken_files_of_every_kind(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path, num_speakers=12)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"no recording at all" * 10)
    (tmp_path / "stub.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "s0-sad.wav").read_bytes()[:6_000])
    (tmp_path / "copy.wav").write_bytes((tmp_path / "s0-sad.wav").read_bytes())
    beep(tmp_path / "short.wav", 0.1)
    beep(tmp_path / "long.wav", 9.0)
    broken = {
        "empty": "empty",
        "text": "not-media",
        "stub": "git-lfs-stub",
        "cut": "truncated",
        "short": "too-short",
        "long": "too-long",
        "gone": "missing",
    }
    rows += [f"s0,{name}.wav,,sad" for name in broken] + ["s0,copy.wav,,sad", "s1,,nul \0 byte,sad"]
    root = make_table(tmp_path, rows)
    limits = {"max_duration_s": 5.0, "max_rejected_share": 0.5}
    ingest.ingest(resolved("table", root, ingest=limits), tmp_path / "clips")
    rejected = pyarrow.parquet.read_table(tmp_path / "clips/rejected.parquet").to_pylist()
    assert {row["clip_id"]: row["reason"] for row in rejected if row["uri"]} == broken
    assert [row["reason"] for row in rejected if not row["uri"]] == ["transcript-nul"]
    assert all(row["detail"] and "\n" not in row["detail"] for row in rejected)
    summary = json.loads((tmp_path / "clips/summary.json").read_text())
    assert summary["num_rejected"] == 8
    assert summary["num_duplicate_files"] == 1
    assert json.loads((tmp_path / "clips/labels.json").read_text()) == ["happy", "sad"]
    assert not (tmp_path / "clips/media").exists()


def test_too_many_broken_files_end_the_stage_and_leave_the_list(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    root = make_table(tmp_path, rows + [f"s0,{name}.wav,,sad" for name in "abc"] + ["s0,d.wav,,sad"])
    with pytest.raises(ValueError, match=r"4 of 12 clips cannot be used.* most often empty \(3.*rejected\.parquet"):
        ingest.ingest(resolved("table", root), tmp_path / "build/clips")
    # What was whole need not be looked at again when the rest is mended.
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == ["clips.inspected", "rejected.parquet"]
    assert pyarrow.parquet.read_table(tmp_path / "build/rejected.parquet").num_rows == 4
    ingest.ingest(resolved("table", root, ingest={"max_rejected_share": 0.4}), tmp_path / "build/clips")
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == ["clips"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([f"s{i},,words {i},happy" for i in range(5)], "every labelled clip is 'happy'"),
        ([f"ann,,words {i},{e}" for i, e in enumerate(EMOTIONS)], "only 1 speaker has labelled clips (ann)"),
        ([f"{'ab'[i]},,words {i},{e}" for i, e in enumerate(EMOTIONS)], "only 2 speakers have labelled clips (a, b)"),
        ([f"s{i},,words {i}," for i in range(5)], "no usable clip has a label"),
        ([f"s{i},none-{i}.wav,,sad" for i in range(5)], "5 of 5 clips cannot be used"),
    ],
)
def test_corpora_that_cannot_be_used(tmp_path: Path, rows: list[str], message: str) -> None:
    root = make_table(tmp_path, rows)
    with pytest.raises(ValueError, match=r".") as caught:
        ingest.ingest(resolved("table", root, ingest={"max_rejected_share": 1.0}), tmp_path / "build/clips")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "build/clips").exists()


def test_words_alone_are_a_corpus(tmp_path: Path) -> None:
    rows = [f"s{i},,words {i},{e}" for i in range(4) for e in EMOTIONS]
    path = make_table(tmp_path, [f"{row},c{number}" for number, row in enumerate(rows)], _WITH_ID)
    ingest.ingest(resolved("table", path), tmp_path / "clips")
    rows_read = clip_table.read_clips(tmp_path / "clips").to_pylist()
    assert {row["md5"] for row in rows_read} == {""}
    assert {row["duration_s"] for row in rows_read} == {0.0}


_WITH_ID = "speaker_id,audio_uri,transcript,labels,clip_id"


def test_video_without_named_sound_uses_its_own(generated: Path, tmp_path: Path) -> None:
    files = sorted((generated / "media").glob("*.mp4"))[:6]
    rows = [f"s{number % 3},{path},{EMOTIONS[number // 3]}" for number, path in enumerate(files)]
    root = make_table(tmp_path, rows, "speaker_id,video_uri,labels")
    ingest.ingest(resolved("table", root), tmp_path / "clips")
    rows_read = clip_table.read_clips(tmp_path / "clips").to_pylist()
    assert all(row["audio_uri"] == row["video_uri"] for row in rows_read)


def test_pretraining_never_sees_a_held_out_speaker_or_file(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    root = make_table(tmp_path, rows)
    other = tmp_path / "other"
    other.mkdir()
    # The same speakers in another table, and every file of the first under a stranger's name.
    again = [row.replace(",s", ",../s").replace(",some words,", ",,") for row in rows]
    strangers = [f"x{number},../{row.split(',')[1]},copy,{row[-3:]}" for number, row in enumerate(rows)]
    ids = [f"{row},c{number}" for number, row in enumerate(again + strangers)]
    extra = params.Corpus(dataset="table", root=str(make_table(other, ids, _WITH_ID)))
    ingest.ingest(resolved("table", root, pretrain_on=extra), tmp_path / "clips")
    clips = clip_table.read_clips(tmp_path / "clips").to_pylist()
    held_out = {row["speaker_id"] for row in clips if row["split"] in ("validation", "test")}
    held_out_files = {row["md5"] for row in clips if row["speaker_id"] in held_out}
    unlabelled = [row for row in clips if row["split"] == "unlabelled"]
    assert len(held_out) == 2
    assert len(unlabelled) == 8
    assert all(row["clip_id"].startswith("pretrain-") and not row["labels"] for row in unlabelled)
    assert not {row["speaker_id"] for row in unlabelled} & held_out
    assert not {row["md5"] for row in unlabelled} & held_out_files
    summary = json.loads((tmp_path / "clips/summary.json").read_text())
    assert summary["num_unlabelled_held_back"] == 8


def test_settings_that_contradict_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs root"):
        ingest.ingest(resolved("ravdess"), tmp_path / "clips")
    with pytest.raises(ValueError, match="leave root empty"):
        ingest.ingest(resolved("synthetic", tmp_path), tmp_path / "clips")
    with pytest.raises(ValueError, match="leave pretrain_on empty"):
        ingest.ingest(resolved(pretrain_on=params.Corpus()), tmp_path / "clips")
    with pytest.raises(ValueError, match="Zenodo record 1188976"):
        ingest.ingest(resolved("ravdess", tmp_path / "nowhere"), tmp_path / "clips")
    with pytest.raises(ValueError, match="ravdess has no task 'emotions'; did you mean emotion"):
        ingest.ingest(resolved("ravdess", tmp_path, asked="emotions"), tmp_path / "clips")
    with pytest.raises(ValueError, match="its data name their labels, leave task empty"):
        ingest.ingest(resolved("table", tmp_path / "my.csv", asked="emotion"), tmp_path / "clips")
    with pytest.raises(ValueError, match="ravdess has no protocol 'actor'; did you mean actors"):
        ingest.ingest(resolved("ravdess", tmp_path, ingest={"protocol": "actor"}), tmp_path / "clips")
    extra = params.Corpus(dataset="ravdess", root=str(tmp_path), task="emotion")
    with pytest.raises(ValueError, match="pre-training uses no labels, leave it empty"):
        ingest.ingest(resolved(pretrain_on=extra), tmp_path / "clips")
    with pytest.raises(FileNotFoundError, match="run the ingest stage"):
        clip_table.read_clips(tmp_path / "clips")
    assert not list(tmp_path.iterdir())


def _crash_on_second(candidate: Candidate) -> Outcome:
    if candidate.clip_id == "c1":
        os.kill(os.getpid(), signal.SIGKILL)
    return carry_out(candidate)


def test_file_that_kills_its_process_costs_one_clip() -> None:
    bounds = Bounds(0.3, 60.0, None)
    candidates = [
        Candidate("table", False, bounds, "", clip=Clip(f"c{number}", "ann", transcript="words")) for number in range(4)
    ]
    outcomes = {candidate.clip_id: outcome for candidate, outcome in survey(candidates, _crash_on_second)}
    crashed = outcomes.pop("c1")
    assert isinstance(crashed, Rejection)
    assert crashed.reason == "decoder-crashed"
    assert sorted(outcomes) == ["c0", "c2", "c3"]
    assert not any(isinstance(outcome, Rejection) for outcome in outcomes.values())


def make_crema_d(root: Path, actors: Sequence[int]) -> None:
    """Three clips an actor; the crowd agrees with what was acted, but hears a joy where fear was acted."""
    rows = ['"","A","D","F","H","N","S","fileName"']
    for actor in actors:
        for emotion, votes in (("ANG", "9,1,0,0,0,0"), ("FEA", "0,0,4,6,0,0"), ("NEU", "0,0,0,0,0,0")):
            name = f"{actor}_IEO_{emotion}_XX"
            beep(root / "AudioWAV" / f"{name}.wav", frequency_hz=100 + actor % 100 + ord(emotion[0]))
            rows.append(f'"{300_000 + len(rows)}",{votes},"{name}"')
    (root / "processedResults").mkdir()
    (root / "processedResults/tabulatedVotes.csv").write_text("\n".join(rows) + "\n")


def test_fold_of_a_published_protocol_with_soft_labels(tmp_path: Path) -> None:
    make_crema_d(tmp_path / "crema", (1001, 1018, 1019, 1040, 1060, 1091))
    chosen = resolved("crema_d", tmp_path / "crema", asked="crowd", ingest={"protocol": "actors", "fold": 4})
    ingest.ingest(chosen, tmp_path / "clips")
    rows = clip_table.read_clips(tmp_path / "clips").to_pylist()
    speakers = {split: {row["speaker_id"] for row in rows if row["split"] == split} for split in SPLITS}
    # The last fold tests, the first one validates; what nobody voted on may be seen of training actors only.
    training = {"1019", "1040", "1060"}
    expected = {"train": training, "validation": {"1001", "1018"}, "test": {"1091"}, "unlabelled": training}
    assert speakers == expected
    assert {tuple(row["labels"]) for row in rows if row["split"] == "test"} == {
        (("anger", 0.9), ("disgust", 0.1)),
        (("fear", 0.4), ("happy", 0.6)),
    }
    asked = task.read(tmp_path / "clips")
    assert (asked.kind, asked.name, asked.labels[0]) == ("classes", "crowd", "anger")
    assert asked.source == "shares of the crowd's votes on voice and face together"
    summary = json.loads((tmp_path / "clips/summary.json").read_text())
    assert (summary["task"], summary["protocol"], summary["fold"]) == ("crowd", "actors", 4)
    assert summary["num_unlabelled_held_back"] == 3


def test_folds_by_speaker_cover_a_corpus_without_protocol(tmp_path: Path) -> None:
    root = make_table(tmp_path, make_corpus(tmp_path, num_speakers=6))
    tested: Counter[str] = Counter()
    for fold in range(3):
        ingest.ingest(resolved("table", root, ingest={"num_folds": 3, "fold": fold}), tmp_path / "clips")
        rows = clip_table.read_clips(tmp_path / "clips").to_pylist()
        of_split = {split: {row["speaker_id"] for row in rows if row["split"] == split} for split in SPLITS}
        assert of_split["test"] | of_split["validation"] | of_split["train"] == {f"s{number}" for number in range(6)}
        assert sum(len(found) for found in of_split.values()) == 6
        assert of_split["validation"]
        tested.update(of_split["test"])
    assert tested == Counter(f"s{number}" for number in range(6))
    with pytest.raises(ValueError, match=r"ingest\.fold = 3: 3 folds by speaker has 3 folds, 0 to 2"):
        ingest.ingest(resolved("table", root, ingest={"num_folds": 3, "fold": 3}), tmp_path / "clips")


def test_corpus_of_nothing_but_refused_files_says_why(tmp_path: Path) -> None:
    (tmp_path / "AudioWAV").mkdir()
    stub = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "AudioWAV/1001_IEO_ANG_XX.wav").write_bytes(stub)
    with pytest.raises(ValueError, match=r"no usable clips: 1 files refused, such as .*ANG_XX\.wav: a git-lfs pointer"):
        ingest.ingest(resolved("crema_d", tmp_path), tmp_path / "clips")


def many_clips(num_speakers: int, *, split: bool = False) -> list[Clip]:
    named = ("train", "train", "validation", "test")
    return [
        Clip(
            f"{speaker}-{label}",
            f"s{speaker:02d}",
            transcript="",
            labels={label: 1.0},
            split=named[speaker % 4] if split else None,  # type: ignore[arg-type]  # one of the four
        )
        for speaker in range(num_speakers)
        for label in EMOTIONS
    ]


def test_splits_are_seeded_sized_and_class_complete() -> None:
    clips = many_clips(24)
    # One class has few speakers: a careless draw would leave a split without it.
    clips = [clip for clip in clips if "sad" not in clip.labels or clip.speaker_id in ("s03", "s11", "s17", "s20")]
    division = splits.divide(clips, params.Ingest(), task=TASK, seed=0)
    assert division == splits.divide(clips, params.Ingest(), task=TASK, seed=0)
    assert (
        len({tuple(sorted(splits.divide(clips, params.Ingest(), task=TASK, seed=seed).items())) for seed in range(5)})
        > 1
    )
    assert Counter(division.values()) == {"train": 14, "validation": 4, "test": 6}
    for split in ("train", "validation", "test"):
        assert {"happy", "sad"} == {name for c in clips if division[c.speaker_id] == split for name in c.labels}


def test_speakers_without_unlabelled_clips_are_held_out_first() -> None:
    clips = many_clips(10)
    talkative = {"s00", "s01", "s02", "s03", "s04", "s05"}
    clips += [Clip(f"{name}-free", name, transcript="") for name in sorted(talkative)]
    for seed in range(5):
        division = splits.divide(clips, params.Ingest(), task=TASK, seed=seed)
        assert {name for name, split in division.items() if split != "train"} <= {"s06", "s07", "s08", "s09"}


def test_named_test_speakers_and_own_splits() -> None:
    clips = many_clips(8)
    division = splits.divide(clips, params.Ingest(test_speakers=["s02", "s05"]), task=TASK, seed=0)
    assert {name for name, split in division.items() if split == "test"} == {"s02", "s05"}
    with pytest.raises(ValueError, match="did you mean s0"):
        splits.divide(clips, params.Ingest(test_speakers=["s2"]), task=TASK, seed=0)
    own = splits.divide(many_clips(8, split=True), params.Ingest(), task=TASK, seed=0)
    assert [own[f"s{number:02d}"] for number in range(4)] == ["train", "train", "validation", "test"]
    with pytest.raises(ValueError, match="leave one of the two out"):
        splits.divide(many_clips(8, split=True), params.Ingest(test_speakers=["s02"]), task=TASK, seed=0)
    mixed = [replace(clip, split="test") if clip.clip_id == "0-sad" else clip for clip in many_clips(8, split=True)]
    with pytest.raises(ValueError, match="speaker s00 is in test and train"):
        splits.divide(mixed, params.Ingest(), task=TASK, seed=0)
    without = [replace(clip, split="train" if clip.split == "validation" else clip.split) for clip in mixed[2:]]
    assert Counter(splits.divide(without, params.Ingest(), task=TASK, seed=0).values())["validation"] == 1
    with pytest.raises(ValueError, match="take too many"):
        splits.divide(many_clips(3), params.Ingest(test_speakers=["s00", "s01"]), task=TASK, seed=0)


@pytest.mark.skipif(not (SHARED_DATA / "ravdess").is_dir(), reason="the shared recordings are not here")
def test_real_speech(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    for actor in ("Actor_01", "Actor_02", "Actor_07"):
        (root / actor).mkdir(parents=True)
        for path in sorted((SHARED_DATA / "ravdess" / actor).glob("*-07.wav" if actor == "Actor_07" else "*-01-01-0*")):
            (root / actor / path.name).symlink_to(path)
    ingest.ingest(resolved("ravdess", root), tmp_path / "clips")
    summary = json.loads((tmp_path / "clips/summary.json").read_text())
    assert summary["num_rejected"] == 0
    # The release has one pair of equal files, in Actor_07.
    assert summary["num_duplicate_files"] == 1
    assert summary["num_speakers"] == {"train": 1, "validation": 1, "test": 1, "unlabelled": 0}


def test_a_corpus_that_has_grown_is_not_decoded_again(tmp_path: Path, ray_address: str) -> None:
    """As a nightly run sees it: the recordings of yesterday could not even be decoded any more."""
    rows = make_corpus(tmp_path)
    before = _ingested(tmp_path, rows, "yesterday", ray_address)
    for path in tmp_path.glob("*.wav"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    beep(tmp_path / "new.wav", 0.7)
    after = _ingested(tmp_path, [*rows, "s0,new.wav,,sad"], "today", ray_address)
    assert {row["clip_id"] for row in after} == {row["clip_id"] for row in before} | {"new"}
    assert {row["md5"] for row in before} < {row["md5"] for row in after}


def _ingested(folder: Path, rows: list[str], name: str, ray_address: str) -> list[dict[str, Any]]:
    """The clips that the stage finds, as a process of its own in a folder of this name."""
    workspace = folder / name
    (workspace / "build").mkdir(parents=True)
    (workspace / "build/params.yaml").write_text(params.to_yaml(resolved("table", make_table(folder, rows))))
    environment = {**os.environ, "AFFECT_HOME": str(folder / "home"), "AFFECT_SHARE_INSPECTIONS": "true"}
    environment |= {"AFFECT_RAY_ADDRESS": ray_address, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "components.ingest"]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = clip_table.read_clips(workspace / "build/clips").to_pylist()
    return found
