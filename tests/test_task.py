"""What is asked of a clip: which tasks can be built, what a clip's labels become, and the files between stages."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from components import task
from components.task import Task

CLASSES = Task("classes", ("happy", "sad", "angry"), name="acted", source="the file name")
SEVERAL = Task("multilabel", ("happy", "sad"), threshold=0.5)
VALUES = Task("values", ("valence", "arousal"), name="dimensions", scale=(1.0, 5.0))


def same(row: tuple[float, ...], expected: list[float]) -> bool:
    return np.array_equal(row, expected, equal_nan=True)


@pytest.mark.parametrize("asked", [CLASSES, SEVERAL, VALUES], ids=lambda each: each.kind)
def test_task_is_read_as_it_was_written(tmp_path: Path, asked: Task) -> None:
    task.write(tmp_path, asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", "task.json"]
    assert task.read(tmp_path) == asked
    assert "labels" not in json.loads((tmp_path / "task.json").read_text())


def test_folder_of_an_older_version_asks_for_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('["happy", "sad"]')
    assert task.read(tmp_path) == Task("classes", ("happy", "sad"))


def test_damaged_files_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels\.json is missing: run the stage again"):
        task.read(tmp_path)
    task.write(tmp_path, CLASSES)
    for name, text in (
        ("task.json", "{"),
        ("task.json", '{"kind": "guess"}'),
        ("task.json", '{"kind": "values", "scale": [1]}'),
        ("task.json", '{"kind": "classes", "colour": 1}'),
        ("labels.json", '{"happy": 1}'),
        ("labels.json", "[]"),
    ):
        task.write(tmp_path, CLASSES)
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="run the stage again") as caught:
            task.read(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "ranks", "labels": ("a",)}, "none of classes, multilabel, values"),
        ({"kind": "classes", "labels": ()}, "must be names"),
        ({"kind": "classes", "labels": ("a", "a")}, "each there once"),
        ({"kind": "classes", "labels": ("a", "")}, "must be names"),
        ({"kind": "values", "labels": ("a",)}, "a scale is needed"),
        ({"kind": "classes", "labels": ("a",), "scale": (1.0, 5.0)}, "for no other"),
        ({"kind": "values", "labels": ("a",), "scale": (5.0, 1.0)}, "the lower first"),
        ({"kind": "multilabel", "labels": ("a",), "threshold": math.nan}, "no number"),
    ],
)
def test_task_that_makes_no_sense_cannot_be_built(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(**settings)  # type: ignore[arg-type]  # wrong on purpose


def test_rows_tell_what_is_not_known() -> None:
    assert same(CLASSES.row({"sad": 1.0}), [0, 1, 0])
    assert same(CLASSES.row({}), [math.nan] * 3)
    assert same(SEVERAL.row({"sad": 0.33}), [math.nan, 0.33])
    assert same(VALUES.row({"arousal": 3.5, "valence": 2.0}), [2, 3.5])
    assert same(VALUES.row({"arousal": 3.5}), [math.nan, 3.5])


def test_what_is_present() -> None:
    assert CLASSES.present({"sad": 0.4, "angry": 0.4, "happy": 0.2}) == {"angry"}
    assert CLASSES.present({}) == CLASSES.present({"bored": 1.0}) == set()
    assert SEVERAL.present({"happy": 0.5, "sad": 0.66}) == {"sad"}
    assert VALUES.present({"valence": 5.0}) == set()


def test_tasks_are_chosen_by_name() -> None:
    known = {"acted": CLASSES, "dimensions": VALUES}
    assert task.choose(known, None, corpus="some") == CLASSES
    assert task.choose(known, "dimensions", corpus="some") == VALUES
    with pytest.raises(ValueError, match="did you mean dimensions"):
        task.choose(known, "dimension", corpus="some")
    with pytest.raises(ValueError, match="some has no labels: use it as pretrain_on"):
        task.choose({}, None, corpus="some")
