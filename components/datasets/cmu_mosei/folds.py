"""The official folds: a Python file of the CMU Multimodal SDK with three lists of video ids. It is read, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from components.clip import Split

FILE: Final = "cmu_mosei_std_folds.py"
ORIGIN: Final = (
    f"mmsdk/mmdatasdk/dataset/standard_datasets/CMU_MOSEI/{FILE} of github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK"
)

_LISTS: Final[Mapping[str, Split]] = {
    "standard_train_fold": "train",
    "standard_valid_fold": "validation",
    "standard_test_fold": "test",
}


def read(path: Path) -> dict[str, Split]:
    """The split of each video.

    Raises:
        ValueError: the file is no Python, a list is missing, empty or not of names, or a video is in two of them.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is no Python file ({error}): get {ORIGIN} again") from error
    split_of: dict[str, Split] = {}
    found = dict(_assignments(tree.body))
    for name, split in _LISTS.items():
        if name not in found:
            raise ValueError(f"{path} has no list {name}: get {ORIGIN} again")
        for video_id in _names(path, name, found[name]):
            if split_of.setdefault(video_id, split) != split:
                raise ValueError(
                    f"{path}: video {video_id} is in {split_of[video_id]} and in {split}: get {ORIGIN} again"
                )
    return split_of


def _assignments(statements: Iterable[ast.stmt]) -> Iterable[tuple[str, ast.expr]]:
    for statement in statements:
        if isinstance(statement, ast.Assign):
            yield from ((target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name))


def _names(path: Path, name: str, value: ast.expr) -> list[str]:
    try:
        names = ast.literal_eval(value)
    except ValueError:
        names = None
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) and each for each in names):
        raise ValueError(f"{path}: {name} is no list of video ids: get {ORIGIN} again")
    return list(names)
