"""What a drill is made of; the drill itself needs minutes and is `make drill`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components import media
from components.clip import Clip
from components.datasets import table
from components.settings import Settings
from flows import drill, drill_world
from flows.drill_world import LABELS, Spoken


def test_recordings_are_of_three_emotions_and_noisy_ones_can_be_decoded(tmp_path: Path) -> None:
    found = drill_world.record(tmp_path, num_speakers=3, clips_per_speaker=2, seed=2, is_noisy=True)
    assert {each.emotion for each in found} <= set(LABELS)
    recording = media.decode(found[0].path, sample_rate_hz=16_000, frame_rate_hz=12.5)
    assert recording.waveform_T is not None
    assert recording.frames_THW is not None
    # The quietest tenth of a second is no silence any more.
    levels = [np.abs(part).mean() for part in np.array_split(recording.waveform_T, len(recording.waveform_T) // 1600)]
    assert min(levels) > 0.02 * max(levels)


def test_a_spoiled_table_says_nothing_of_its_recordings(tmp_path: Path) -> None:
    spoken = [
        Spoken(tmp_path / f"a/{number}.mp4", f"s{number % 9}", "words", LABELS[number % 3]) for number in range(180)
    ]

    def labels(*, is_spoiled: bool) -> list[str]:
        drill_world.write_table(tmp_path / "table.csv", spoken, is_spoiled=is_spoiled)
        clips = [each for each in table.read(tmp_path / "table.csv", None) if isinstance(each, Clip)]
        assert [clip.speaker_id for clip in clips] == [each.speaker for each in spoken]
        return [next(iter(clip.labels)) for clip in clips]

    right, wrong = labels(is_spoiled=False), labels(is_spoiled=True)
    assert right == [each.emotion for each in spoken]
    assert sorted(right) == sorted(wrong)
    # Of each emotion about a third has each label: nothing that could be learned.
    for emotion in LABELS:
        given = [label for label, actual in zip(wrong, right, strict=True) if actual == emotion]
        assert all(0.15 < given.count(label) / len(given) < 0.5 for label in LABELS)


def test_a_drill_is_beside_what_its_user_runs(tmp_path: Path) -> None:
    user = Settings(home=tmp_path, storage_url="s3://bucket/platform", rayservice="affect/endpoint")
    own = drill._own(user)
    assert own.home == tmp_path / "drill"
    assert own.storage_url == str(tmp_path / "drill" / "store")
    assert not own.rayservice
    assert own.sample_share == 1
    assert own.sample_age_s < user.sample_age_s
    assert own.endpoint_url != user.endpoint_url
    taken = {user.prefect_port, user.ray_port, user.dashboard_port, user.serve_port}
    assert not taken & {own.prefect_port, own.ray_port, own.dashboard_port, own.serve_port}
