"""Faces by a YuNet network from a file: found, followed, part of the features' identity, and carried by the bundle.

The network is a real one that OpenCV reads and runs, made by `yunet_file`: white squares are its faces.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from components import bundle, clip_table, predictor, task
from components.bundle_files import FACE_MODEL, version_of
from components.extract import extract
from components.features import clip_features, faces, text, video
from components.features.face_detectors import identified
from components.golden import GoldenRequest
from components.media import write_mp4
from components.params import Choices, Corpus, Features, VideoFeatures
from components.settings import Settings
from components.shards import open_split
from flows.workspace import prepare
from tests.corpus_files import write_sound
from tests.finished_run import FinishedRun
from tests.test_bundle import FIGURES
from tests.test_features import times
from tests.yunet_file import BLACK, WHITE, write_yunet


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yunet(tmp_path_factory.mktemp("faces") / "yunet.onnx")


@pytest.fixture
def config(network: Path) -> VideoFeatures:
    return VideoFeatures(face_model=str(network))


def square(frames_THW: NDArray[np.uint8], left: int, top: int, side: int) -> None:
    frames_THW[..., top : top + side, left : left + side] = WHITE


def dark(num_frames: int) -> NDArray[np.uint8]:
    return np.full((num_frames, 240, 320), BLACK, np.uint8)


def write_film(path: Path, frames_THW: NDArray[np.uint8]) -> None:
    """Full and no light become the white and the black of a film."""
    light_THW = np.where(frames_THW == WHITE, 255, 0).astype(np.uint8)
    write_mp4(path, np.repeat(light_THW[..., None], 3, axis=-1), frame_rate_hz=25)


def test_a_face_is_followed_where_the_cascade_sees_none(config: VideoFeatures) -> None:
    frames = dark(30)
    for number, frame in enumerate(frames):
        square(frame, 100 + 2 * number, 80, 64)
    assert faces.track_face(frames, times(30), VideoFeatures()) is None
    track = faces.track_face(frames, times(30), config)
    assert track is not None
    assert track.is_seen_T.all()
    centres = 132 + 2 * np.arange(30)
    # The network's places are 16 pixels apart.
    assert np.abs(track.boxes_T3[:, 0] - centres).max() <= 12
    np.testing.assert_allclose(track.boxes_T3[:, 1:], [[112, 64]] * 30, atol=10)


def test_of_two_faces_the_larger_is_the_speakers(config: VideoFeatures) -> None:
    frames = dark(20)
    square(frames, 16, 24, 64)
    square(frames, 168, 80, 128)
    track = faces.track_face(frames, times(20), config)
    assert track is not None
    np.testing.assert_allclose(track.boxes_T3, [[232, 144, 128]] * 20, atol=17)


def test_a_face_that_leaves_is_not_invented(config: VideoFeatures) -> None:
    frames = dark(40)
    square(frames[:20], 96, 80, 64)
    track = faces.track_face(frames, times(40), config)
    assert track is not None
    assert track.is_seen_T[:20].all()
    assert not track.is_seen_T[28:].any()
    features, share = video.describe(dark(10), times(10), config)
    assert (len(features), share) == (0, 0.0)


def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, network: Path) -> None:
    missing = VideoFeatures(face_model=str(tmp_path / "none.onnx"))
    with pytest.raises(ValueError, match=r"face_model .*none\.onnx: No such file or directory; name a file such as"):
        identified(missing)
    for name, content in {
        "text.onnx": b"version https://git-lfs.github.com/spec/v1",
        "cut.onnx": network.read_bytes()[:2000],
        "empty.onnx": b"",
        "other.onnx": network.read_bytes().replace(b"kps_32", b"kqs_32"),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"face_model .*{name} is no YuNet network \([^\n]*\): name a file"):
            identified(VideoFeatures(face_model=str(tmp_path / name)))
    known = identified(VideoFeatures(face_model=str(network)))
    moved = known.model_copy(update={"face_model": str(write_yunet(tmp_path / "new.onnx", needed_contrast=150))})
    with pytest.raises(ValueError, match="another file than the features were made with"):
        video.describe(dark(2), times(2), moved)
    with pytest.raises(ValueError, match=r"face_model yunet\.onnx: a run works in a folder of its own"):
        VideoFeatures(face_model="yunet.onnx")


def test_the_file_names_the_run(tmp_path: Path) -> None:
    write_sound(tmp_path / "crema/AudioWAV/1001_DFA_ANG_XX.wav")
    corpus, home = Corpus(dataset="crema_d", root=str(tmp_path / "crema")), Settings(home=tmp_path / "home")
    path = tmp_path / "yunet.onnx"
    choices = Choices(finetune_on=corpus, overrides={"features": {"video": {"face_model": str(path)}}})
    with pytest.raises(ValueError, match=r"yunet\.onnx: No such file"):
        prepare(choices, home)
    assert not home.home.exists()
    first = prepare(choices, Settings(home=home.home)) if write_yunet(path) else None
    assert first is not None
    assert prepare(choices, home) == first
    write_yunet(path, needed_contrast=150)
    second = prepare(choices, home)
    assert second != first
    assert prepare(Choices(finetune_on=corpus), home) not in (first, second)


@pytest.mark.usefixtures("ray_address")
def test_the_stage_keeps_the_file_beside_the_features(tmp_path: Path, network: Path) -> None:
    clips_folder, target = tmp_path / "build" / "clips", tmp_path / "build" / "features"
    clips_folder.mkdir(parents=True)
    frames = dark(50)
    square(frames, 96, 80, 64)
    film = tmp_path / "film.mp4"
    write_film(film, frames)
    row: dict[str, object] = dict.fromkeys(clip_table.SCHEMA.names, "")
    row.update(clip_id="a", speaker_id="s", split="train", audio_uri=None, video_uri=str(film), transcript=None)
    row.update(start_s=0.0, end_s=None, duration_s=2.0, num_bytes=1, labels=[], speaker_sex=None, speaker_age=None)
    pyarrow.parquet.write_table(pa.Table.from_pylist([row], schema=clip_table.SCHEMA), clips_folder / "clips.parquet")
    task.write(clips_folder, task.Task("classes", ("happy", "sad"), source="made up"))
    own = tmp_path / "own.onnx"
    shutil.copyfile(network, own)
    extract(clips_folder, target, Features(video=VideoFeatures(face_model=str(own))))
    own.unlink()
    assert (target / FACE_MODEL).read_bytes() == network.read_bytes()
    assert json.loads((target / "preprocess.json").read_text())["video"]["face_model"] == FACE_MODEL
    served = predictor.read_preprocess(target / "preprocess.json")
    [clip] = [clip_table.to_clip(row) for row in clip_table.read_clips(clips_folder).to_pylist()]
    recording = clip_features.record(audio=None, video=Path(str(clip.video_uri)), config=served)
    tokenizer = text.load_tokenizer(target / "tokenizer.json")
    expected, warnings = clip_features.compute(recording, None, served, tokenizer)
    assert warnings == ()
    assert len(expected.video_TF) == 25
    np.testing.assert_array_equal(open_split(target, "train").features(0).video_TF, expected.video_TF)


def test_a_bundle_stands_alone(tmp_path: Path, finished_run: FinishedRun, network: Path) -> None:
    build = tmp_path / "build"
    shutil.copytree(finished_run.build, build)
    (build / "evaluation").mkdir()
    (build / "evaluation" / "metrics.json").write_text(FIGURES.to_json())
    settings = build / "features" / "preprocess.json"
    values = json.loads(settings.read_text())
    found = identified(VideoFeatures(face_model=str(network)))
    values["video"] |= {"face_model": FACE_MODEL, "face_model_digest": found.face_model_digest}
    settings.write_text(json.dumps(values))
    shutil.copyfile(network, build / "features" / FACE_MODEL)
    frames = dark(50)
    square(frames, 96, 80, 64)
    film = tmp_path / "film.mp4"
    write_film(film, frames)
    requests = (GoldenRequest("square", None, film.read_bytes(), None),)
    made = bundle.write(build / "bundle", settings=finished_run.settings, requests=requests, build=build)
    moved = tmp_path / "served"
    shutil.copytree(made.folder, moved)
    shutil.rmtree(build)
    served = bundle.load(moved)
    assert served.version == made.version
    assert served.golden_error() == 0
    features, warnings = served.features_of(None, film, None)
    assert "no-face" not in warnings
    assert len(features.video_TF) > 0
    write_yunet(moved / FACE_MODEL, needed_contrast=150)
    assert version_of(moved) != made.version
    with pytest.raises(ValueError, match="another file than the features were made with"):
        bundle.load(moved)
    (moved / FACE_MODEL).unlink()
    with pytest.raises(ValueError, match="No such file"):
        bundle.load(moved)
