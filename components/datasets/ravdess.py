"""RAVDESS speech: 24 actors, eight acted emotions, two statements (Livingstone and Russo 2018,
doi 10.1371/journal.pone.0196391).

The release's own tree is read, at any depth below the root: `Actor_NN/MM-VV-EE-II-SS-RR-AA.wav` or `.mp4`, with
modality (01 sound and picture, 02 picture, 03 sound), vocal channel (01 speech, 02 song), emotion, intensity,
statement, repetition and actor (odd numbers are men, even ones women). A take that is there in several modalities is
one clip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from components.clip import Clip
from components.datasets import Refusal
from components.datasets._release import check_folder
from components.protocols import EvaluationProtocol
from components.task import Task

_EMOTIONS: Final = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_NUM_ACTORS: Final = 24
_NUM_FOLDS: Final = 6

TASKS: Mapping[str, Task] | None = {
    "emotion": Task("classes", _EMOTIONS, source="acted emotion in the file name"),
}
PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    "actors": EvaluationProtocol(
        name="actors",
        description="six folds of four actors in the order of their numbers, two women and two men in each; the "
        "next fold validates",
        unit="speaker",
        num_folds=_NUM_FOLDS,
        groups=tuple(
            tuple(f"Actor_{first + step:02d}" for step in range(_NUM_ACTORS // _NUM_FOLDS))
            for first in range(1, _NUM_ACTORS + 1, _NUM_ACTORS // _NUM_FOLDS)
        ),
    ),
}
SOURCE: str = "Zenodo record 1188976 (Audio_Speech_Actors_01-24.zip, Video_Speech_Actor_NN.zip)"

_STATEMENTS: Final = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
_NAME: Final = re.compile(
    r"(?P<modality>0[123])-(?P<take>(?P<channel>0[12])-(?P<emotion>0[1-8])-0[12]-(?P<statement>0[12])-0[12]"
    r"-(?P<actor>\d\d))\.(?P<type>wav|mp4)"
)
_SOUND_AND_PICTURE, _PICTURE, _SOUND = "01", "02", "03"


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The takes of the release, and the files whose names are none of its own.

    Raises:
        ValueError: the folder is missing, or nothing in it is a RAVDESS recording.
    """
    check_folder(root, corpus="ravdess", source=SOURCE)
    takes: dict[str, dict[str, Path]] = {}
    refusals = []
    for path in sorted(root.glob("**/Actor_*/*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        refusal = _refusal(path)
        if refusal is not None:
            refusals.append(refusal)
            continue
        modality, take = path.stem.split("-", 1)
        files = takes.setdefault(take, {})
        if modality in files:
            refusals.append(Refusal(str(path), "duplicate-name", f"{files[modality]} has the same name: keep one"))
        else:
            files[modality] = path
    if not takes:
        raise ValueError(f"ravdess: no Actor_NN/MM-VV-EE-II-SS-RR-AA.wav or .mp4 below {root}; get them from {SOURCE}")
    yield from refusals
    for take, files in sorted(takes.items()):
        yield _clip(take, files, task)


def _refusal(path: Path) -> Refusal | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        detail = "not MM-VV-EE-II-SS-RR-AA.wav or .mp4 with the release's codes: give it its original name or remove it"
        return Refusal(str(path), "name-unknown", detail)
    if match["channel"] == "02":
        return Refusal(str(path), "song", "sung, not spoken: this corpus is the speech part")
    if path.parent.name != f"Actor_{match['actor']}":
        return Refusal(str(path), "speaker-unclear", f"named as actor {match['actor']} but lies in {path.parent.name}")
    if (match["modality"] == _SOUND) != (match["type"] == "wav"):
        return Refusal(str(path), "name-unknown", "modality 03 is a .wav file, 01 and 02 are .mp4 files")
    return None


def _clip(take: str, files: dict[str, Path], task: Task | None) -> Clip:
    _, emotion, _, statement, _, actor = take.split("-")
    first = next(modality for modality in (_SOUND_AND_PICTURE, _SOUND, _PICTURE) if modality in files)
    audio = files.get(_SOUND) or files.get(_SOUND_AND_PICTURE)
    video = files.get(_SOUND_AND_PICTURE) or files.get(_PICTURE)
    return Clip(
        clip_id=f"{first}-{take}",
        speaker_id=f"Actor_{actor}",
        audio_uri=str(audio) if audio else None,
        video_uri=str(video) if video else None,
        transcript=_STATEMENTS[statement],
        speaker_sex="male" if int(actor) % 2 else "female",
        labels={} if task is None else {_EMOTIONS[int(emotion) - 1]: 1.0},
    )
