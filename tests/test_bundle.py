"""The bundle: whole or refused, the same bytes for the same run, and the same answers wherever it is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from components import bundle, bundle_files, drift
from components.bundle import Bundle
from components.bundle_files import FILES, GRAPH, version_of
from components.datasets import synthetic
from components.features import ClipFeatures
from components.golden import GoldenRequest
from components.media import MediaError
from components.metrics import Interval
from components.report import ClassReport
from tests.conftest import REPOSITORY
from tests.finished_run import LABELS, FinishedRun

FIGURES = ClassReport(
    dataset="synthetic",
    synthetic=True,
    num_clips=12,
    num_speakers=2,
    macro_f1=Interval(0.71, 0.6, 0.8),
    ua=Interval(0.72, 0.61, 0.81),
    wa=Interval(0.73, 0.62, 0.82),
    per_class_f1=dict.fromkeys(LABELS, 0.7),
    calibration_error=0.05,
    majority_macro_f1=0.05,
    majority_wa=1 / 6,
    subsets={"audio": 0.5, "audio+video+text": 0.71},
)


def requests() -> tuple[GoldenRequest, ...]:
    return tuple(GoldenRequest(each.name, each.audio, each.video, each.text) for each in synthetic.golden_requests())


@pytest.fixture(scope="module")
def evaluated(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    build = tmp_path_factory.mktemp("bundle") / "build"
    shutil.copytree(finished_run.build, build)
    (build / "evaluation").mkdir()
    (build / "evaluation" / "metrics.json").write_text(FIGURES.to_json())
    return FinishedRun(build, finished_run.settings)


@pytest.fixture(scope="module")
def made(evaluated: FinishedRun) -> Bundle:
    return bundle.write(
        evaluated.build / "bundle", settings=evaluated.settings, requests=requests(), build=evaluated.build
    )


@pytest.fixture
def folder(made: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(made.folder, tmp_path / "bundle"))


def test_it_holds_the_files_that_are_promised_and_no_others(made: Bundle) -> None:
    assert sorted(path.name for path in made.folder.iterdir()) == sorted((*FILES, GRAPH))
    assert made.labels == LABELS
    assert made.provenance.dataset == "synthetic"
    assert made.provenance.synthetic
    assert set(made.provenance.data) == {"clips", "features/test", "features/train", "features/validation"}
    assert made.provenance.packages["torch"].startswith("2.")


def test_the_same_run_elsewhere_gives_the_same_bytes(evaluated: FinishedRun, made: Bundle, tmp_path: Path) -> None:
    build = Path(shutil.copytree(evaluated.build, tmp_path / "elsewhere"))
    again = bundle.write(tmp_path / "bundle", settings=evaluated.settings, requests=requests(), build=build)
    for name in (*FILES, GRAPH):
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes(), name
    assert again.version == made.version
    whole = b"".join((again.folder / name).read_bytes() for name in (*FILES, GRAPH))
    assert str(tmp_path).encode() not in whole


def test_it_answers_its_golden_requests_in_a_process_of_its_own(made: Bundle) -> None:
    assert {request.name for request in made.golden.requests} == {"voice", "talking-face", "words"}
    program = (
        "import sys; from pathlib import Path; from components import bundle; "
        "print(bundle.load(Path(sys.argv[1])).golden_error())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(made.folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) <= made.golden.tolerance


def test_other_weights_do_not_answer_the_golden_requests(folder: Path) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["requests"][1]["probabilities"].reverse()
    (folder / "golden.json").write_text(json.dumps(golden))
    assert bundle.load(folder).golden_error() > 1e-4


def test_a_golden_request_that_cannot_be_decoded_counts_as_wrong(folder: Path) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["requests"][0]["audio"] = "bm8gc291bmQ="
    (folder / "golden.json").write_text(json.dumps(golden))
    assert bundle.load(folder).golden_error() == 1.0


def test_hugging_face_reads_it(made: Bundle) -> None:
    model = AutoModel.from_pretrained(made.folder, local_files_only=True)
    for name, parameter in made.model.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), parameter.numpy())


def test_probabilities_of_one_clip_do_not_depend_on_its_company(made: Bundle) -> None:
    each = [made.features_of(request.audio, request.video, request.text)[0] for request in requests()]
    together = made.answers(each)
    assert together.shape == (3, len(LABELS))
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    alone = np.concatenate([made.answers([features]) for features in each])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_features_in_serving_are_those_of_training_bit_for_bit(made: Bundle, evaluated: FinishedRun) -> None:
    from components.shards import open_split

    source = open_split(evaluated.build / "features", "train")
    path = evaluated.build / "clips" / "media" / f"{source.clip_ids[0]}.mp4"
    served, warnings = made.features_of(None, path.read_bytes(), None)
    trained = source.features(0)
    assert warnings == ()
    np.testing.assert_array_equal(served.audio_TF, trained.audio_TF)
    np.testing.assert_array_equal(served.video_TF, trained.video_TF)
    assert len(served.word_ids_T) == 0


def test_a_request_needs_something_and_broken_media_are_named(made: Bundle) -> None:
    with pytest.raises(ValueError, match="give at least one"):
        made.features_of(None, None, None)
    with pytest.raises(MediaError):
        made.features_of(b"no sound", None, None)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_empty_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name} is empty"):
        bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing.*dvc repro"):
        bundle.load(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "CARD.md"])
def test_half_a_file_is_named_on_one_line(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{name}") as caught:
        bundle.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in FILES if name != "CARD.md"])
def test_a_file_of_something_else_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04\x95 a pickle, perhaps")
    with pytest.raises(ValueError, match=rf"{name}"):
        bundle.load(folder)


def test_labels_of_another_model_are_refused(folder: Path) -> None:
    (folder / "labels.json").write_text('["calm", "cross"]')
    with pytest.raises(ValueError, match="2 labels for a model of 6"):
        bundle.load(folder)


def test_an_array_of_objects_is_not_unpickled(folder: Path) -> None:
    np.savez(folder / "drift_reference.npz", class_shares=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="drift_reference"):
        bundle.load(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        bundle.load(tmp_path / "nothing")


def test_any_changed_byte_changes_the_version(folder: Path) -> None:
    versions = {version_of(folder)}
    for name in FILES:
        with (folder / name).open("ab") as file:
            file.write(b"\n")
        versions.add(version_of(folder))
    assert len(versions) == len(FILES) + 1


def test_the_card_says_that_the_data_are_synthetic(made: Bundle) -> None:
    text = (made.folder / "CARD.md").read_text()
    assert "SYNTHETIC DATA" in text
    assert "| macro-F1 | 0.710 | 0.600 | 0.800 |" in text
    assert "| audio+video+text | 0.710 |" in text
    assert ", ".join(LABELS) in text


def test_a_stage_that_has_not_run_is_named_and_nothing_is_left(evaluated: FinishedRun, tmp_path: Path) -> None:
    build = Path(shutil.copytree(evaluated.build, tmp_path / "build", ignore=shutil.ignore_patterns("bundle")))
    (build / "finetune" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing: run `dvc repro finetune`"):
        bundle.write(build / "bundle", settings=evaluated.settings, requests=requests(), build=build)
    assert not (build / "bundle").exists()
    assert not list(build.glob(".partial-*"))


def test_gates_and_places_do_not_change_the_digest_of_parameters(evaluated: FinishedRun) -> None:
    from components.provenance import params_digest

    settings = evaluated.settings
    moved = settings.finetune_on.model_copy(update={"root": "/somewhere/else"})
    stricter = settings.gates.model_copy(update={"min_macro_f1": 0.9})
    same = settings.model_copy(update={"finetune_on": moved, "gates": stricter})
    assert params_digest(same) == params_digest(settings)
    assert params_digest(settings.model_copy(update={"seed": 1})) != params_digest(settings)


def clips_of(values: list[tuple[float, int]]) -> list[ClipFeatures]:
    return [
        ClipFeatures(np.full((3, 2), value, np.float16), np.zeros((0, 4), np.float16), np.full(num_words, 1, np.int32))
        for value, num_words in values
    ]


def test_the_drift_reference_equals_a_loop_and_survives_the_file(tmp_path: Path) -> None:
    clips = clips_of([(0.0, 0), (1.0, 2), (2.0, 4), (5.0, 6)])
    drift.describe(clips, np.array([0.25, 0.75], np.float32)).save(tmp_path / "reference.npz")
    reference = drift.load(tmp_path / "reference.npz")
    audio, video, words = (reference.modalities[name] for name in ("audio", "video", "text"))
    assert audio.num_clips == 4
    np.testing.assert_allclose(audio.mean_F, [2.0, 2.0])
    np.testing.assert_allclose(audio.deviation_F, [np.std([0, 1, 2, 5])] * 2)
    np.testing.assert_allclose(audio.quantiles_QF[[0, 5, 10], 0], [0.0, 1.5, 5.0])
    assert video.num_clips == 0
    assert video.quantiles_QF.shape == (11, 0)
    assert words.num_clips == 3
    np.testing.assert_allclose(words.mean_F, [4.0, 1.0])
    np.testing.assert_allclose(reference.class_shares_C, [0.25, 0.75])
    first = (tmp_path / "reference.npz").read_bytes()
    reference.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == first


def test_the_order_of_files_is_part_of_what_a_version_means() -> None:
    assert bundle_files.FILES[0] == "model.safetensors"
    assert len(set(FILES)) == 9
