"""MSP-IMPROV: twelve actors in six dyadic sessions, improvised, read and natural speech (Busso et al. 2017,
doi 10.1109/TAFFC.2016.2515617).

The release as it is unpacked: media files `MSP-IMPROV-S01A-F01-P-FM01.wav` and `.avi` at any depth, the ratings in
`Evalution.txt` (so spelt in the release; copies that say `Evaluation.txt` are read too), transcripts in
`All_human_transcriptions`. The activation that the ratings hold is upside down, 1 for the most active; here it is
turned round, so that a high arousal means active.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from components.clip import Clip
from components.datasets import Refusal
from components.datasets._release import check_folder, find, is_hidden, is_lfs_stub, lfs_refusal
from components.protocols import EvaluationProtocol
from components.task import Task

_LETTERS: Final = {"A": "angry", "H": "happy", "S": "sad", "N": "neutral"}
_SCALE: Final = (1.0, 5.0)

TASKS: Mapping[str, Task] | None = {
    "emotion": Task("classes", tuple(_LETTERS.values()), source="the raters' consensus, one of four emotions"),
    "dimensions": Task(
        "values",
        ("arousal", "valence", "dominance"),
        name="dimensions",
        source="mean of the raters; arousal is 6 minus the activation in the release, so that high is active",
        scale=_SCALE,
    ),
}
# Which session tests in the folds of the published division; the next one of these validates.
_TESTING_SESSIONS: Final = (4, 3, 2, 1, 6, 5)
PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    "sessions": EvaluationProtocol(
        name="sessions",
        description="six folds: sessions 4, 3, 2, 1, 6, 5 test in turn, the one after it in this list validates, four "
        "train",
        unit="session",
        num_folds=len(_TESTING_SESSIONS),
        groups=tuple((f"session{number}",) for number in _TESTING_SESSIONS),
    ),
}
SOURCE: str = "https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html (on request, for research)"

SCENARIOS: Final = {
    "S": "improvised by another actor's lead",
    "T": "target sentence, improvised",
    "R": "target sentence, read",
    "P": "natural interaction between the takes",
}
_RATINGS: Final = ("Evalution.txt", "Evaluation.txt")
_CODE: Final = r"S(?:0[1-9]|1\d|20)[AHNS]-[FM]0[1-6]-[PRST]-[FM][FM]\d\d"
_NAME: Final = re.compile(rf"MSP-IMPROV-({_CODE})")
_NUMBER: Final = r"(-?\d+(?:\.\d+)?|NaN)"
_HEAD: Final = re.compile(
    rf"UTD-IMPROV-({_CODE})\.avi;\s*([A-Z]);\s*A:{_NUMBER}\s*;\s*V:{_NUMBER}\s*;\s*D:{_NUMBER}\s*;\s*N:{_NUMBER}\s*;?"
)
_TRANSCRIPTS: Final = "all_human_transcriptions"


@dataclass(frozen=True)
class _Rating:
    """What the raters of a clip said: the letter they agreed on, and their means on the release's own scales."""

    letter: str
    activation: float
    valence: float
    dominance: float

    def labels(self, task: Task | None) -> dict[str, float]:
        if task is None:
            return {}
        if task.kind == "classes":
            return {_LETTERS[self.letter]: 1.0} if self.letter in _LETTERS else {}
        values = {"arousal": sum(_SCALE) - self.activation, "valence": self.valence, "dominance": self.dominance}
        return {name: value for name, value in values.items() if math.isfinite(value)}


@dataclass
class _Files:
    """The files of the release by the code in their names."""

    sound: dict[str, Path] = field(default_factory=dict)
    picture: dict[str, Path] = field(default_factory=dict)
    words: dict[str, Path] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


def scenario_of(clip_id: str) -> str:
    """How a clip came about, a letter of `SCENARIOS`."""
    return clip_id.split("-")[-2]


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The clips of the release; those that the task's ratings leave open are unlabelled.

    Raises:
        ValueError: the folder or its ratings are missing, or the ratings are not in the release's format.
    """
    check_folder(root, corpus="msp_improv", source=SOURCE)
    ratings = _ratings(root)
    files = _find_files(root)
    yield from files.refusals
    for code in sorted(ratings.keys() - files.sound.keys() - files.picture.keys()):
        yield Refusal(f"MSP-IMPROV-{code}", "missing", f"rated, but no .wav or .avi of this name lies below {root}")
    for code in sorted(files.sound.keys() | files.picture.keys()):
        yield _clip(code, files, ratings.get(code), task)


def _clip(code: str, files: _Files, rating: _Rating | None, task: Task | None) -> Clip:
    speaker = code.split("-")[1]
    sound, picture, words = (of_kind.get(code) for of_kind in (files.sound, files.picture, files.words))
    return Clip(
        clip_id=f"MSP-IMPROV-{code}",
        speaker_id=speaker,
        session_id=f"session{int(speaker[1:])}",
        audio_uri=str(sound) if sound else None,
        video_uri=str(picture) if picture else None,
        transcript=words.read_text(encoding="utf-8", errors="replace").strip() if words else None,
        speaker_sex="female" if speaker.startswith("F") else "male",
        labels=rating.labels(task) if rating else {},
    )


def _find_files(root: Path) -> _Files:
    found = _Files()
    for path in sorted(root.rglob("*MSP-IMPROV-*")):
        kind = {".wav": found.sound, ".avi": found.picture, ".txt": found.words}.get(path.suffix.lower())
        if kind is None or is_hidden(path):
            continue
        if kind is found.words and _TRANSCRIPTS not in {part.lower() for part in path.parts}:
            continue
        match = _NAME.fullmatch(path.stem)
        if match is None:
            detail = "not MSP-IMPROV-S01A-F01-P-FM01 with the release's codes: give it its original name or remove it"
            found.refusals.append(Refusal(str(path), "name-unknown", detail))
        elif match[1] in kind:
            detail = f"{kind[match[1]]} has the same name: keep one"
            found.refusals.append(Refusal(str(path), "duplicate-name", detail))
        elif is_lfs_stub(path):
            found.refusals.append(lfs_refusal(path))
        else:
            kind[match[1]] = path
    return found


def _ratings(root: Path) -> dict[str, _Rating]:
    """The ratings by code. Blocks are set apart by empty lines: a head with the means, then a line for each rater."""
    path = find(root, *_RATINGS) or next(iter(sorted(p for name in _RATINGS for p in root.rglob(name))), None)
    if path is None:
        raise ValueError(
            f"msp_improv: no {_RATINGS[0]} (or {_RATINGS[1]}) below {root}; it belongs to the release, see {SOURCE}"
        )
    ratings: dict[str, _Rating] = {}
    is_head = True
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        text = line.strip()
        if text and (is_head or text.startswith("UTD-")):
            match = _HEAD.fullmatch(text)
            if match is None:
                raise ValueError(
                    f"{path}: line {number}: {text[:60]!r} is not 'UTD-IMPROV-….avi; letter; A:…; V:…; D:… ; N:…;': "
                    "take the file of the release"
                )
            code, letter, *values = match.groups()
            activation, valence, dominance, _ = map(float, values)
            ratings[code] = _Rating(letter, activation, valence, dominance)
        is_head = not text
    if not ratings:
        raise ValueError(f"{path} rates nothing: take the file of the release")
    return ratings
