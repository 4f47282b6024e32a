"""Shards: what is written is read again without a copy, always in the same bytes, and damage is told."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.batches import ClipSource
from components.features import ClipFeatures
from components.shards import Example, ShardNotes, ShardSet, Skipped, open_split, read_notes, shard_name, write_shard

WIDTHS = (5, 3)


def example(number: int, num_steps: tuple[int, int, int], label_values: tuple[float, ...]) -> Example:
    generator = np.random.default_rng(number)

    def steps(count: int, width: int) -> NDArray[np.float16]:
        return generator.normal(size=(count, width)).astype(np.float16)

    word_ids_T = generator.integers(0, 99, num_steps[2]).astype(np.int32)
    features = ClipFeatures(steps(num_steps[0], WIDTHS[0]), steps(num_steps[1], WIDTHS[1]), word_ids_T)
    return Example(f"clip {number} é", f"speaker {number % 3}", label_values, features)


EXAMPLES = [example(0, (4, 2, 3), (1.0, 0.0)), example(1, (0, 0, 0), ()), example(2, (7, 0, 1), (0.25, 0.75))]

counts = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
labels = st.one_of(st.just(()), st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)))


@settings(max_examples=50)
@given(shards=st.lists(st.lists(st.tuples(counts, labels), max_size=5), max_size=4))
def test_what_is_written_is_read_again(shards: list[list[tuple[tuple[int, int, int], tuple[float, ...]]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        examples: list[Example] = []
        paths: list[Path] = []
        for number, clips in enumerate(shards):
            written = [example(len(examples) + n, num_steps, values) for n, (num_steps, values) in enumerate(clips)]
            paths.append(Path(folder) / shard_name(number))
            write_shard(paths[-1], written, widths=WIDTHS)
            examples += written
        source: ClipSource = ShardSet(paths)
        assert len(source) == len(examples)
        assert list(source.clip_ids) == [clip.clip_id for clip in examples]
        assert list(source.speaker_ids) == [clip.speaker_id for clip in examples]
        num_labels = max((len(clip.label_values) for clip in examples), default=0)
        assert source.labels_NC.shape == (len(examples), num_labels)
        for index, clip in enumerate(examples):
            found, expected = source.features(index), clip.features
            np.testing.assert_array_equal(found.audio_TF, expected.audio_TF)
            np.testing.assert_array_equal(found.video_TF, expected.video_TF)
            np.testing.assert_array_equal(found.word_ids_T, expected.word_ids_T)
            assert found.audio_TF.shape == expected.audio_TF.shape
            assert found.video_TF.shape == expected.video_TF.shape
            lengths = [len(expected.audio_TF), len(expected.video_TF), len(expected.word_ids_T)]
            assert source.num_steps_N3[index].tolist() == lengths
            values = source.labels_NC[index]
            assert values.tolist() == list(clip.label_values) if clip.label_values else np.isnan(values).all()


def test_same_content_gives_same_bytes_and_keeps_its_notes(tmp_path: Path) -> None:
    notes = ShardNotes((Skipped("lost", "truncated"),), {"silence": 2, "no-face": 1})
    for name in ("one", "two"):
        write_shard(tmp_path / name, EXAMPLES, widths=WIDTHS, notes=notes)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_notes(tmp_path / "one") == notes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_features_are_views_into_the_file(tmp_path: Path) -> None:
    write_shard(tmp_path / shard_name(0), EXAMPLES, widths=WIDTHS)
    features = ShardSet([tmp_path / shard_name(0)]).features(0)
    for array in (features.audio_TF, features.video_TF, features.word_ids_T):
        assert not array.flags.writeable
        assert not array.flags.owndata


def test_opening_shards_costs_neither_memory_nor_descriptors(tmp_path: Path) -> None:
    large = Example("long", "a", (), ClipFeatures(np.ones((400_000, 5), np.float16), *_nothing()))
    paths = [tmp_path / shard_name(number) for number in range(8)]
    for path in paths:
        write_shard(path, [large], widths=WIDTHS)
    process = psutil.Process()
    num_open, anonymous = process.num_fds(), _private_bytes(process)
    source = ShardSet(paths)
    total = sum(float(source.features(index).audio_TF[:, 0].astype(np.float64).sum()) for index in range(len(source)))
    assert total == 8 * 400_000
    assert process.num_fds() == num_open
    # 32 MB were read; what is left is the arithmetic's own.
    assert _private_bytes(process) - anonymous < 12e6


def _nothing() -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    return np.zeros((0, 3), np.float16), np.zeros(0, np.int32)


def _private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def test_a_copy_in_another_process_maps_the_files_again(tmp_path: Path) -> None:
    write_shard(tmp_path / shard_name(0), EXAMPLES, widths=WIDTHS)
    sent = pickle.dumps(ShardSet([tmp_path / shard_name(0)]))
    assert len(sent) < 500
    assert list(pickle.loads(sent).clip_ids) == [clip.clip_id for clip in EXAMPLES]


def test_splits_are_joined_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / shard_name(1), EXAMPLES[1:], widths=WIDTHS)
    write_shard(tmp_path / "train" / shard_name(0), EXAMPLES[:1], widths=WIDTHS)
    write_shard(tmp_path / "unlabelled" / shard_name(0), [], widths=WIDTHS)
    source = open_split(tmp_path, "train", "unlabelled")
    assert list(source.clip_ids) == [clip.clip_id for clip in EXAMPLES]
    assert source.widths == WIDTHS
    assert len(open_split(tmp_path, "unlabelled")) == 0
    with pytest.raises(ValueError, match=r"test has no shards: run `dvc repro features`"):
        open_split(tmp_path, "test")
    with pytest.raises(IndexError):
        source.features(3)


def test_every_cut_of_a_shard_is_told(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0)
    write_shard(path, EXAMPLES, widths=WIDTHS)
    content = path.read_bytes()
    for num_bytes in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:num_bytes])
        with pytest.raises(ValueError, match=r"00000\.arrow is damaged or half written: delete build/features and run"):
            ShardSet([path])


def test_a_flipped_bit_never_ends_in_another_error(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0)
    write_shard(path, EXAMPLES, widths=WIDTHS)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for position in generator.integers(0, len(content), 300).tolist():
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            source = ShardSet([path])
        except ValueError:
            continue
        for index in range(len(source)):
            source.features(index)


def test_shards_of_other_settings_or_programs_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / shard_name(0), tmp_path / shard_name(1)
    write_shard(one, EXAMPLES, widths=WIDTHS)
    write_shard(other, [], widths=(4, 3))
    with pytest.raises(ValueError, match=r"00001\.arrow has features of widths \(4, 3\), .* of \(5, 3\)"):
        ShardSet([one, other])
    write_shard(other, [example(9, (1, 1, 1), (1.0, 0.0, 0.0))], widths=WIDTHS)
    with pytest.raises(ValueError, match=r"clips with \[2, 3\] labels"):
        ShardSet([one, other])
