"""The runtime: any subset of modalities, one batch or many, the same answers; and what it refuses."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import media
from components.bundle_files import GRAPH, WEIGHTS
from components.clip import MODALITIES
from components.features import ClipFeatures
from components.features.audio import audio_width
from components.features.video import video_width
from serving.prediction import BundleError, ClassPrediction, Limits, Prepared, Request, RequestError
from serving.runtime import Runtime
from tests.bundles import FEATURES, LABELS, class_predictions, requests, write_bundle
from tests.conftest import REPOSITORY

VOICE, FACE, WORDS = range(3)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", seed=0)


@pytest.fixture(scope="module")
def runtime(bundle_folder: Path) -> Runtime:
    return Runtime(bundle_folder)


@pytest.fixture(scope="module")
def by_steps(bundle_folder: Path) -> Runtime:
    return Runtime(bundle_folder, step_by_step=True)


@pytest.fixture(scope="module")
def everything() -> Request:
    """A video with its sound, and words."""
    return Request(video=requests()[FACE].video, text=requests()[WORDS].text)


def _values(prediction: ClassPrediction) -> list[float]:
    return [prediction.probabilities[label] for label in LABELS]


def test_a_video_brings_its_own_sound(runtime: Runtime, everything: Request) -> None:
    [prediction] = class_predictions(runtime, [everything])
    assert set(prediction.contributions) == set(MODALITIES)
    assert set(prediction.probabilities) == set(LABELS)
    assert math.isclose(sum(prediction.probabilities.values()), 1.0, abs_tol=1e-6)
    assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    assert prediction.version == runtime.version


def test_sound_given_apart_replaces_that_of_the_video(runtime: Runtime) -> None:
    own = runtime.prepare(Request(video=requests()[FACE].video))
    other = runtime.prepare(Request(video=requests()[FACE].video, audio=requests()[VOICE].audio))
    assert np.array_equal(own.features.video_TF, other.features.video_TF)
    assert own.features.audio_TF.shape != other.features.audio_TF.shape


def test_contributions_are_what_a_request_without_the_modality_changes(runtime: Runtime, everything: Request) -> None:
    [whole] = class_predictions(runtime, [everything])
    [without_words] = class_predictions(runtime, [Request(video=everything.video)])
    change = math.log(whole.probabilities[whole.label]) - math.log(without_words.probabilities[whole.label])
    assert whole.contributions["text"] == pytest.approx(change, abs=1e-4)


def test_a_modality_alone_is_compared_with_a_uniform_guess(runtime: Runtime) -> None:
    [prediction] = class_predictions(runtime, [Request(text=requests()[WORDS].text)])
    expected = math.log(prediction.probabilities[prediction.label] * len(LABELS))
    assert prediction.contributions == {"text": pytest.approx(expected, abs=1e-5)}


def test_the_timeline_covers_the_clip_second_by_second(runtime: Runtime, everything: Request) -> None:
    [prediction] = class_predictions(runtime, [everything])
    duration_s = media.probe(everything.video or b"").duration_s
    starts = [moment.start_s for moment in prediction.timeline]
    assert starts == [float(second) for second in range(math.ceil(duration_s))]
    assert prediction.timeline[-1].end_s == pytest.approx(duration_s, abs=0.1)
    for moment in prediction.timeline:
        assert math.isclose(sum(moment.answers.values()), 1.0, abs_tol=1e-6)


def test_words_alone_have_no_timeline(runtime: Runtime) -> None:
    assert runtime.predict([Request(text=requests()[WORDS].text)])[0].timeline == ()


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(
    runtime: Runtime, everything: Request, order: list[int]
) -> None:
    each = requests()
    clips = [Request(each[VOICE].audio), Request(None, each[FACE].video), Request(text=each[WORDS].text), everything]
    alone = [class_predictions(runtime, [clip])[0] for clip in clips]
    for index, together in zip(order, class_predictions(runtime, [clips[index] for index in order]), strict=True):
        assert _values(together) == pytest.approx(_values(alone[index]), abs=1e-5)
        assert len(together.timeline) == len(alone[index].timeline)
        assert together.contributions == pytest.approx(alone[index].contributions, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_recorded_graph_says_what_the_model_says_step_by_step(
    runtime: Runtime, by_steps: Runtime, seed: int
) -> None:
    """For clips of lengths and modalities that it was not recorded by."""
    random = np.random.default_rng(seed)
    clips: list[Prepared] = []
    while len(clips) < 12:
        there_M = random.integers(0, 2, 3)
        num_audio, num_video, num_words = (int(each) for each in there_M * random.integers(1, (130, 65, 20)))
        clip = ClipFeatures(
            random.normal(scale=2, size=(num_audio, audio_width(FEATURES.audio))).astype(np.float16),
            random.normal(scale=2, size=(num_video, video_width(FEATURES.video))).astype(np.float16),
            random.integers(0, 10, num_words).astype(np.int32),
        )
        if there_M.any():
            clips.append(Prepared(clip, ()))
    for start in range(0, 12, 4):
        batch = clips[start : start + 4]
        for found, expected in zip(runtime.predict_prepared(batch), by_steps.predict_prepared(batch), strict=True):
            assert isinstance(found, ClassPrediction)
            assert isinstance(expected, ClassPrediction)
            assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
            assert found.contributions == pytest.approx(expected.contributions, abs=1e-5)
            assert len(found.timeline) == len(expected.timeline)
            for second, as_expected in zip(found.timeline, expected.timeline, strict=True):
                assert second.answers == pytest.approx(as_expected.answers, abs=1e-6)


def test_no_requests_no_predictions(runtime: Runtime) -> None:
    assert runtime.predict([]) == []


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request(), "no-modality"),
        (Request(text=""), "nothing-usable"),
        (Request(text="?!"), "nothing-usable"),
        (Request(audio=b""), "empty"),
        (Request(video=b"no recording at all" * 100), "not-media"),
        (Request(text="a" * 10_001), "too-large"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(runtime: Runtime, request_: Request, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        runtime.predict([request_])
    assert refused.value.code == code
    assert "\n" not in str(refused.value)


def test_limits_of_a_file_hold(bundle_folder: Path) -> None:
    small = Runtime(bundle_folder, limits=Limits(max_bytes=100))
    with pytest.raises(RequestError, match="more than 100") as refused:
        small.prepare(Request(audio=requests()[VOICE].audio))
    assert refused.value.code == "too-large"


def test_a_picture_without_a_face_is_told(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "grey.mp4"
    times_T = np.arange(16_000) / 16_000
    tone_T = (0.3 * np.sin(2 * np.pi * 220 * times_T)).astype(np.float32)
    media.write_mp4(path, np.full((12, 64, 64, 3), 128, np.uint8), frame_rate_hz=12.0, waveform_T=tone_T)
    [prediction] = class_predictions(runtime, [Request(video=path.read_bytes())])
    assert "no-face" in prediction.warnings
    assert set(prediction.contributions) == {"audio"}


def test_a_bundle_answers_its_golden_requests_or_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    Runtime(bundle_folder).warmup()
    changed = tmp_path / "changed"
    shutil.copytree(bundle_folder, changed)
    other = write_bundle(tmp_path / "other", seed=1)
    shutil.copyfile(other / GRAPH, changed / GRAPH)
    with pytest.raises(BundleError, match="golden requests"):
        Runtime(changed).warmup()


@pytest.mark.parametrize(("name", "step_by_step"), [(GRAPH, False), (WEIGHTS, True)])
def test_a_damaged_bundle_is_named(bundle_folder: Path, tmp_path: Path, name: str, step_by_step: bool) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle_folder, damaged)
    weights = damaged / name
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BundleError, match=re.escape(f"{weights} is damaged")):
        Runtime(damaged, step_by_step=step_by_step)


def test_a_bundle_from_before_models_were_recorded_answers_the_same(
    bundle_folder: Path, tmp_path: Path, everything: Request
) -> None:
    older = Path(shutil.copytree(bundle_folder, tmp_path / "older"))
    (older / GRAPH).unlink()
    [found] = class_predictions(Runtime(older), [everything])
    [expected] = class_predictions(Runtime(bundle_folder), [everything])
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_what_models_are_built_with_is_not_needed_to_answer(bundle_folder: Path) -> None:
    """It takes longer to import than PyTorch."""
    program = (
        "import sys; from pathlib import Path; from serving.loading import load; load(Path(sys.argv[1])); "
        "assert 'torch' in sys.modules; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(bundle_folder)], cwd=REPOSITORY, check=True)


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        Runtime(tmp_path / "nowhere")


def test_info_names_the_model(runtime: Runtime) -> None:
    info = runtime.info()
    assert info.task.labels == LABELS
    assert info.system == "trimodal"
    assert info.provenance["dataset"] == "synthetic"
