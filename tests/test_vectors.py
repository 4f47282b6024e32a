"""A table of utterances with vectors beside it, row for row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.clip import Clip
from components.datasets import vectors
from components.features import precomputed
from components.params import Features, parse
from tests.conftest import SHARED_DATA

ROWS = ["v_1_0,KIDS LOVE IT,1", "v_1_1,,0", "w-2_0,I DID NOT,"]


def write(folder: Path, *rows: str, header: str = "utterance_id,transcript,label") -> Path:
    table = folder / "train.csv"
    table.write_text("\n".join([header, *rows]) + "\n")
    np.savez(folder / "train.npz", audio=np.arange(len(rows) * 2.0).reshape(-1, 2), video=np.ones((len(rows), 3)))
    return table


def read(root: Path) -> list[Clip]:
    return [item for item in vectors.read(root, None) if isinstance(item, Clip)]


def test_speaker_is_the_name_up_to_its_last_underscore(tmp_path: Path) -> None:
    table = write(tmp_path, *ROWS)
    assert read(tmp_path) == read(table)
    first, silent, unlabelled = read(table)
    assert first == Clip("v_1_0", "v_1", transcript="KIDS LOVE IT", labels={"1": 1.0})
    assert (silent.transcript, silent.labels) == ("", {"0": 1.0})
    assert (unlabelled.speaker_id, unlabelled.labels) == ("w-2", {})


def test_vectors_are_joined_row_for_row(tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    made = {"path": str(tmp_path / "train.npz"), "width": 2, "array": "audio"}
    config = parse(Features, {"audio": {"kind": "precomputed", "precomputed": made}}, source="test")
    found = [precomputed.read(clip, config).audio_TF for clip in read(tmp_path)]
    np.testing.assert_array_equal(
        np.concatenate([each for each in found if each is not None]), [[0, 1], [2, 3], [4, 5]]
    )


def test_columns_of_ones_own(tmp_path: Path) -> None:
    table = write(tmp_path, "a,ann,happy,test", "b,ben,sad,train", header="clip_id,speaker_id,labels,split")
    assert [(clip.speaker_id, clip.split, clip.labels) for clip in read(table)] == [
        ("ann", "test", {"happy": 1.0}),
        ("ben", "train", {"sad": 1.0}),
    ]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["a_1,x,1", "a_1,y,0"], "utterance_id,transcript,label", "row 3: 'a_1' is already in row 2"),
        (["a,x,1"], "utterance_id,transcript,label", "names no speaker before a last _"),
        (["a_1,x,1"], "utterance_id,transcript,mood", "no column labels or label"),
        (["a_1,x,1"], "utterance_id,split,label", "split 'x' is none of train"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, *rows, header=header))


def test_vectors_that_do_not_belong_to_the_table_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path, *ROWS)
    table.write_text(table.read_text() + "x_1,more,0\n")
    made = {"path": str(tmp_path / "train.npz"), "width": 2, "array": "audio"}
    config = parse(Features, {"audio": {"kind": "precomputed", "precomputed": made}}, source="test")
    with pytest.raises(ValueError, match="4 names for an array of shape"):
        precomputed.check(config)
    (tmp_path / "train.npz").unlink()
    with pytest.raises(ValueError, match=r"train\.npz is missing"):
        read(table)
    with pytest.raises(ValueError, match="has 0 tables with vectors beside them"):
        read(tmp_path)


@pytest.mark.skipif(not (SHARED_DATA / "mosi_features").is_dir(), reason="the shared features are not here")
def test_real_utterances() -> None:
    clips = read(SHARED_DATA / "mosi_features")
    assert len(clips) == 1447
    assert len({clip.speaker_id for clip in clips}) == 62
    assert {name for clip in clips for name in clip.labels} == {"0", "1"}
    path = str(SHARED_DATA / "mosi_features/train.npz")
    config = parse(
        Features,
        {
            "audio": {"kind": "precomputed", "precomputed": {"path": path, "width": 73, "array": "audio"}},
            "video": {"kind": "precomputed", "precomputed": {"path": path, "width": 100, "array": "video"}},
        },
        source="test",
    )
    with np.load(path) as arrays:
        np.testing.assert_array_equal([int(next(iter(clip.labels))) for clip in clips], arrays["label"])
        for number in (0, 700, 1446):
            found = precomputed.read(clips[number], config)
            np.testing.assert_array_equal(found.audio_TF, arrays["audio"][number : number + 1].astype(np.float16))
            np.testing.assert_array_equal(found.video_TF, arrays["video"][number : number + 1].astype(np.float16))
