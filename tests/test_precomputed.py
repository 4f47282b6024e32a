"""Features that were made elsewhere: tables, arrays and sequences, aligned by time stamp as slow loops align them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.clip import Clip
from components.datasets import ravdess
from components.features import alignment, clip_features, precomputed, text
from components.features.alignment import Rows
from components.features.audio import audio_step_s, audio_width
from components.features.video import video_step_s, video_width
from components.media import MediaError, Recording
from components.params import Choices, Features, load_choices, parse, resolve
from components.settings import Settings
from components.shard_plans import ShardPlan, write_plan
from components.shards import ShardSet, Skipped, read_notes
from components.sources import Precomputed
from components.task import Task
from flows import workspace
from tests.conftest import SHARED_DATA
from tests.csd_files import write_csd

NOTHING = Recording(None, None, np.zeros(0), 0.0)
TOKENIZER = text.fit_tokenizer(["so it is"], Features().text)
UNITS = ("01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45")


def config(*, audio: dict[str, Any] | None = None, video: dict[str, Any] | None = None, **rest: Any) -> Features:
    values: dict[str, Any] = dict(rest)
    for name, made in (("audio", audio), ("video", video)):
        if made is not None:
            values[name] = {"kind": "precomputed", "precomputed": made}
    return parse(Features, values, source="test")


def clip(name: str = "a", **fields: Any) -> Clip:
    return Clip(name, fields.pop("speaker_id", "ann"), transcript="so it is", **fields)


def write_openface(path: Path, rows: Sequence[Sequence[float]], *, blank: str = " ", rate_hz: float = 30.0) -> Path:
    """OpenFace's FeatureExtraction output: names with leading blanks, 17 intensities, then 18 presences."""
    header = ["frame", "face_id", "timestamp", "confidence", "success", "gaze_0_x", "pose_Tx"]
    header += [f"AU{unit}_r" for unit in UNITS] + [f"AU{unit}_c" for unit in (*UNITS, "28")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([header[0], *(blank + name for name in header[1:])])
        for number, row in enumerate(rows):
            time_s = f"{number / rate_hz:.3f}"
            writer.writerow([number + 1, 0, time_s, 0.98, 1, 0.5, 12.5, *row, *([1] * 18)])
    return path


def slow_mean(rows: Rows, start_s: float, end_s: float, step_s: float) -> NDArray[np.float64]:
    """The definition: one loop a step, a feature and a row."""
    assert rows.intervals_R2 is not None
    touching = [(b, e) for b, e in rows.intervals_R2.tolist() if b < end_s and e > start_s]
    if not touching:
        return np.zeros((0, rows.values_RF.shape[1]))
    last_s = min(end_s, max(e for _, e in touching))
    steps = []
    for step in range(max(1, math.floor((last_s - start_s) / step_s + 1e-6))):
        begin_s, until_s = start_s + step * step_s, start_s + step * step_s + step_s
        values = []
        for feature in range(rows.values_RF.shape[1]):
            total = weight = 0.0
            for (b, e), row in zip(rows.intervals_R2.tolist(), rows.values_RF.tolist(), strict=True):
                overlap = max(0.0, min(e, until_s) - max(b, begin_s))
                if math.isfinite(row[feature]) and overlap >= 1e-6 * step_s:
                    total, weight = total + overlap * row[feature], weight + overlap
            values.append(total / weight if weight > 0 else math.nan)
        steps.append(values)
    return np.array(steps)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    row_s=st.sampled_from([0.01, 1 / 30, 0.2, 0.31, 1.3]),
    step_s=st.sampled_from([0.1, 0.2, 0.5]),
    start_s=st.floats(0, 3),
)
def test_steps_equal_the_slow_definition(seed: int, row_s: float, step_s: float, start_s: float) -> None:
    random = np.random.default_rng(seed)
    # Rows with gaps, some of them empty, some features missing.
    begins_R = np.cumsum(row_s * random.choice([1.0, 1.0, 1.0, 3.0], size=random.integers(1, 40)))
    values_RF = random.normal(size=(len(begins_R), 3))
    values_RF[random.random(values_RF.shape) < 0.2] = np.nan
    rows = Rows(values_RF, np.stack([begins_R, begins_R + row_s], axis=1))
    found = alignment.to_steps(rows, start_s=start_s, end_s=start_s + 2.0, step_s=step_s, pooling="mean")
    np.testing.assert_allclose(found, slow_mean(rows, start_s, start_s + 2.0, step_s), atol=1e-9)


@pytest.mark.parametrize(("rate_hz", "frame_of_step"), [(30.0, 6), (25.0, 5)])
def test_nearest_frame_is_taken_by_time_not_by_count(rate_hz: float, frame_of_step: int) -> None:
    """Every sixth frame is 5 Hz at 30 frames a second; VoxCeleb2 has 25, of which it is every fifth."""
    times_R = np.round(np.arange(round(2 * rate_hz)) / rate_hz, 3)
    rows = alignment.rows_from_times(np.arange(len(times_R), dtype=np.float64)[:, None], times_R)
    steps_TF = alignment.to_steps(rows, start_s=0.0, end_s=math.inf, step_s=0.2, pooling="nearest")
    np.testing.assert_array_equal(steps_TF[:, 0], frame_of_step * np.arange(10))


def test_gaps_are_no_values_and_infinite_ones_are_what_their_users_make_of_them() -> None:
    times_R = np.array([0.0, 0.2, 0.4, 0.6, 1.4])
    rows = alignment.rows_from_times(np.array([[1.0], [2.0], [3.0], [4.0], [9.0]]), times_R)
    found = alignment.to_steps(rows, start_s=0.0, end_s=1.6, step_s=0.2, pooling="mean")
    np.testing.assert_allclose(found[:, 0], [1, 2, 3, 4, 4, np.nan, np.nan, 9], equal_nan=True)
    np.testing.assert_array_equal(alignment.clean(np.array([-np.inf, np.inf, 2.0, np.nan])), [0, np.nan, 2, np.nan])


def test_openface_columns_by_name_with_leading_blanks(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((60, 17)).round(2)
    for blank in ("", " "):
        write_openface(tmp_path / "a.csv", values.tolist(), blank=blank)
        made = {"path": str(tmp_path / "{clip_id}.csv"), "width": 17, "pooling": "nearest"}
        found = precomputed.read(clip(), config(video=made)).video_TF
        np.testing.assert_array_equal(found, values[::6].astype(np.float16))
    two = {"path": str(tmp_path / "{clip_id}.csv"), "width": 2, "columns": "AU45_r, pose_Tx"}
    found = precomputed.read(clip(), config(video=two)).video_TF
    assert found is not None
    assert found.shape == (10, 2)
    np.testing.assert_array_equal(found[:, 1], 12.5)


def test_openface_columns_by_position_where_they_have_other_names(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [[float(unit) for unit in UNITS]] * 30)
    path.write_text(path.read_text().replace("_r", "_intensity"))
    made = {"path": str(tmp_path / "{clip_id}.csv"), "width": 17}
    found = precomputed.read(clip(), config(video=made)).video_TF
    np.testing.assert_array_equal(found, [[int(unit) for unit in UNITS]] * 5)
    with pytest.raises(MediaError, match=r"has no column AU\?\?_r"):
        precomputed.read(clip(), config(video={**made, "width": 16}))


def test_of_several_faces_the_one_that_is_there_longest_is_read(tmp_path: Path) -> None:
    lines = ["frame, face_id, timestamp, AU01_r"]
    for frame in range(10):
        lines += [f"{frame},0,{frame / 10},1.0"] * (frame < 4) + [f"{frame},1,{frame / 10},3.0"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    found = precomputed.read(clip(), config(video={"path": str(tmp_path / "{clip_id}.csv"), "width": 1})).video_TF
    np.testing.assert_array_equal(found, [[3.0]] * 5)


def test_rows_with_nan_are_dropped_in_both_modalities_together(tmp_path: Path) -> None:
    """Sound at 5 Hz, picture at 30: a step that either lacks is gone from both, and both end with the shorter."""
    sound = np.arange(12, dtype=np.float32)[:, None].repeat(4, axis=1)
    sound[3, 1] = np.nan
    np.savez(tmp_path / "a.npz", embedding=sound, times_s=np.arange(12) * 0.2)
    picture = [[float(frame // 6)] * 17 for frame in range(60)]
    for frame in range(30, 36):
        picture[frame] = [math.nan] * 17
    write_openface(tmp_path / "a.csv", picture)
    both = config(
        audio={"path": str(tmp_path / "{clip_id}.npz"), "width": 4, "array": "embedding"},
        video={"path": str(tmp_path / "{clip_id}.csv"), "width": 17, "pooling": "nearest"},
    )
    found = precomputed.read(clip(), both)
    assert found.audio_TF is not None
    assert found.video_TF is not None
    np.testing.assert_array_equal(found.audio_TF[:, 0], [0, 1, 2, 4, 6, 7, 8, 9])
    np.testing.assert_array_equal(found.video_TF[:, 0], [0, 1, 2, 4, 6, 7, 8, 9])
    alone = precomputed.read(clip(), both.model_copy(update={"modalities": ("audio", "text")}))
    assert alone.audio_TF is not None
    assert alone.video_TF is not None
    assert (len(alone.audio_TF), alone.video_TF.shape) == (11, (0, 17))


@pytest.mark.parametrize("pooling", ["mean", "nearest"])
def test_sequence_of_a_video_is_cut_to_the_clip(tmp_path: Path, pooling: Literal["mean", "nearest"]) -> None:
    values = np.arange(1000, dtype=np.float32)[:, None].repeat(2, axis=1)
    values[410:415, 1] = -np.inf
    spans = [(n / 100, (n + 1) / 100) for n in range(1000)]
    write_csd(tmp_path / "CMU_MOSEI_COVAREP.csd", "COVAREP", {"video": (values, spans)})
    made = {"path": str(tmp_path / "CMU_MOSEI_COVAREP.csd"), "width": 2, "key": "{speaker_id}", "pooling": pooling}
    found = precomputed.read(clip("video[1]", speaker_id="video", start_s=4.0, end_s=5.0), config(audio=made)).audio_TF
    assert found is not None
    middle = 9.5 if pooling == "mean" else 0
    np.testing.assert_allclose(found[:, 0], [400 + middle + 20 * step for step in range(5)])
    assert np.isfinite(found).all()
    nobody = precomputed.read(clip("other[0]", speaker_id="other", start_s=0.0), config(audio=made)).audio_TF
    assert nobody is not None
    assert nobody.shape == (0, 2)


def test_what_is_named_by_the_clip_begins_with_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(10.0)[:, None])
    made = {"path": str(tmp_path / "{clip_id}.npz"), "width": 1, "row_s": 0.2}
    found = precomputed.read(clip(start_s=30.0, end_s=31.0), config(audio=made)).audio_TF
    np.testing.assert_array_equal(found, [[0], [1], [2], [3], [4]])
    np.savez(tmp_path / "film.npz", x=np.arange(10.0)[:, None])
    made = {"path": str(tmp_path / "{stem}.npz"), "width": 1, "row_s": 0.2}
    later = clip(video_uri="/x/film.mp4", start_s=1.0, end_s=1.8)
    np.testing.assert_array_equal(precomputed.read(later, config(audio=made)).audio_TF, [[5], [6], [7], [8]])


def test_shared_arrays_by_name_and_hdf5_groups(tmp_path: Path) -> None:
    import h5py

    np.savez(tmp_path / "all.npz", a=np.ones((5, 3)), b=np.zeros((2, 3)))
    made = {"path": str(tmp_path / "all.npz"), "width": 3, "row_s": 0.2}
    assert precomputed.read(clip("a"), config(audio=made)).audio_TF is not None
    np.testing.assert_array_equal(precomputed.read(clip("b"), config(audio=made)).audio_TF, np.zeros((2, 3)))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["a/features"], file["a/times_s"] = np.full((4, 3), 7.0), np.arange(4) * 0.2
        file["b"] = np.full((3, 3), 8.0)
    made["path"] = str(tmp_path / "all.h5")
    np.testing.assert_array_equal(precomputed.read(clip("a"), config(audio=made)).audio_TF, np.full((4, 3), 7))
    np.testing.assert_array_equal(precomputed.read(clip("b"), config(audio=made)).audio_TF, np.full((3, 3), 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 5}, "has 3 features a row, not width 5"),
        ({"row_s": None}, "has no time stamps: set row_s"),
        ({"array": "y"}, "no array y; there are x: set array"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((5, 3)))
    made = {"path": str(tmp_path / "{clip_id}.npz"), "width": 3, "row_s": 0.2, **change}
    with pytest.raises(MediaError, match=message):
        precomputed.read(clip(), config(audio=made))


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(MediaError, match=r"a\.npz is no readable numpy file"):
        precomputed.read(clip(), config(audio={"path": str(tmp_path / "{clip_id}.npz"), "width": 3}))
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(MediaError, match="write it again, without objects"):
        precomputed.read(clip(), config(audio={"path": str(tmp_path / "{clip_id}.npz"), "width": 3}))
    np.savez(tmp_path / "a.npz", x=np.full((3, 3), 1e6))
    with pytest.raises(MediaError, match="features reach 1e"):
        precomputed.read(clip(), config(audio={"path": str(tmp_path / "{clip_id}.npz"), "width": 3, "row_s": 0.2}))
    whole = write_csd(tmp_path / "x.csd", "x", {"a": (np.ones((500, 9)), [(n, n + 1) for n in range(500)])})
    whole.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"x\.csd was cut off"):
        precomputed.check(config(audio={"path": str(whole), "width": 9}))
    with pytest.raises(ValueError, match=r"all\.csv cannot hold many clips"):
        precomputed.check(config(audio={"path": str(tmp_path / "all.csv"), "width": 9}))
    with pytest.raises(ValueError, match=r"\{name\} is none of \{clip_id\}"):
        precomputed.check(config(audio={"path": str(tmp_path / "{name}.csv"), "width": 9}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audio": {"kind": "precomputed"}}, "kind precomputed needs both at once"),
        ({"audio": {"precomputed": {"path": "/x.npz", "width": 1}}}, "precomputed says nothing where kind is log_mel"),
        ({"audio": {"kind": "precomputed", "precomputed": {"path": "x.npz", "width": 1}}}, "absolute path"),
        (
            {"audio": {"kind": "precomputed", "precomputed": {"path": "/x.npz", "width": 1, "rename": ["(", ""]}}},
            "no regular expression",
        ),
    ],
)
def test_settings_are_checked_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(Choices(overrides={"features": values}))


def test_features_of_a_clip_have_the_width_and_step_of_the_settings(tmp_path: Path) -> None:
    write_openface(tmp_path / "a.csv", [[1.0] * 17] * 60)
    made = config(video={"path": str(tmp_path / "{clip_id}.csv"), "width": 17}, modalities=["video", "text"])
    assert (video_width(made.video), video_step_s(made.video)) == (17, 0.2)
    assert audio_width(made.audio) == 160
    assert audio_step_s(made.audio) == pytest.approx(0.04)
    found, warnings = clip_features.compute(NOTHING, "so it is", made, TOKENIZER, given=precomputed.read(clip(), made))
    assert found.video_TF.shape == (10, 17)
    assert not warnings
    _, warnings = clip_features.compute(NOTHING, "so it is", made, TOKENIZER)
    assert warnings == ("no-features",)
    recording = clip_features.record(audio=None, video=tmp_path / "is-not-opened.mp4", config=made)
    assert recording.frames_THW is None


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    write_openface(tmp_path / "a.csv", [[1.0] * 17] * 3)
    made = config(video={"path": str(tmp_path / "{clip_id}.csv"), "width": 17}).video.precomputed
    assert made is not None
    first = precomputed.fingerprint(made)
    assert precomputed.fingerprint(made) == first
    write_openface(tmp_path / "b.csv", [[1.0] * 17] * 3)
    assert precomputed.fingerprint(made) != first


def test_shard_holds_what_was_made_elsewhere_and_names_what_was_not(tmp_path: Path) -> None:
    write_openface(tmp_path / "a.csv", [[1.5] * 17] * 60)
    (tmp_path / "b.csv").write_text("frame, timestamp, confidence\n1,0.0,0.9\n")
    made = config(video={"path": str(tmp_path / "{clip_id}.csv"), "width": 17}, modalities=["video", "text"])
    plan = ShardPlan(
        path=tmp_path / "00000.arrow",
        clips=(clip("a", labels={"happy": 1.0}), clip("b"), clip("c", labels={"sad": 1.0})),
        config=made,
        tokenizer=TOKENIZER.to_str(),
        task=Task("classes", ("happy", "sad")),
    )
    write_plan(plan)
    notes = read_notes(plan.path)
    assert notes.skipped == (Skipped("b", "features-damaged"),)
    assert notes.num_warnings == {"no-features": 1}
    shards = ShardSet([plan.path])
    assert shards.widths == (160, 17)
    assert list(shards.clip_ids) == ["a", "c"]
    np.testing.assert_array_equal(shards.num_steps_N3, [[0, 10, 3], [0, 0, 3]])
    np.testing.assert_array_equal(shards.features(0).video_TF, np.full((10, 17), 1.5))


def test_run_is_another_when_the_files_of_features_change(tmp_path: Path) -> None:
    """DVC does not look outside its repository: the files' digest is in the run's parameters and so in its name."""
    write_openface(tmp_path / "a.csv", [[1.0] * 17] * 3)
    path = str(tmp_path / "{clip_id}.csv")
    made = {"kind": "precomputed", "precomputed": {"path": path, "width": 17}}
    choices = Choices(overrides={"features": {"video": made}})
    settings = Settings(home=tmp_path / "home")
    first = workspace.prepare(choices, settings)
    assert workspace.prepare(choices, settings) == first
    written = resolve(load_choices(first.folder / "params.yaml")).features.video.precomputed
    assert written is not None
    assert written.fingerprint == precomputed.fingerprint(Precomputed(path=path, width=17))
    write_openface(tmp_path / "a.csv", [[2.0] * 17] * 4)
    assert workspace.prepare(choices, settings).digest != first.digest


@pytest.mark.skipif(not (SHARED_DATA / "ravdess_av_features").is_dir(), reason="the shared features are not here")
def test_real_action_units_join_the_real_recordings() -> None:
    path = str(SHARED_DATA / "ravdess_av_features/ravdess_av_actors_01-08.npz")
    made = config(
        audio={"path": path, "width": 259, "array": "audio259", "rename": ["^03-", "01-"]},
        video={"path": path, "width": 35, "array": "au35", "rename": ["^03-", "01-"]},
    )
    precomputed.check(made)
    with np.load(path) as arrays:
        keys, units, sounds = arrays["keys"].tolist(), arrays["au35"], arrays["audio259"]
    clips = [item for item in ravdess.read(SHARED_DATA / "ravdess", None) if isinstance(item, Clip)]
    assert len(clips) == 480
    for each in clips[::37]:
        found = precomputed.read(each, made)
        row = keys.index(f"01-{each.clip_id[3:]}")
        np.testing.assert_array_equal(found.video_TF, units[row : row + 1].astype(np.float16))
        np.testing.assert_array_equal(found.audio_TF, sounds[row : row + 1].astype(np.float16))
