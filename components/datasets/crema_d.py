"""CREMA-D: 91 actors, twelve sentences, six acted emotions, and what a crowd saw and heard in them (Cao et al. 2014,
doi 10.1109/TAFFC.2014.2336244).

The clone of its repository is read as it is: `AudioWAV/ID.wav` (or `AudioMP3/ID.mp3`), `VideoFlash/ID.flv`, with
ID = actor_sentence_emotion_level, and `processedResults/tabulatedVotes.csv`. Two kinds of labels go by its name: what
the actor was asked to show (`acted`), and the votes of the people who rated voice, face or both (`crowd_voice`,
`crowd_face`, `crowd`), as shares. The two agree on about two thirds of the clips, so a figure must say which it is on.
`VideoDemographics.csv` tells sex and age of the actors, where it is there.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypedDict

from components.clip import Clip
from components.datasets import Refusal
from components.datasets._release import check_folder, is_hidden, is_lfs_stub, lfs_refusal, require
from components.protocols import EvaluationProtocol
from components.task import Task


class _Demographics(TypedDict, total=False):
    speaker_sex: str
    speaker_age: float


_CODES: Final = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_LETTERS: Final = dict(zip("ADFHNS", _CODES.values(), strict=True))
_LABELS: Final = tuple(_CODES.values())
# First digit of a row's number in the vote table.
_QUERY_OF: Final = {"crowd": 3, "crowd_voice": 1, "crowd_face": 2}
_QUERY_STEP: Final = 100_000

TASKS: Mapping[str, Task] | None = {
    "acted": Task("classes", _LABELS, name="acted", source="acted emotion in the file name"),
    "crowd": Task("classes", _LABELS, name="crowd", source="shares of the crowd's votes on voice and face together"),
    "crowd_voice": Task("classes", _LABELS, name="crowd_voice", source="shares of the crowd's votes on the voice"),
    "crowd_face": Task("classes", _LABELS, name="crowd_face", source="shares of the crowd's votes on the face"),
}

_FIRST_ACTOR, _NUM_ACTORS, _NUM_FOLDS = 1001, 91, 5
_ENDS: Final = tuple(_FIRST_ACTOR + number * _NUM_ACTORS // _NUM_FOLDS for number in range(_NUM_FOLDS + 1))
PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    "actors": EvaluationProtocol(
        name="actors",
        description="five folds of 18 actors in the order of their numbers, 19 in the last; the next fold validates",
        unit="speaker",
        num_folds=_NUM_FOLDS,
        groups=tuple(tuple(str(actor) for actor in range(first, end)) for first, end in itertools.pairwise(_ENDS)),
    ),
}
SOURCE: str = "https://github.com/CheyneyComputerScience/CREMA-D (clone it with git-lfs)"

_SENTENCES: Final = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_BROKEN: Final = {
    "1076_MTI_NEU_XX": "its video is broken in the release",
    "1076_MTI_SAD_XX": "video and sound are silent in the release",
    "1064_TIE_SAD_XX": "its video is broken in the release",
    "1064_IEO_DIS_MD": "its video lasts a minute in the release, its sound some seconds",
}
_NAME: Final = re.compile(rf"(10\d\d)_({'|'.join(_SENTENCES)})_({'|'.join(_CODES)})_(LO|MD|HI|XX)")
# The first folder of a kind that has the clip counts.
_SOUND: Final = (("AudioWAV", ".wav"), ("AudioMP3", ".mp3"))
_PICTURE: Final = (("VideoFlash", ".flv"),)


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The clips of the release with acted or crowd labels; the four clips that its README calls broken are refused.

    Raises:
        ValueError: the folder, its media or the vote table is missing, or the table is not the release's.
    """
    check_folder(root, corpus="crema_d", source=SOURCE)
    files: dict[str, dict[str, Path]] = {}
    for kind, folders in (("sound", _SOUND), ("picture", _PICTURE)):
        for folder, ending in folders:
            for item in _files(root / folder, ending):
                if isinstance(item, Refusal):
                    yield item
                else:
                    files.setdefault(item.stem, {}).setdefault(kind, item)
    if not files and not any((root / folder).is_dir() for folder, _ in (*_SOUND, *_PICTURE)):
        raise ValueError(f"crema_d: {root} has no folder AudioWAV, AudioMP3 or VideoFlash; get them from {SOURCE}")
    votes = _votes(root, _QUERY_OF[task.name]) if task is not None and task.name in _QUERY_OF else None
    actors = _actors(root)
    for name, found in sorted(files.items()):
        if name in _BROKEN:
            yield Refusal(
                str(next(iter(found.values()))), "broken-release", f"{_BROKEN[name]}: published lists omit it"
            )
        else:
            yield replace(_clip(name, found, task, votes), **actors.get(name.split("_")[0], {}))


def _files(folder: Path, ending: str) -> Iterator[Path | Refusal]:
    for path in sorted(folder.glob("*")):
        if is_hidden(path):
            continue
        if path.suffix != ending or not _NAME.fullmatch(path.stem):
            detail = f"not ACTOR_SENTENCE_EMOTION_LEVEL{ending} with the release's codes: remove it"
            yield Refusal(str(path), "name-unknown", detail)
        elif is_lfs_stub(path):
            yield lfs_refusal(path)
        else:
            yield path


def _clip(
    name: str, files: Mapping[str, Path], task: Task | None, votes: Mapping[str, dict[str, float]] | None
) -> Clip:
    actor, sentence, emotion, _ = name.split("_")
    acted = {} if task is None else {_CODES[emotion]: 1.0}
    return Clip(
        clip_id=name,
        speaker_id=actor,
        audio_uri=str(files["sound"]) if "sound" in files else None,
        video_uri=str(files["picture"]) if "picture" in files else None,
        transcript=_SENTENCES[sentence],
        labels=acted if votes is None else votes.get(name, {}),
    )


def _actors(root: Path) -> dict[str, _Demographics]:
    """Sex and age by actor; nothing where the clone lacks the table, which no label needs."""
    path = root / "VideoDemographics.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            return {
                row["ActorID"]: {"speaker_sex": row["Sex"].lower(), "speaker_age": float(row["Age"])}
                for row in csv.DictReader(file)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no table of actors ({error!r}); fetch it again from {SOURCE}") from error


def _votes(root: Path, query: int) -> dict[str, dict[str, float]]:
    """Shares of the votes by clip, of the people who were asked about voice (1), face (2) or both (3)."""
    path = require(root, "processedResults/tabulatedVotes.csv", corpus="crema_d", source=SOURCE)
    votes: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {*_LETTERS, "", "fileName"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {sorted(missing)[0]!r}; fetch the table again from {SOURCE}")
        for number, row in enumerate(reader, start=2):
            try:
                if int(row[""]) // _QUERY_STEP != query:
                    continue
                counts = {label: float(row[letter]) for letter, label in _LETTERS.items()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: row {number} is no row of votes ({error}); fetch it again") from error
            total = sum(counts.values())
            if total > 0:
                votes[row["fileName"]] = {label: count / total for label, count in counts.items() if count > 0}
    return votes
