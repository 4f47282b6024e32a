"""VoxCeleb2: over a million unlabelled clips of celebrities in interviews (Chung, Nagrani and Zisserman 2018).

Below the root, at any depth and under any names, lie folders of speakers: `id00012/YOUTUBE_ID/00001`, as `.mp4` (face
crops at 25 frames a second) and as `.m4a` (or `.wav`, as it is often converted), in one tree or in one for each kind. A
clip takes the picture from one and the sound from the other. `vox2_meta.csv`, where it is there, says who belongs to
the corpus. There are no transcripts. The tree is read speaker by speaker and never listed as a whole.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from components.clip import Clip
from components.datasets import Refusal
from components.datasets._release import check_folder, is_lfs_stub, lfs_refusal
from components.protocols import EvaluationProtocol
from components.task import Task

TASKS: Mapping[str, Task] | None = {}
PROTOCOLS: Mapping[str, EvaluationProtocol] = {}
SOURCE: str = (
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html (join vox2_dev_aac_part*, vox2_dev_mp4_part* and unzip)"
)
META: Final = "vox2_meta.csv"

_SPEAKER: Final = re.compile(r"id\d{5}")
_VIDEO: Final = re.compile(r"[\w-]{11}", re.ASCII)
_CLIP: Final = re.compile(r"\d{5}")
_PICTURE: Final = ".mp4"
_SOUNDS: Final = (".m4a", ".wav")
_MAX_DEPTH: Final = 6


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The clips, in the order of speaker, video and number; what is held in memory is one video's list of files.

    Raises:
        ValueError: the folder is missing, or nothing in it has the corpus's names.
    """
    assert task is None, "a corpus without labels has no tasks"
    check_folder(root, corpus="voxceleb2", source=SOURCE)
    trees: list[Path] = []
    meta: list[Path] = []
    _explore(root, trees, meta, depth=0)
    if not trees:
        raise ValueError(f"voxceleb2: no folder id00012/YOUTUBE_ID with clips below {root}; get them from {SOURCE}")
    known = read_meta(meta[0]) if meta else None
    for speaker_id in _names(trees, _SPEAKER):
        folders = [tree / speaker_id for tree in trees]
        if known is not None and speaker_id not in known:
            detail = f"{speaker_id} is not in {meta[0]}: remove its folder, or get the table that belongs to it"
            yield Refusal(speaker_id, "speaker-unknown", detail)
            continue
        for video_id in _names(folders, _VIDEO):
            yield from _clips(speaker_id, video_id, [folder / video_id for folder in folders])


def read_meta(path: Path) -> dict[str, Mapping[str, str]]:
    """The rows of `vox2_meta.csv` by speaker, such as `{"Gender": "m", "Set": "dev"}`; blanks around cells are dropped.

    Raises:
        ValueError: it is not that table.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    rows = csv.reader(text.splitlines(), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
    header = [name.strip() for name in next(rows, [])]
    if not header or header[0] != "VoxCeleb2 ID":
        raise ValueError(f"{path}: its first column is not VoxCeleb2 ID: get the table again from {SOURCE}")
    people: dict[str, Mapping[str, str]] = {}
    for row in rows:
        cells = [cell.strip() for cell in row]
        if any(cells):
            people[cells[0]] = dict(zip(header[1:], cells[1:], strict=False))
    return people


def _explore(folder: Path, trees: list[Path], meta: list[Path], *, depth: int) -> None:
    """Find the folders that hold speakers, without going into a speaker's own."""
    inner = []
    has_speakers = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if _SPEAKER.fullmatch(entry.name):
                has_speakers = True
            elif entry.name == META:
                meta.append(Path(entry.path))
            elif depth < _MAX_DEPTH and not entry.name.startswith(".") and entry.is_dir():
                inner.append(entry.path)
    if has_speakers:
        trees.append(folder)
    for path in sorted(inner):
        _explore(Path(path), trees, meta, depth=depth + 1)


def _names(folders: Sequence[Path], pattern: re.Pattern[str]) -> list[str]:
    """Names in any of the folders that fit, in order; a folder that is not there has none."""
    return sorted({entry for folder in folders for entry in _listed(folder) if pattern.fullmatch(entry)})


def _listed(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name
    except (FileNotFoundError, NotADirectoryError):
        return


def _clips(speaker_id: str, video_id: str, folders: Sequence[Path]) -> Iterator[Clip | Refusal]:
    """Pair the files of one video."""
    files: dict[str, dict[str, Path]] = {}
    for path in (folder / name for folder in folders for name in sorted(_listed(folder))):
        if path.name.startswith("."):
            continue
        if not _CLIP.fullmatch(path.stem) or path.suffix not in (_PICTURE, *_SOUNDS):
            yield Refusal(str(path), "name-unknown", "not 00001.mp4, .m4a or .wav: remove it or give it its own name")
        elif is_lfs_stub(path):
            yield lfs_refusal(path)
        elif path.suffix in files.setdefault(path.stem, {}):
            detail = f"{files[path.stem][path.suffix]} is the same clip: keep one"
            yield Refusal(str(path), "duplicate-name", detail)
        else:
            files[path.stem][path.suffix] = path
    for number, kinds in sorted(files.items()):
        if not kinds:
            continue
        sound = next((kinds[kind] for kind in _SOUNDS if kind in kinds), None)
        picture = kinds.get(_PICTURE)
        yield Clip(
            clip_id=f"{speaker_id}/{video_id}/{number}",
            speaker_id=speaker_id,
            session_id=video_id,
            split="unlabelled",
            audio_uri=str(sound) if sound else None,
            video_uri=str(picture) if picture else None,
        )
