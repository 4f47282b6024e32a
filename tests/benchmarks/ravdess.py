"""Real speech: the fine-tuned model against ridge regression on the statistics of the same features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components.features.audio import frames_per_step
from components.metrics import Interval, Outcomes, bootstrap_by_speaker, paired_bootstrap, weighted_accuracy_of
from components.params import AudioFeatures, Choices, Corpus, resolve, with_setting
from components.settings import PROJECT_ROOT
from components.shards import ShardSet, open_split
from tests.benchmarks.pipeline import build, one_ray, outcomes, pooled
from tests.benchmarks.run import Result, runs_of

ROOT = PROJECT_ROOT.parent / "shared" / "data" / "ravdess"
# Pairs of actors, a woman and a man each, held out in turn.
FOLDS = (("Actor_01", "Actor_02"), ("Actor_03", "Actor_04"), ("Actor_05", "Actor_06"), ("Actor_07", "Actor_08"))
_ALPHAS = tuple(10.0**power for power in range(-1, 6))


def measure(tell: Callable[[str], None]) -> list[Result]:
    """Accuracy on held-out actors, audio alone, of both systems and their difference.

    Raises:
        ValueError: the recordings are not there.
    """
    if not ROOT.is_dir():
        raise ValueError(f"RAVDESS is not at {ROOT}: put its Actor_NN folders there (Zenodo record 1188976)")
    tuned, ridge = [], []
    with one_ray() as settings:
        for actors in FOLDS:
            choices = Choices(finetune_on=Corpus(dataset="ravdess", root=str(ROOT)))
            choices = with_setting(choices, "features.modalities=[audio]")
            choices = with_setting(choices, f"ingest.test_speakers=[{', '.join(actors)}]")
            folder = build(choices, settings, until="evaluate")
            tuned.append(outcomes(folder))
            ridge.append(_ridge(folder / "features", resolve(choices).features.audio))
            accuracy = [
                float(bootstrap_by_speaker(part[-1], metric=weighted_accuracy_of).value) for part in (tuned, ridge)
            ]
            tell(f"held out {' and '.join(actors)}: fine-tuned {accuracy[0]:.3f}, ridge {accuracy[1]:.3f}")
    return _results(tuned, ridge)


def clip_statistics(source: ShardSet, config: AudioFeatures) -> NDArray[np.float64]:
    """Mean and deviation of each log-mel band over the frames of a clip, (N, 2 M)."""
    rows = []
    for index in range(len(source)):
        steps_TF = source.features(index).audio_TF.astype(np.float64)
        # What stands behind the bands of a frame, such as its pitch, is none of the baseline's.
        bands_NM = steps_TF.reshape(len(steps_TF) * frames_per_step(config), -1)[:, : config.num_mels]
        rows.append(np.concatenate([bands_NM.mean(axis=0), bands_NM.std(axis=0)]))
    return np.stack(rows)


def _ridge(features: Path, config: AudioFeatures) -> Outcomes:
    """Ridge on train and validation actors, its strength chosen by leaving one of them out in turn."""
    known, held_out = open_split(features, "train", "validation"), open_split(features, "test")
    search = GridSearchCV(
        make_pipeline(StandardScaler(), RidgeClassifier()),
        {"ridgeclassifier__alpha": _ALPHAS},
        cv=LeaveOneGroupOut(),
    )
    search.fit(clip_statistics(known, config), known.labels_NC.argmax(axis=1), groups=known.speaker_ids)
    predicted_N = search.predict(clip_statistics(held_out, config)).astype(np.int64)
    actual_N = held_out.labels_NC.argmax(axis=1).astype(np.int64)
    return Outcomes(actual_N, predicted_N, held_out.speaker_ids, held_out.labels_NC.shape[1])


def _accuracy(parts: list[Outcomes]) -> Interval:
    return bootstrap_by_speaker(pooled(parts), metric=weighted_accuracy_of)


def _results(tuned: list[Outcomes], ridge: list[Outcomes]) -> list[Result]:
    how = (
        "RAVDESS speech, 480 clips of actors 01 to 08, 8 emotions, audio alone, four folds of two held-out actors "
        "pooled, seed 0, epoch chosen on other actors; accuracy, interval by bootstrap over actors"
    )
    results = []
    for name, parts in (("fine_tuned", tuned), ("ridge", ridge)):
        figure = bootstrap_by_speaker(pooled(parts), metric=weighted_accuracy_of)
        runs = runs_of([bootstrap_by_speaker(part, metric=weighted_accuracy_of).value for part in parts])
        results.append(
            Result(
                f"ravdess.audio.{name}", figure.value, "accuracy", "higher", None, runs, how, figure.low, figure.high
            )
        )
    gain = paired_bootstrap(pooled(tuned), pooled(ridge), metric=weighted_accuracy_of)
    gains = [
        paired_bootstrap(one, two, metric=weighted_accuracy_of).value for one, two in zip(tuned, ridge, strict=True)
    ]
    results.append(
        Result("ravdess.audio.gain", gain.value, "accuracy", "higher", 0.0, runs_of(gains), how, gain.low, gain.high)
    )
    return results
