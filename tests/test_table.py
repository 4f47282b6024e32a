"""One's own table of recordings: what is read, and one line for each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.clip import Clip
from components.datasets import table


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "my.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def clips(path: Path) -> list[Clip]:
    found = list(table.read(path, None))
    assert all(isinstance(item, Clip) for item in found)
    return [item for item in found if isinstance(item, Clip)]


def test_few_columns_are_enough(tmp_path: Path) -> None:
    path = write(tmp_path, "speaker_id,audio_uri,labels\nann,a/one.wav,happy\nben,/data/two.wav,happy=0.7;sad=0.3\n")
    first, second = clips(path)
    assert first == Clip("one", "ann", audio_uri=str(tmp_path / "a/one.wav"), labels={"happy": 1.0})
    assert second.audio_uri == "/data/two.wav"
    assert second.labels == {"happy": 0.7, "sad": 0.3}


def test_every_column_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "\ufeffclip_id,speaker_id,session_id,split,audio_uri,video_uri,start_s,end_s,transcript,speaker_sex,speaker_age,labels\n"
        'x,ann,s1,test,s3://bucket/a.wav,b.mp4,0.5,2,"well, ""hello"" there",female,34,sad\n'
        "\n"
        "y,ben,,,,,,,only words,,,\n",
    )
    first, second = clips(path)
    assert first == Clip(
        clip_id="x",
        speaker_id="ann",
        session_id="s1",
        split="test",
        audio_uri="s3://bucket/a.wav",
        video_uri=str(tmp_path / "b.mp4"),
        start_s=0.5,
        end_s=2.0,
        transcript='well, "hello" there',
        speaker_sex="female",
        speaker_age=34,
        labels={"sad": 1.0},
    )
    assert second == Clip("y", "ben", transcript="only words")


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    rows = pyarrow.table(
        {
            "speaker_id": ["ann", "ben"],
            "video_uri": ["v/one.mp4", None],
            "transcript": [None, "words"],
            "start_s": [1.5, None],
            "labels": pyarrow.array([[("happy", 1.0)], []], type=pyarrow.map_(pyarrow.string(), pyarrow.float64())),
        }
    )
    path = tmp_path / "rows"
    pyarrow.parquet.write_table(rows, path)
    first, second = clips(path)
    assert first == Clip("one", "ann", video_uri=str(tmp_path / "v/one.mp4"), start_s=1.5, labels={"happy": 1.0})
    assert second.labels == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "column speaker_id is missing"),
        ("speaker_id,labels\n", "no column says what was recorded"),
        ("speaker_id,audio_uri,labels\n", "no rows"),
        ("speaker_id,audio_url,labels\n", "unknown column 'audio_url'; did you mean audio_uri"),
        ("speaker_id,audio_uri\na,b.wav\n", "column labels is missing"),
        ("speaker_id,speaker_id,audio_uri,labels\n", "speaker_id is there twice"),
        ("speaker_id,audio_uri,labels\na,b.wav\n", "row 2: 2 cells, header 3"),
        ("speaker_id,audio_uri,labels\n,b.wav,sad\n", "row 2, column speaker_id: empty"),
        (
            "speaker_id,audio_uri,labels\na,x/b.wav,sad\nc,y/b.wav,sad\n",
            "row 3, column clip_id: 'b' is already in row 2",
        ),
        ("speaker_id,audio_uri,labels\na,,sad\n", "row 2: clip row-000002: no audio_uri"),
        ("speaker_id,audio_uri,labels,start_s\na,b.wav,sad,soon\n", "row 2, column start_s: 'soon'"),
        ("speaker_id,audio_uri,labels,start_s,end_s\na,b.wav,sad,3,2\n", "row 2: clip b: end_s 2.0 is not after"),
        ("speaker_id,audio_uri,labels,speaker_age\na,b.wav,sad,old\n", "row 2, column speaker_age: 'old' is no number"),
        ("speaker_id,audio_uri,labels,speaker_age\na,b.wav,sad,230\n", "row 2: clip b: speaker_age 230.0 is no age"),
        ("speaker_id,audio_uri,labels,split\na,b.wav,sad,dev\n", "row 2, column split: 'dev' is none of train"),
        ("speaker_id,audio_uri,labels\na,b.wav,sad=much\n", "row 2, column labels: 'much' is no number"),
        ("speaker_id,audio_uri,labels\na,b.wav,sad=0\n", "row 2, column labels: 'sad=0' has no share above zero"),
        ("speaker_id,audio_uri,labels\na,b.wav,sad=inf\n", "row 2: clip b: label 'sad' has no finite value"),
        (b"speaker_id,audio_uri,labels\nann\xe9,b.wav,sad\n", "row 2: not UTF-8"),
        ('speaker_id,audio_uri,labels\na,"b.wav,sad\n', "row 2: no valid CSV"),
        (b"PAR1 and then nothing", "no readable Parquet"),
    ],
)
def test_mistakes_name_row_and_column(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=r".") as caught:
        list(table.read(path, None))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        list(table.read(tmp_path / "none.csv", None))


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: f"speaker_id,audio_uri,labels\n{text}"))
)
def test_any_content_is_clips_or_a_value_error(tmp_path: Path, content: str | bytes) -> None:
    try:
        path = write(tmp_path, content)
    except UnicodeEncodeError:
        return
    try:
        assert clips(path)
    except ValueError as error:
        message = str(error)
        if "\n" in message or "\r" in message:
            pytest.fail(f"more than one line: {message!r}")
