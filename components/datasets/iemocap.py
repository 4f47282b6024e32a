"""IEMOCAP: ten actors in five dyadic sessions, scripted and improvised (Busso et al. 2008,
doi 10.1007/s10579-008-9076-6).

`IEMOCAP_full_release` is read as it is: the ratings in `SessionN/dialog/EmoEvaluation/DIALOG.txt`, the words in
`dialog/transcriptions`, the sound of each turn in `sentences/wav/DIALOG/TURN.wav`. Under the usual choice of four
emotions, excitement counted as happiness, 5,531 turns are labelled. All other turns are there without labels.

A speaker is the session and the letter before the number of the turn. The letter after the session says who wore the
motion-capture markers in that dialog, which is another matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.clip import Clip
from components.datasets import Refusal
from components.datasets._release import check_folder, find, is_hidden
from components.protocols import EvaluationProtocol
from components.task import Task

_EMOTIONS: Final = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
_VALUES: Final = ("valence", "activation", "dominance")

TASKS: Mapping[str, Task] | None = {
    "emotion": Task(
        "classes",
        ("neutral", "happy", "sad", "angry"),
        source="the raters' consensus, four emotions, excitement counted as happiness",
    ),
    "dimensions": Task("values", _VALUES, name="dimensions", source="mean of the raters", scale=(1.0, 5.0)),
}
_NUM_SESSIONS: Final = 5
_SESSIONS: Final = tuple(f"Ses{number:02d}" for number in range(1, _NUM_SESSIONS + 1))
PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    "sessions": EvaluationProtocol(
        name="sessions",
        description="five folds, each session tests once; of the four others the next one validates, three train",
        unit="session",
        num_folds=_NUM_SESSIONS,
        groups=tuple((session,) for session in _SESSIONS),
    ),
    # The women first: the one who validates is always of another session than the one who tests.
    "speakers": EvaluationProtocol(
        name="speakers",
        description="ten folds, each speaker tests once; the speaker of the same sex in the next session validates (a "
        "man of the first after the last woman, and the other way round), and the partner in the dialog trains",
        unit="speaker",
        num_folds=2 * _NUM_SESSIONS,
        groups=tuple((f"{session}{letter}",) for letter in "FM" for session in _SESSIONS),
    ),
}
SOURCE: str = "https://sail.usc.edu/iemocap/iemocap_release.htm (on request, for research)"

_FOLDER: Final = "IEMOCAP_full_release"
_TURN: Final = r"(?P<session>Ses0[1-5])[MF]_(?:impro|script)0[1-9][ab]?(?:_\db?)?_(?P<letter>[MF])[X\d]{2}\d"
_NUMBER: Final = r"-?\d+(?:\.\d+)?"
_RATING: Final = re.compile(
    rf"\[{_NUMBER} - {_NUMBER}\]\s+(?P<turn>{_TURN})\s+(?P<emotion>[a-z]{{3}})"
    rf"\s+\[(?P<values>{_NUMBER}, {_NUMBER}, {_NUMBER})\]"
)
_WORDS: Final = re.compile(rf"(?P<turn>{_TURN}) \[{_NUMBER}-{_NUMBER}\]:(?P<words>.*)")


@dataclass(frozen=True)
class _Rating:
    """The summary line of a turn in the ratings."""

    turn: str
    session: str
    letter: str
    emotion: str
    values: tuple[float, ...]

    def labels(self, task: Task | None) -> dict[str, float]:
        if task is None:
            return {}
        if task.kind == "values":
            return dict(zip(_VALUES, self.values, strict=True))
        return {_EMOTIONS[self.emotion]: 1.0} if self.emotion in _EMOTIONS else {}


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The turns of the release; those whose emotion is none of the four have no label in the task `emotion`.

    Raises:
        ValueError: the folder is missing, or holds no session of the release.
    """
    check_folder(root, corpus="iemocap", source=SOURCE)
    release = root if any(root.glob("Session[1-5]")) else root / _FOLDER
    folders = [release / f"Session{number}" for number in range(1, _NUM_SESSIONS + 1)]
    if not any(folder.is_dir() for folder in folders):
        raise ValueError(f"iemocap: no Session1 to Session5 in {root}; get {_FOLDER} from {SOURCE}")
    for folder in folders:
        if find(folder, "dialog/EmoEvaluation") is None:
            detail = f"the session's dialog/EmoEvaluation is not here: unpack all of {_FOLDER}"
            yield Refusal(str(folder), "session-missing", detail)
            continue
        words = _words(folder / "dialog" / "transcriptions")
        for rating in _ratings(folder / "dialog" / "EmoEvaluation"):
            dialog = rating.turn.rsplit("_", 1)[0]
            yield Clip(
                clip_id=rating.turn,
                speaker_id=f"{rating.session}{rating.letter}",
                session_id=rating.session,
                audio_uri=str(folder / "sentences" / "wav" / dialog / f"{rating.turn}.wav"),
                transcript=words.get(rating.turn),
                speaker_sex="female" if rating.letter == "F" else "male",
                labels=rating.labels(task),
            )


def _ratings(folder: Path) -> Iterator[_Rating]:
    """The summary lines of all dialogs. Below the folder lie the single raters, who are not meant."""
    for path in _texts(folder):
        for line in _lines(path):
            match = _RATING.fullmatch(line.strip())
            if match is not None:
                values = tuple(float(value) for value in match["values"].split(", "))
                yield _Rating(match["turn"], match["session"], match["letter"], match["emotion"], values)


def _words(folder: Path) -> dict[str, str]:
    """What was said, by turn. Some lines name no turn of the ratings: they are laughter and asides."""
    words = {}
    for path in _texts(folder):
        for line in _lines(path):
            match = _WORDS.fullmatch(line.strip())
            if match is not None:
                words[match["turn"]] = match["words"].strip()
    return words


def _texts(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.txt")) if path.is_file() and not is_hidden(path)]


def _lines(path: Path) -> list[str]:
    # A few files hold bytes that are no UTF-8; the lines that matter are plain ASCII.
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
