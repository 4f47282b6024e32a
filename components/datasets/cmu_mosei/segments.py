"""The labelled stretches of the videos, from the computational sequence of labels or from the annotators' tables."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.datasets import Refusal, _csd
from components.datasets._release import is_lfs_stub, lfs_refusal
from components.datasets.cmu_mosei.release import Release
from components.datasets.cmu_mosei.transcripts import Line, read_lines

EMOTIONS: Final = ("happy", "sad", "anger", "surprise", "disgust", "fear")
SENTIMENT: Final = "sentiment"
# Columns of the labels' sequence; older copies hold the sentiment alone.
_COLUMNS: Final = (SENTIMENT, *EMOTIONS)
_ANSWERS: Final[Mapping[str, str]] = {
    "Answer.sentiment": SENTIMENT,
    "Answer.happiness": "happy",
    "Answer.sadness": "sad",
    "Answer.anger": "anger",
    "Answer.surprise": "surprise",
    "Answer.disgust": "disgust",
    "Answer.fear": "fear",
}
_VIDEO, _CLIP = "Input.VIDEO_ID", "Input.CLIP"


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with its annotations; what was not annotated is not among `values`.

    Attributes:
        number: row of the labels' sequence, or the clip's number in the raw tree.
    """

    video_id: str
    number: int
    start_s: float
    end_s: float
    values: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.video_id}[{self.number}]"


def read(release: Release) -> Iterator[Segment | Refusal]:
    """The segments of a release, video by video, from the sequence of labels where there is one.

    Raises:
        ValueError: a file is damaged.
    """
    if release.labels is not None:
        yield from _of_sequence(release.labels)
    else:
        yield from _of_tables(release)


def _of_sequence(path: Path) -> Iterator[Segment | Refusal]:
    with _csd.opened(path) as file:
        for video_id in file.recordings():
            sequence = file.read(video_id)
            width = sequence.features_TF.shape[1]
            if width not in (1, len(_COLUMNS)):
                raise ValueError(
                    f"{path}: {video_id} has {width} labels a segment, not {', '.join(_COLUMNS)}: get the file again"
                )
            for number, (row, (start_s, end_s)) in enumerate(
                zip(sequence.features_TF.tolist(), sequence.intervals_T2.tolist(), strict=True)
            ):
                values = dict(zip(_COLUMNS, row, strict=False))
                yield _checked(str(path), Segment(video_id, number, start_s, end_s, values))


def _of_tables(release: Release) -> Iterator[Segment | Refusal]:
    answers: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for table in release.tables:
        refusal = _add_answers(table, answers)
        if refusal is not None:
            yield refusal
    lines: dict[int, Line] = {}
    last_video = None
    for (video_id, number), given in sorted(answers.items()):
        if video_id != last_video:
            path = release.transcripts.get(video_id)
            lines = {line.number: line for line in read_lines(path)} if path else {}
            last_video = video_id
        name = f"{video_id}[{number}]"
        if number not in lines:
            yield Refusal(name, "no-timing", "annotated, but no line of Transcript/Segmented/Combined says where it is")
            continue
        line = lines[number]
        # Annotators are averaged: an emotion is present when one of them saw it.
        values = {label: math.fsum(marks) / len(marks) for label, marks in given.items()}
        yield _checked(name, Segment(video_id, number, line.start_s, line.end_s, values))


def _add_answers(table: Path, answers: dict[tuple[str, int], dict[str, list[float]]]) -> Refusal | None:
    """Add one row an annotator and clip; tables without these columns are the annotation platform's own."""
    if is_lfs_stub(table):
        return lfs_refusal(table)
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if not {_VIDEO, _CLIP} <= columns or not columns & set(_ANSWERS):
            return Refusal(str(table), "no-labels", f"no columns {_VIDEO}, {_CLIP} and Answer.*: not the annotations")
        for row in reader:
            # The id may stand behind a path, and with the ending of a file.
            video_id = (row[_VIDEO] or "").strip().replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".mp4")
            try:
                number = int(float(row[_CLIP]))
                marks = {label: float(row[name]) for name, label in _ANSWERS.items() if (row.get(name) or "").strip()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{table}: row {reader.line_num}: {error}: get the table again") from error
            for label, mark in marks.items():
                answers[video_id, number][label].append(mark)
    return None


def _checked(uri: str, segment: Segment) -> Segment | Refusal:
    if not all(map(math.isfinite, (segment.start_s, segment.end_s))) or not 0 <= segment.start_s < segment.end_s:
        return Refusal(uri, "bad-span", f"{segment.name} lasts from {segment.start_s:g} s to {segment.end_s:g} s")
    for label, value in segment.values.items():
        low, high = (-3.0, 3.0) if label == SENTIMENT else (0.0, 3.0)
        if not low <= value <= high:
            return Refusal(uri, "bad-label", f"{segment.name}: {label} is {value:g}, not between {low:g} and {high:g}")
    return segment
