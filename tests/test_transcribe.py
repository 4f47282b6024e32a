"""Words by a speech recognizer: real saves of transformers, the same words in extraction and in serving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, Wav2Vec2ForCTC, WhisperForConditionalGeneration

from components import clip_table, task, transcripts
from components.clip_table import read_clips, to_clip
from components.extract import extract, extract_clips
from components.features import clip_features, speech, text
from components.media import write_wav
from components.params import Choices, Corpus, Features, TextFeatures
from components.predictor import read_preprocess
from components.settings import Settings
from components.shards import ShardSet, open_split
from components.sources import Transcribe
from flows.workspace import prepare
from tests.corpus_files import write_sound
from tests.recognizers import RATE_HZ, sound_of, write_level_reader, write_random_ctc, write_whisper


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_level_reader(tmp_path_factory.mktemp("recognizers") / "levels")


def noise(seed: int, duration_s: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.1, round(duration_s * RATE_HZ)).astype(np.float32)


def said(waveforms: list[Any], folder: Path) -> list[str]:
    return speech.transcribe(waveforms, Transcribe(path=str(folder)), sample_rate_hz=RATE_HZ)


def test_a_ctc_recognizer_says_what_the_sound_is(reader: Path) -> None:
    sounds = [sound_of("+-"), sound_of("-+"), sound_of("0+0-"), sound_of("+-"), sound_of("")]
    assert said(sounds, reader) == ["yes no", "no yes", "maybe yes maybe no", "yes no", ""]


def test_words_do_not_depend_on_what_is_heard_beside(tmp_path: Path) -> None:
    ctc, whisper = write_random_ctc(tmp_path / "ctc"), write_whisper(tmp_path / "whisper")
    sounds = [noise(1), noise(2, 0.7), noise(3), noise(4, 1.6)]
    for folder in (ctc, whisper):
        together = said(sounds, folder)
        assert together == [said([sound], folder)[0] for sound in sounds]
        assert all(together)
        assert len(set(together)) > 1

    # As transformers itself has them.
    hearing = AutoFeatureExtractor.from_pretrained(ctc)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    network = Wav2Vec2ForCTC.from_pretrained(ctc).train(False)
    with torch.inference_mode():
        logits = network(**hearing(sounds[0], sampling_rate=RATE_HZ, return_tensors="pt")).logits
    [decoded] = AutoTokenizer.from_pretrained(ctc).batch_decode(logits.argmax(-1))
    assert set(decoded.split()) > set(said(sounds[:1], ctc)[0].split())
    for symbol in ("</s>", "<s>", "<unk>"):
        decoded = decoded.replace(symbol, " ")
    assert decoded.split() == said(sounds[:1], ctc)[0].split()
    hearing = AutoFeatureExtractor.from_pretrained(whisper)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    writing = WhisperForConditionalGeneration.from_pretrained(whisper).train(False)
    ids = writing.generate(**hearing(sounds[0], sampling_rate=RATE_HZ, return_tensors="pt", return_attention_mask=True))
    spoken = AutoTokenizer.from_pretrained(whisper).batch_decode(ids, skip_special_tokens=True)
    assert spoken == said(sounds[:1], whisper)


def test_whisper_hears_a_long_sound_in_parts(tmp_path: Path) -> None:
    folder = write_whisper(tmp_path / "whisper", only="maybe")
    [short, long] = said([noise(1), noise(2, 1.6)], folder)
    assert set(short.split()) == {"maybe"}
    assert long.split() == short.split() * 2


def test_what_is_no_recognizer_is_told_in_one_line(tmp_path: Path, reader: Path) -> None:
    with pytest.raises(ValueError, match=r"transcribe\.path .*none has no config\.json: name a folder"):
        speech.identified(Transcribe(path=str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"hears 16000 Hz: set features\.audio\.sample_rate_hz"):
        speech.check(Transcribe(path=str(reader)), sample_rate_hz=8000)
    broken = {"config.json": '{"model_type": "bert"}', "model.safetensors": "no weights", "tokenizer_config.json": "{"}
    for name, content in broken.items():
        folder = tmp_path / name
        shutil.copytree(reader, folder)
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=r"is no recognizer \([^\n]+\): name a folder"):
            speech.check(Transcribe(path=str(folder)), sample_rate_hz=RATE_HZ)
    with pytest.raises(ValueError, match="absolute path"):
        Transcribe(path="levels")


def test_the_recognizer_names_the_run(tmp_path: Path, reader: Path) -> None:
    write_sound(tmp_path / "crema/AudioWAV/1001_DFA_ANG_XX.wav")
    corpus = Corpus(dataset="crema_d", root=str(tmp_path / "crema"))
    folder = tmp_path / "recognizer"
    choices = Choices(finetune_on=corpus, overrides={"features": {"text": {"transcribe": {"path": str(folder)}}}})
    shutil.copytree(reader, folder)
    first = prepare(choices, Settings(home=tmp_path / "home"))
    other = shutil.copytree(reader, tmp_path / "other")
    (other / "config.json").write_text((reader / "config.json").read_text() + "\n")
    moved = Choices(finetune_on=corpus, overrides={"features": {"text": {"transcribe": {"path": str(other)}}}})
    assert prepare(moved, Settings(home=tmp_path / "home")) != first
    known = speech.identified(Transcribe(path=str(reader)))
    with pytest.raises(ValueError, match="holds another recognizer"):
        speech.identified(known.model_copy(update={"path": str(other)}))


@pytest.mark.usefixtures("ray_address")
def test_the_stage_fills_in_what_is_missing(tmp_path: Path, reader: Path) -> None:
    clips_folder, target = tmp_path / "build" / "clips", tmp_path / "build" / "features"
    clips_folder.mkdir(parents=True)
    clips = [
        ("a", "train", "+-", None),
        ("b", "train", "-+", "given words"),
        ("c", "unlabelled", "-+-", None),
        ("d", "test", "0+-", None),
        ("e", "test", "", "words alone"),
    ]
    rows = []
    for name, split, levels, words in clips:
        row: dict[str, object] = dict.fromkeys(clip_table.SCHEMA.names)
        path = tmp_path / f"{name}.wav"
        if levels:
            write_wav(path, sound_of(levels), sample_rate_hz=RATE_HZ)
        row.update(clip_id=name, corpus="hand", speaker_id=f"of-{name}", session_id="", split=split, md5=name)
        row.update(audio_uri=str(path) if levels else None, transcript=words, start_s=0.0)
        row.update(duration_s=1.0, num_bytes=1, labels=[])
        rows.append(row)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=clip_table.SCHEMA), clips_folder / "clips.parquet")
    task.write(clips_folder, task.Task("classes", ("happy", "sad"), source="made up"))
    config = Features(text=TextFeatures(transcribe=Transcribe(path=str(reader))), clips_per_shard=2)
    extract(clips_folder, target, config)

    assert json.loads((target / "summary.json").read_text())["num_transcribed"] == 3
    assert transcripts.read(target) == {"a": "yes no", "c": "no yes no", "d": "maybe yes no"}
    tokenizer = text.load_tokenizer(target / "tokenizer.json")
    known = {word: tokenizer.token_to_id(word) is not None for word in ("yes", "no", "given", "maybe", "alone")}
    assert known == {"yes": True, "no": True, "given": True, "maybe": False, "alone": False}
    served = read_preprocess(target / "preprocess.json")
    words_of = {name: words for name, _, _, words in clips}
    source = open_split(target, "train", "unlabelled", "test")
    assert len(source) == len(clips)
    for index, name in enumerate(source.clip_ids):
        path = tmp_path / f"{name}.wav"
        recording = clip_features.record(audio=path if path.exists() else None, video=None, config=served)
        expected, warnings = clip_features.compute(recording, words_of[name], served, tokenizer)
        np.testing.assert_array_equal(source.features(index).word_ids_T, expected.word_ids_T)
        np.testing.assert_array_equal(source.features(index).audio_TF, expected.audio_TF)
        assert ("transcribed" in warnings) == (name in "acd")
        assert len(expected.word_ids_T) > 0

    # Blocks that are there are not heard again: the recognizer is gone, and its words are still used.
    partial = tmp_path / "again" / "transcripts"
    loaded = [to_clip(row) for row in read_clips(clips_folder).to_pylist()]
    first = transcripts.transcribe(loaded, served, partial)
    gone = served.model_copy(update={"text": served.text.model_copy(update={"transcribe": Transcribe(path="/none")})})
    assert transcripts.transcribe(loaded, gone, partial) == first
    (partial / "00001.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        transcripts.transcribe(loaded, gone, partial)

    # The words alone may be asked for, too, and another bundle's settings are followed.
    words_only = served.model_copy(update={"modalities": ("text",)})
    assert extract_clips(loaded[:1], config=words_only, tokenizer=tokenizer, folder=tmp_path / "words") == []
    found = ShardSet(sorted((tmp_path / "words").glob("*.arrow"))).features(0)
    assert (len(found.audio_TF), len(found.word_ids_T)) == (0, 2)
