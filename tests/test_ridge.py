"""The ridge baseline: what it sees, what it learns from, and that it only learns what there is to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from components import evaluate, ridge
from components.batches import ClipSource, Subset
from components.shards import open_split
from components.task import Task
from tests.finished_run import LABELS as RUN_LABELS
from tests.finished_run import SPLIT_OF_SPEAKER, FinishedRun
from tests.toy_clips import NUM_AUDIO_FEATURES, NUM_VIDEO_FEATURES, VOCABULARY_SIZE, ToyClips

LABELS = ("calm", "loud", "smiling")
TASK = Task("classes", LABELS)


def everything(clips: ToyClips) -> Subset:
    return Subset(clips, np.arange(len(clips)))


def test_statistics_are_those_of_the_frames_and_words_of_a_clip() -> None:
    clips = ToyClips(7)
    found_NK = ridge.clip_statistics(clips, VOCABULARY_SIZE)
    assert found_NK.shape == (7, 2 * NUM_AUDIO_FEATURES + 2 * NUM_VIDEO_FEATURES + VOCABULARY_SIZE)
    for index, row_K in enumerate(found_NK):
        clip = clips.features(index)
        expected = []
        for frames_TF in (clip.audio_TF, clip.video_TF):
            columns = [[float(value) for value in column] for column in frames_TF.T]
            expected += [sum(column) / len(column) for column in columns]
            for column in columns:
                mean = sum(column) / len(column)
                expected.append((sum((value - mean) ** 2 for value in column) / len(column)) ** 0.5)
        expected += [list(clip.word_ids_T).count(word) for word in range(VOCABULARY_SIZE)]
        np.testing.assert_allclose(row_K, expected, atol=1e-9)


def test_it_learns_what_the_statistics_tell() -> None:
    fitted = ridge.fit([everything(ToyClips(60, seed=0))], TASK)
    unseen = ToyClips(60, seed=1)
    assert np.mean(fitted.answer(unseen).argmax(axis=1) == unseen.labels_NC.argmax(axis=1)) > 0.9
    assert fitted.num_clips == 60


def test_its_answers_are_those_of_ridge_with_the_chosen_strength() -> None:
    clips, unseen = ToyClips(40, seed=2), ToyClips(15, seed=3)
    fitted = ridge.fit([everything(clips)], TASK)
    known_NK, unseen_NK = (ridge.clip_statistics(each, fitted.vocabulary_size) for each in (clips, unseen))
    varies_K = known_NK.max(axis=0) > known_NK.min(axis=0)
    scaler = StandardScaler().fit(known_NK[:, varies_K])
    plain = RidgeClassifier(alpha=fitted.alpha).fit(scaler.transform(known_NK[:, varies_K]), clips.labels_NC.argmax(1))
    np.testing.assert_array_equal(
        fitted.answer(unseen).argmax(axis=1), plain.predict(scaler.transform(unseen_NK[:, varies_K]))
    )


def test_too_little_to_learn_from_is_told() -> None:
    clips = ToyClips(12)
    of_one_class = np.flatnonzero(clips.labels_NC.argmax(axis=1) == 0)
    with pytest.raises(ValueError, match="clips of two speakers that differ"):
        ridge.fit([Subset(clips, of_one_class)], TASK)


def test_several_labels_have_thresholds_from_speakers_left_out() -> None:
    clips, unseen = ToyClips(80, seed=4), ToyClips(80, seed=5)
    asked = Task("multilabel", LABELS, threshold=0.5)
    fitted = ridge.fit([everything(clips)], asked)
    answers_NC = fitted.answer(unseen)
    assert answers_NC.min() >= 0
    assert answers_NC.max() <= 1
    assert len(fitted.thresholds) == 3
    assert np.mean((answers_NC >= np.asarray(fitted.thresholds)) == (unseen.labels_NC > 0.5)) > 0.9


def test_values_stay_on_their_scale_and_follow_the_labels() -> None:
    clips, unseen = ToyClips(80, seed=6), ToyClips(80, seed=7)
    for each in (clips, unseen):
        each.labels_NC = 1 + 4 * each.labels_NC
    clips.labels_NC[3, 1] = np.nan
    fitted = ridge.fit([everything(clips)], Task("values", LABELS, scale=(1.0, 5.0)))
    answers_NC = fitted.answer(unseen)
    assert fitted.num_clips == 79
    assert answers_NC.min() >= 1
    assert answers_NC.max() <= 5
    for label in range(3):
        assert np.corrcoef(answers_NC[:, label], unseen.labels_NC[:, label])[0, 1] > 0.8


def test_its_answers_to_the_test_part_are_read_as_an_evaluation(finished_run: FinishedRun, tmp_path: Path) -> None:
    features = finished_run.build / "features"
    fitted = ridge.fit([open_split(features, "train")], Task("classes", RUN_LABELS))
    asked: list[int] = []

    def answer(source: ClipSource) -> NDArray[np.float32]:
        asked.append(len(source))
        return fitted.answer(source)

    evaluate.write_answers(tmp_path, evaluate.answer_test(answer, build=finished_run.build), build=finished_run.build)
    outcomes = evaluate.read_outcomes(tmp_path, RUN_LABELS)
    assert asked == [len(outcomes.actual_N)] == [12]
    assert {SPLIT_OF_SPEAKER[name] for name in outcomes.speaker_ids} == {"test"}
    test = open_split(features, "test")
    np.testing.assert_array_equal(outcomes.actual_N, test.labels_NC.argmax(axis=1))
    np.testing.assert_array_equal(outcomes.predicted_N, fitted.answer(test).argmax(axis=1))
