"""Fine-tuning by the kind of the task: heads, objectives, what is refused, and the clips to choose on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from components import models
from components.batches import Subset, draw_by_class
from components.features import ClipFeatures
from components.finetune import (
    check_labels,
    clips_to_choose_on,
    new_objective,
    with_new_heads,
    with_validation,
    write_summary,
)
from components.objectives import Classification
from components.objectives_labels import Concordance, MultiLabel
from components.params import Choices, Finetune, resolve
from components.shards import Example, ShardSet, open_split, write_shard
from components.task import Task
from components.training import TrainingState
from tests.toy_clips import toy_model

NAMES = ("a", "b", "c")
CLASSES, ANY = Task("classes", NAMES), Task("multilabel", NAMES)
VALUES = Task("values", NAMES, scale=(1.0, 5.0))


def shards(path: Path, labels_NC: NDArray[np.float32]) -> ShardSet:
    """Clips with these labels and hardly any features."""
    nothing = ClipFeatures(np.zeros((1, 2), np.float16), np.zeros((0, 2), np.float16), np.zeros(0, np.int32))
    examples = [
        Example(f"{path.parent.name}{n}", "s", tuple(map(float, row)), nothing) for n, row in enumerate(labels_NC)
    ]
    write_shard(path, examples, widths=(2, 2))
    return ShardSet([path])


def test_new_heads_are_drawn_and_the_rest_is_kept() -> None:
    pretrained = toy_model(seed=3)
    for parameter in pretrained.get_submodule("audio_encoder").parameters():
        parameter.requires_grad_(False)
    model = with_new_heads(pretrained, 7, seed=0)
    heads = models.heads_of(model)
    for name, value in model.state_dict().items():
        if name.startswith(heads):
            continue
        assert torch.equal(value, pretrained.state_dict()[name]), name
    assert model.get_parameter("head.4.weight").shape[0] == 7
    assert not any(parameter.requires_grad for parameter in model.get_submodule("audio_encoder").parameters())
    assert all(parameter.requires_grad for parameter in model.get_submodule("video_encoder").parameters())
    assert pretrained.config.num_classes == 3


def test_the_objective_is_that_of_the_task() -> None:
    settings = Finetune(label_smoothing=0.2)
    classes = new_objective(settings, CLASSES)
    assert isinstance(classes, Classification)
    assert classes.label_smoothing == 0.2
    several = new_objective(settings, Task("multilabel", NAMES, threshold=1.5))
    assert isinstance(several, MultiLabel)
    assert several.threshold == 1.5
    values = new_objective(settings, VALUES)
    assert isinstance(values, Concordance)
    assert (values.labels, values.scale) == (NAMES, (1.0, 5.0))


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (CLASSES, [[1, 0, 0], [0.9, 0.1, 0]], r"hold 1 emotion\(s\) \(a\): at least two are needed"),
        (ANY, [[0, 0, 2], [0, 0, 1]], "hold 0 label.* at least one is needed"),
        (VALUES, [[3, 3, np.nan], [3, 3, 2]], "hold 0 moving value"),
    ],
)
def test_labels_that_teach_nothing_are_refused(
    tmp_path: Path, task: Task, labels: list[list[float]], message: str
) -> None:
    clips = shards(tmp_path / "00000.arrow", np.array(labels, np.float32))
    with pytest.raises(ValueError, match=message):
        check_labels(clips, clips, task)
    enough = np.array([[0, 1, 0], [1, 0, 0], [0, 1, np.nan]], np.float32)
    check_labels(shards(tmp_path / "00001.arrow", enough), clips, task)


@pytest.mark.parametrize("select_on_test", [False, True])
def test_the_epoch_is_chosen_on_the_part_that_the_summary_names(tmp_path: Path, select_on_test: bool) -> None:
    for split, count in (("validation", 2), ("test", 3)):
        shards(tmp_path / split / "00000.arrow", np.eye(3, dtype=np.float32)[:count])
    clips, name = clips_to_choose_on(Finetune(select_on_test=select_on_test), tmp_path)
    assert (name, len(clips)) == (("test", 3) if select_on_test else ("validation", 2))
    assert clips.clip_ids[0].startswith(name)
    state = TrainingState(0, 4, 0, {}, {}, [], [], best_epoch=1, best_score=0.5)
    write_summary(tmp_path / "summary.json", state, figure="ccc", selected_on=name, num_clips=9)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["selected_on"] == name
    assert summary[f"{name}_ccc"] == 0.5
    assert summary["best_epoch"] == 2


def test_the_test_part_is_not_chosen_on_unless_asked() -> None:
    assert not Finetune().select_on_test


def test_a_share_is_drawn_within_the_rarest_label_or_the_quarter() -> None:
    random = np.random.default_rng(0)
    intensities = (random.random((400, 3)) < (0.7, 0.3, 0.05)) * random.uniform(0.5, 3, (400, 3))
    intensities[:5] = np.nan
    drawn = draw_by_class(intensities.astype(np.float32), 0.1, seed=0, task=ANY)
    assert 36 <= len(drawn) <= 44
    assert drawn.min() >= 5
    rare = (intensities[5:, 2] > 0).sum()
    assert (intensities[drawn, 2] > 0).sum() == max(1, round(0.1 * rare))
    values = np.sort(random.uniform(1, 5, 400))[:, None].repeat(3, axis=1).astype(np.float32)
    of_values = draw_by_class(values, 0.1, seed=0, task=VALUES)
    assert np.histogram(of_values, bins=4, range=(0, 400))[0].tolist() == [10, 10, 10, 10]
    assert len(draw_by_class(values, 1.0, seed=0, task=VALUES)) == 400


def test_when_all_is_chosen_validation_clips_are_learned_from_too_in_the_same_share(tmp_path: Path) -> None:
    labels_NC = np.tile(np.eye(3, dtype=np.float32), (20, 1))
    for split in ("train", "validation", "test"):
        (tmp_path / split).mkdir()
        shards(tmp_path / split / "000.arrow", labels_NC)
    train = open_split(tmp_path, "train")
    params = resolve(Choices(overrides={"finetune": {"label_share": 0.5}}))
    drawn = Subset(train, draw_by_class(train.labels_NC, 0.5, seed=params.seed, task=CLASSES))
    both = with_validation(drawn, tmp_path, params, CLASSES)
    assert both.clip_ids[: len(drawn)] == drawn.clip_ids
    assert len(both) == 2 * len(drawn) == 60
    assert {clip_id.rstrip("0123456789") for clip_id in both.clip_ids[len(drawn) :]} == {"validation"}
    assert both.labels_NC.sum(axis=0).tolist() == [20, 20, 20]
