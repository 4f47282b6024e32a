"""What is said: lines of the raw tree's transcripts, or words with times from their computational sequence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from components.datasets import _csd
from components.datasets.cmu_mosei.release import Release

_SEPARATOR: Final = "___"
_PAUSE: Final = "sp"
# The labels' intervals are single-precision copies of the transcripts' times.
_SAME_S: Final = 0.05


@dataclass(frozen=True)
class Line:
    """One line of a transcript: `VIDEO___CLIP___START___END___TEXT`."""

    number: int
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class _Word:
    text: str
    middle_s: float


def read_lines(path: Path) -> list[Line]:
    """The clips of one video's transcript.

    Raises:
        ValueError: a line is not of the format.
    """
    lines = []
    for row, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            _, number, start_s, end_s, words = text.split(_SEPARATOR, 4)
            lines.append(Line(int(number), float(start_s), float(end_s), words.strip()))
        except ValueError as error:
            raise ValueError(
                f"{path}: line {row} is not VIDEO___CLIP___START___END___TEXT: get the transcript again"
            ) from error
    return lines


class Speech:
    """Answers what is said in a stretch of a video; asked video by video, it reads each file once."""

    def __init__(self, release: Release) -> None:
        self._transcripts = release.transcripts
        self._words_path = release.words
        self._stack = ExitStack()
        self._words_file: _csd.SequenceFile | None = None
        self._video_id = ""
        self._lines: Sequence[Line] = ()
        self._words: Sequence[_Word] | None = None

    def __enter__(self) -> Self:
        if self._words_path is not None:
            self._words_file = self._stack.enter_context(_csd.opened(self._words_path))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def said(self, video_id: str, start_s: float, end_s: float) -> str | None:
        """The words of the transcript's line at this place, or those whose middle lies in it; None: not known."""
        if video_id != self._video_id:
            self._open(video_id)
        near = [line for line in self._lines if max(abs(line.start_s - start_s), abs(line.end_s - end_s)) <= _SAME_S]
        if near:
            return min(near, key=lambda line: abs(line.start_s - start_s) + abs(line.end_s - end_s)).text
        if self._words is None:
            return None
        return " ".join(word.text for word in self._words if start_s <= word.middle_s < end_s)

    def _open(self, video_id: str) -> None:
        path = self._transcripts.get(video_id)
        self._lines = read_lines(path) if path else ()
        self._words = None
        if self._words_file is not None and video_id in self._words_file:
            sequence = self._words_file.read(video_id)
            middles_s = sequence.intervals_T2.mean(axis=1).tolist()
            texts = [_decoded(row[0]) for row in sequence.features_TF.tolist()]
            self._words = [_Word(text, at) for text, at in zip(texts, middles_s, strict=True) if text != _PAUSE]
        self._video_id = video_id


def _decoded(word: bytes | str) -> str:
    return word.decode("utf-8", errors="replace") if isinstance(word, bytes) else str(word)
