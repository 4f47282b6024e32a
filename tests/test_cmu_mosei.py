"""CMU-MOSEI in both forms in which people have it, on small trees of the exact layout, with real little recordings."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components import media, protocols, splits
from components.clip import Clip
from components.datasets import Refusal, cmu_mosei, load
from components.datasets.cmu_mosei import folds
from components.params import Ingest
from tests.csd_files import write_csd

assert cmu_mosei.TASKS is not None
EMOTIONS, SENTIMENT = cmu_mosei.TASKS["emotions"], cmu_mosei.TASKS["sentiment"]
VIDEOS = ("-3g5yACwYnA", "0Fqav67TDEw", "zzzzz-_8Q20")
LINES = {
    VIDEOS[0]: [(2, 0.0, 1.2, "I really loved it."), (3, 1.1, 2.6, "But the end___was sad.")],
    VIDEOS[1]: [(0, 0.4, 1.9, "Nobody asked them.")],
    VIDEOS[2]: [(0, 0.0, 2.0, "That is all.")],
}


def write_folds(folder: Path, *lists: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / folds.FILE
    names = ("standard_train_fold", "standard_valid_fold", "standard_test_fold")
    text = "".join(f"{name}={list(each)!r}\n" for name, each in zip(names, lists or [[v] for v in VIDEOS], strict=True))
    path.write_text("# folds of the SDK\nopen('was-run', 'w')\n" + text)
    return path


def write_sequences(root: Path) -> Path:
    """The .csd form: labels of each segment, words with times."""
    labels = {
        VIDEOS[0]: (
            [[2.3333333, 3.0, 0, 0, 0.3333333, 0, 0], [-1.0, 0, 0.6666667, 0, 0, 0, 0]],
            [(0.0, 1.2), (1.1, 2.6)],
        ),
        VIDEOS[1]: ([[0.0, 0, 0, 0, 0, 0, 0]], [(0.4, 1.9)]),
        VIDEOS[2]: ([[-3.0, 0, 0, 2.0, 0, 1.0, 0]], [(0.0, 2.0)]),
    }
    words = {
        video: ([[b"sp"], [b"well"], [b"sp"], [b"then"]], [(0, 0.5), (0.5, 0.9), (0.9, 1.5), (1.5, 1.8)])
        for video in VIDEOS[:2]
    }
    write_csd(root / "CMU_MOSEI_Labels.csd", "All Labels", labels)
    write_csd(root / "CMU_MOSEI_TimestampedWords.csd", "words", words)
    write_folds(root)
    return root


def write_raw(root: Path) -> Path:
    """The raw form: whole videos, transcripts with times, one row an annotator."""
    raw = root / "Raw"
    frames = np.zeros((75, 48, 64, 3), np.uint8)
    sound = (np.sin(np.arange(3 * 16_000) / 20) / 3).astype(np.float32)
    for video, lines in LINES.items():
        path = raw / "Videos/Full/Combined" / f"{video}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write_mp4(path, frames, frame_rate_hz=25, waveform_T=sound)
        text = raw / "Transcript/Segmented/Combined" / f"{video}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(f"{video}___{n}___{start}___{end}___{said}\n" for n, start, end, said in lines))
    wav = raw / "Audio/Full/WAV_16000" / f"{VIDEOS[0]}.wav"
    wav.parent.mkdir(parents=True)
    media.write_wav(wav, sound)
    table = raw / "Labels" / "Batch_1_batch_results.csv"
    table.parent.mkdir()
    emotions = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    header = ["HITId", "Input.VIDEO_ID", "Input.CLIP", *(f"Answer.{name}" for name in emotions), "Answer.sentiment"]
    rows = [
        ["a", f"videos/{VIDEOS[0]}", "2", 0, 0, 0, 3, 0, 0, 3],
        ["b", f"videos/{VIDEOS[0]}", "2", 0, 0, 0, 1, 0, 1, 2],
        ["c", VIDEOS[0], "3", 0, 0, 0, 0, 2, 0, -1],
        ["d", VIDEOS[1], "0", 0, 0, 0, 0, 0, 0, ""],
        ["e", VIDEOS[1], "9", 1, 0, 0, 0, 0, 0, 1],
        ["f", VIDEOS[2], "0", 1, 1, 0, 0, 0, 0, -2],
    ]
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header, *rows])
    (raw / "Labels" / "pom_extra_sqa_mono_results.csv").write_text("HITId,Reward\n1,0.05\n")
    write_folds(root / "sdk")
    return root


def read(root: Path, task: object = EMOTIONS) -> tuple[list[Clip], list[Refusal]]:
    items = list(cmu_mosei.read(root, task))  # type: ignore[arg-type]
    return [i for i in items if isinstance(i, Clip)], [i for i in items if isinstance(i, Refusal)]


def test_computational_sequences_become_clips(tmp_path: Path) -> None:
    clips, refusals = read(write_sequences(tmp_path / "csd"))
    assert not refusals
    assert [clip.clip_id for clip in clips] == [
        f"{VIDEOS[0]}[0]",
        f"{VIDEOS[0]}[1]",
        f"{VIDEOS[1]}[0]",
        f"{VIDEOS[2]}[0]",
    ]
    first = clips[0]
    assert (first.speaker_id, first.split, first.start_s, first.end_s) == (VIDEOS[0], "train", 0.0, 1.2)
    assert first.labels == pytest.approx({"happy": 3, "sad": 0, "anger": 0, "surprise": 1 / 3, "disgust": 0, "fear": 0})
    # The pause is no word, and a word belongs where its middle is.
    assert [clip.transcript for clip in clips] == ["well", "then", "well then", ""]
    assert EMOTIONS.present(first.labels) == {"happy", "surprise"}
    assert EMOTIONS.present(clips[2].labels) == set()
    assert clips[2].labels, "no emotion at all is an annotation, too"
    assert not (Path.cwd() / "was-run").exists(), "the SDK's file is read, not run"


def test_sentiment_is_a_value_on_its_scale(tmp_path: Path) -> None:
    clips, _ = read(write_sequences(tmp_path / "csd"), SENTIMENT)
    assert [clip.labels["sentiment"] for clip in clips] == pytest.approx([7 / 3, -1, 0, -3])
    assert SENTIMENT.scale == (-3, 3)
    old = write_sequences(tmp_path / "old")
    (old / "CMU_MOSEI_Labels.csd").unlink()
    write_csd(old / "CMU_MOSEI_LabelsSentiment.csd", "Sentiment", {VIDEOS[0]: ([[1.5]], [(0.0, 1.0)])})
    clips, _ = read(old, SENTIMENT)
    assert clips[0].labels == {"sentiment": 1.5}
    _, refusals = read(old, EMOTIONS)
    assert [refusal.reason for refusal in refusals] == ["no-label"]


def test_raw_tree_becomes_clips(tmp_path: Path) -> None:
    clips, refusals = read(write_raw(tmp_path))
    assert [clip.clip_id for clip in clips] == [
        f"{VIDEOS[0]}[2]",
        f"{VIDEOS[0]}[3]",
        f"{VIDEOS[1]}[0]",
        f"{VIDEOS[2]}[0]",
    ]
    first, second, third, _ = clips
    assert (first.start_s, first.end_s, first.transcript) == (0.0, 1.2, "I really loved it.")
    assert second.transcript == "But the end___was sad."
    # Two annotators: their mean, so that what one of them saw is over 0.
    assert first.labels == {"anger": 0, "disgust": 0, "fear": 0, "happy": 2, "sad": 0, "surprise": 0.5}
    assert first.audio_uri is not None
    assert first.audio_uri.endswith("WAV_16000/-3g5yACwYnA.wav")
    assert third.audio_uri is None
    assert third.video_uri is not None
    recording = media.decode(Path(third.video_uri), sample_rate_hz=16_000, frame_rate_hz=12.5, start_s=0.4, end_s=1.9)
    assert recording.waveform_T is not None
    assert recording.frames_THW is not None
    assert recording.duration_s == pytest.approx(1.5, abs=0.05)
    assert {refusal.reason for refusal in refusals} == {"no-labels", "no-timing"}


def test_unanswered_sentiment_is_no_zero(tmp_path: Path) -> None:
    clips, refusals = read(write_raw(tmp_path), SENTIMENT)
    assert {clip.clip_id: clip.labels["sentiment"] for clip in clips} == {
        f"{VIDEOS[0]}[2]": 2.5,
        f"{VIDEOS[0]}[3]": -1.0,
        f"{VIDEOS[2]}[0]": -2.0,
    }
    assert (f"{VIDEOS[1]}[0]", "no-label") in [(refusal.uri, refusal.reason) for refusal in refusals]


def test_sequences_and_raw_tree_together(tmp_path: Path) -> None:
    """Labels and words of both: the sequence labels, and the transcript's line with its punctuation."""
    write_raw(tmp_path)
    write_sequences(tmp_path / "csd")
    (tmp_path / "Raw/Videos/Full/Combined" / f"{VIDEOS[2]}.mp4").unlink()
    clips, refusals = read(tmp_path)
    assert [clip.transcript for clip in clips] == ["I really loved it.", "But the end___was sad.", "Nobody asked them."]
    assert all(clip.video_uri for clip in clips)
    assert [(refusal.uri, refusal.reason) for refusal in refusals] == [(f"{VIDEOS[2]}[0]", "no-recording")]


def test_official_folds_by_video_id_and_no_video_in_two(tmp_path: Path) -> None:
    root = write_sequences(tmp_path)
    clips, _ = read(root)
    split_of = splits.divide(clips, Ingest(), task=EMOTIONS, protocol=None, seed=0)
    assert split_of == {VIDEOS[0]: "train", VIDEOS[1]: "validation", VIDEOS[2]: "test"}
    write_folds(root, VIDEOS[:2], VIDEOS[1:2], VIDEOS[2:])
    with pytest.raises(ValueError, match=rf"video {VIDEOS[1]} is in train and in validation"):
        read(root)
    write_folds(root, VIDEOS[:1], ["other"], VIDEOS[2:])
    assert [refusal.reason for refusal in read(root)[1]] == ["no-fold"]
    assert load("cmu_mosei").PROTOCOLS == {}
    assert protocols.by_speaker(3, validation_share=0.2).num_folds == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("standard_train_fold = ['a'", "is no Python file"),
        ("standard_train_fold = ['a']\n", "has no list standard_valid_fold"),
        ("standard_train_fold = [v for v in ()]\n", "standard_train_fold is no list of video ids"),
        ("standard_train_fold = []\n", "standard_train_fold is no list of video ids"),
    ],
)
def test_folds_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_sequences(tmp_path)
    (tmp_path / folds.FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_missing_folds_say_where_they_are_got_and_are_not_needed_without_labels(tmp_path: Path) -> None:
    write_sequences(tmp_path)
    (tmp_path / folds.FILE).unlink()
    with pytest.raises(ValueError, match=r"official folds .* mmsdk/mmdatasdk/dataset/standard_datasets/CMU_MOSEI/"):
        read(tmp_path)
    clips, _ = read(tmp_path, None)
    assert len(clips) == 4
    assert not any(clip.labels or clip.split for clip in clips)


def test_missing_release_and_pickles_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*multicomp"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither CMU_MOSEI_Labels\.csd nor Raw/Labels"):
        read(tmp_path)
    (tmp_path / "aligned_50.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"aligned_50\.pkl is a pickle, which can run code"):
        read(tmp_path)


def test_damaged_sequences_are_refused_by_name(tmp_path: Path) -> None:
    labels = write_sequences(tmp_path) / "CMU_MOSEI_Labels.csd"
    content = labels.read_bytes()
    labels.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"CMU_MOSEI_Labels\.csd was cut off .* download or copy it again"):
        read(tmp_path)
    labels.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ValueError, match=r"CMU_MOSEI_Labels\.csd is a git-lfs pointer"):
        read(tmp_path)
    labels.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="is no readable HDF5 file"):
        read(tmp_path)
    write_csd(labels, "All Labels", {VIDEOS[0]: ([[0.0] * 7, [1.0] * 7], [(0.0, 1.0)])})
    with pytest.raises(ValueError, match="2 rows of features and 1 intervals"):
        read(tmp_path)
    write_csd(labels, "All Labels", {VIDEOS[0]: ([[0.0] * 5], [(0.0, 1.0)])})
    with pytest.raises(ValueError, match="has 5 labels a segment"):
        read(tmp_path)


def test_labels_and_spans_that_cannot_be_are_refused(tmp_path: Path) -> None:
    root = write_sequences(tmp_path)
    good = [0.5] * 7
    rows = [good, [float("nan"), *good[1:]], [0.0, 4.0, *good[2:]], good, good]
    spans = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 3.0), (float("-inf"), 2.0)]
    write_csd(root / "CMU_MOSEI_Labels.csd", "All Labels", {VIDEOS[0]: (rows, spans)})
    clips, refusals = read(root)
    assert [clip.clip_id for clip in clips] == [f"{VIDEOS[0]}[0]"]
    assert [refusal.reason for refusal in refusals] == ["bad-label", "bad-label", "bad-span", "bad-span"]


def test_transcript_line_that_is_none_is_told(tmp_path: Path) -> None:
    root = write_raw(tmp_path)
    path = root / "Raw/Transcript/Segmented/Combined" / f"{VIDEOS[1]}.txt"
    path.write_text(f"{VIDEOS[1]}___0___0.4___Nobody\n")
    with pytest.raises(ValueError, match=r"0Fqav67TDEw\.txt: line 1 is not VIDEO___CLIP___START___END___TEXT"):
        read(root)
