"""The generated corpus: the same bytes each time, faces that a detector finds, weak witnesses one by one."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from components import datasets, media, params
from components.clip import MODALITIES
from components.datasets import synthetic
from components.datasets.synthetic import face, voice, words
from tests.conftest import REPOSITORY

SMALL = params.Synthetic(num_speakers=6, num_labelled=36, num_unlabelled=24)


def test_corpus_is_found_by_name_and_generated() -> None:
    module = datasets.load("synthetic")
    assert isinstance(module, datasets.GeneratedModule)
    assert {"ravdess", "synthetic", "table"} <= set(datasets.names())
    with pytest.raises(ValueError, match="did you mean synthetic"):
        datasets.load("synthetik")
    with pytest.raises(ValueError, match="leave root empty"):
        module.read(Path("somewhere"), None)


def test_plan_is_balanced_and_deterministic() -> None:
    plans = synthetic.plan(params.Synthetic())
    assert plans == synthetic.plan(params.Synthetic())
    assert plans != synthetic.plan(params.Synthetic(seed=8))
    labelled = [plan for plan in plans if plan.is_labelled]
    unlabelled = [plan for plan in plans if not plan.is_labelled]
    assert (len(labelled), len(unlabelled)) == (480, 1920)
    assert len({plan.clip_id for plan in plans}) == 2400
    assert Counter(plan.emotion for plan in labelled) == dict.fromkeys(synthetic.LABELS, 80)
    assert len({plan.speaker for plan in labelled}) == 24
    # Enough speakers have labelled clips only: a quarter and a sixth of them can be held out without waste.
    assert 24 - len({plan.speaker for plan in unlabelled}) == 10
    emotions_of_speaker = {
        plan.speaker: {p.emotion for p in labelled if p.speaker == plan.speaker} for plan in labelled
    }
    assert all(len(emotions) == 6 for emotions in emotions_of_speaker.values())


def test_at_most_one_modality_hides_the_emotion() -> None:
    plans = synthetic.plan(params.Synthetic())
    hidden = [sum(shown != plan.emotion for shown in plan.shown) for plan in plans]
    assert set(hidden) == {0, 1}
    assert np.mean(hidden) == pytest.approx(synthetic.MASKED_SHARE, abs=0.03)
    for modality in MODALITIES:
        share = np.mean([synthetic.shown_by(plan, modality) == plan.emotion for plan in plans])
        assert share == pytest.approx(1 - synthetic.MASKED_SHARE / 3, abs=0.03)


def test_lexicons_are_apart_and_large_enough() -> None:
    assert tuple(words.LEXICON) == tuple(voice.CUES) == tuple(face.CUES) == synthetic.LABELS
    assert all(len(set(lexicon)) == 40 for lexicon in words.LEXICON.values())
    for first, second in combinations(words.LEXICON, 2):
        assert not set(words.LEXICON[first]) & set(words.LEXICON[second]), (first, second)
    labelled = synthetic.plan(params.Synthetic())[:280]
    seen = {word for plan in labelled[:28] for word in plan.transcript.split()}
    everything = {word for lexicon in words.LEXICON.values() for word in lexicon}
    # What pre-training is for: a tenth of the labelled sentences lacks most of the words.
    assert 0.5 < len(everything - seen) / len(everything) < 0.9
    assert all(re.fullmatch(r"[a-z]+( [a-z]+){4,12}", plan.transcript) for plan in labelled)


def test_recording_is_the_same_in_any_order_and_process(tmp_path: Path) -> None:
    plans = synthetic.plan(SMALL)[:3]
    for plan in reversed(plans):
        synthetic.render(plan, tmp_path)
    here = [hashlib.md5((tmp_path / f"{plan.clip_id}.mp4").read_bytes()).hexdigest() for plan in plans]
    script = (
        "import sys, hashlib, pathlib\n"
        "from components import params\n"
        "from components.datasets import synthetic\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "for plan in synthetic.plan(params.Synthetic(num_speakers=6, num_labelled=36, num_unlabelled=24))[:3]:\n"
        "    synthetic.render(plan, folder)\n"
        "    print(hashlib.md5((folder / f'{plan.clip_id}.mp4').read_bytes()).hexdigest())\n"
    )
    other = tmp_path / "other"
    other.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(other)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == here


def test_faces_are_found_and_sound_is_speech_long(tmp_path: Path) -> None:
    detector = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
    num_found = num_frames = 0
    for plan in synthetic.plan(params.Synthetic())[:48:2]:
        clip = synthetic.render(plan, tmp_path)
        assert clip.speaker_id == plan.speaker_id
        assert clip.labels == {plan.emotion: 1.0}
        assert clip.audio_uri == clip.video_uri == f"{plan.clip_id}.mp4"
        recording = media.decode(tmp_path / f"{plan.clip_id}.mp4", sample_rate_hz=16_000, frame_rate_hz=12.5)
        assert recording.waveform_T is not None
        assert recording.frames_THW is not None
        assert 0.8 < recording.duration_s < 3.5
        assert 0.002 < np.sqrt(np.mean(recording.waveform_T**2)) < 0.5
        for frame in recording.frames_THW[::4]:
            num_frames += 1
            num_found += len(detector.detectMultiScale(frame, 1.1, 3, minSize=(24, 24))) > 0
    assert num_found / num_frames >= 0.95


def test_voice_carries_its_cues() -> None:
    """Loudness and length of the same speaker's sentences follow the table, on average over many."""
    speaker = voice.draw_voice(np.random.default_rng(0))
    spoken = {
        emotion: [voice.speak(speaker, emotion, 7, np.random.default_rng(seed)).waveform_T for seed in range(12)]
        for emotion in ("sad", "angry")
    }
    level = {emotion: np.mean([np.std(wave_T) for wave_T in waves]) for emotion, waves in spoken.items()}
    length = {emotion: np.mean([len(wave_T) for wave_T in waves]) for emotion, waves in spoken.items()}
    assert level["angry"] > 2 * level["sad"]
    assert length["sad"] > 1.2 * length["angry"]


def test_mouth_opens_with_the_voice() -> None:
    own = face.draw_face(np.random.default_rng(1))
    loudness_T = np.repeat([0.0, 1.0], 4)
    frames_THW3 = face.film(own, "neutral", loudness_T, np.random.default_rng(2))
    mouth_THW3 = frames_THW3[:, 84:112, 48:80]
    num_dark_T = (mouth_THW3.max(axis=3) < 80).sum(axis=(1, 2))
    assert num_dark_T[4:].min() > num_dark_T[:4].max()


def test_golden_requests_are_small_and_stable() -> None:
    first = synthetic.golden_requests()
    assert first == synthetic.golden_requests()
    by_name = {each.name: each for each in first}
    assert [len(first), len(by_name)] == [3, 3]
    assert all(len(each.audio or b"") < 40_000 and len(each.video or b"") < 40_000 for each in first)
    for each in first:
        for content in (each.audio, each.video):
            if content is not None:
                assert media.decode(content, sample_rate_hz=16_000, frame_rate_hz=12.5).duration_s > 0.5
    assert sum(each.text is not None for each in first) == 1
