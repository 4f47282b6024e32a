"""Waveforms, encoders and tokenizers of transformers as features: tiny random ones, written as real ones are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from components import drift
from components.datasets.synthetic import golden_requests
from components.features import ClipFeatures, clip_features, encoders, text
from components.features.audio import audio_step_s, audio_width, describe_sound, log_mel
from components.features.video import video_step_s, video_width
from components.params import AudioFeatures, Features, TextFeatures, VideoFeatures

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "morn", "##ing", "to", "you"]


def voice(duration_s: float) -> NDArray[np.float32]:
    times_s = np.arange(round(duration_s * 16_000)) / 16_000
    return np.asarray(0.3 * np.sin(2 * math.pi * 200 * times_s) * np.sin(7 * times_s), np.float32)


@pytest.fixture(scope="module")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8, 8, 8],
        conv_kernel=[10, 8, 4],
        conv_stride=[5, 8, 4],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": true}')
    return folder


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("picture")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3]}'
    )
    return folder


@pytest.fixture(scope="module")
def word_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    tokenizer = Tokenizer(WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As some are saved: with the padding and the cut of their training.
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_waveform_is_itself_one_sample_a_step() -> None:
    config = AudioFeatures(kind="waveform")
    found = describe_sound(voice(0.5), config)
    assert found.shape == (8000, audio_width(config))
    assert audio_step_s(config) == 1 / 16_000
    np.testing.assert_allclose(found[:, 0], voice(0.5), atol=3e-4)


def test_log_mel_comes_at_five_steps_a_second() -> None:
    config = AudioFeatures(stack=20)
    found = describe_sound(voice(2.0), config)
    assert (len(found), audio_width(config), audio_step_s(config)) == pytest.approx((10, 800, 0.2))
    assert video_step_s(VideoFeatures(frame_rate_hz=5.0)) == pytest.approx(0.2)
    np.testing.assert_array_equal(found, log_mel(voice(2.0), config))


def test_a_speech_encoder_says_what_transformers_says(speech_folder: Path) -> None:
    config = AudioFeatures(kind="encoder", path=str(speech_folder))
    waveform = voice(1.0)
    found = describe_sound(waveform, config)
    model = Wav2Vec2Model.from_pretrained(speech_folder)
    model.train(False)
    standard = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    with torch.inference_mode():
        expected = model(torch.from_numpy(standard)[None]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert (audio_width(config), audio_step_s(config)) == (24, 160 / 16_000)
    assert abs(len(found) - 100) <= 2
    assert describe_sound(voice(0), config).shape == (0, 24)
    assert describe_sound(voice(0.001), config).shape == (1, 24)


def test_a_picture_encoder_sees_the_grey_face(picture_folder: Path) -> None:
    path = str(picture_folder)
    faces = np.random.default_rng(0).integers(0, 255, (40, 32, 32), np.uint8)
    found = encoders.encode_pictures(faces, path)
    model = ViTModel.from_pretrained(picture_folder)
    model.train(False)
    grey = torch.from_numpy(faces[:, None].repeat(3, axis=1)).float() / 255
    colour = (grey - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.5
    with torch.inference_mode():
        expected = model(pixel_values=colour).last_hidden_state.mean(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_clip_is_described_by_encoders(speech_folder: Path, picture_folder: Path, word_folder: Path) -> None:
    config = Features(
        audio=AudioFeatures(kind="encoder", path=str(speech_folder)),
        video=VideoFeatures(kind="encoder", path=str(picture_folder)),
        text=TextFeatures(kind="pretrained", path=str(word_folder)),
    )
    [media] = [media for media in golden_requests() if media.video is not None]
    assert media.video is not None
    recording = clip_features.record(audio=media.video, video=media.video, config=config)
    tokenizer = text.fit_tokenizer([], config.text)
    features, warnings = clip_features.compute(recording, "Good morning", config, tokenizer)
    assert warnings == ()
    assert features.audio_TF.shape[1] == audio_width(config.audio)
    assert features.video_TF.shape[1] == video_width(config.video) == 16
    assert len(features.video_TF) == len(recording.frame_times_s)
    assert np.ptp(features.video_TF.astype(np.float32), axis=0).max() > 0
    assert features.word_ids_T.tolist() == [2, 5, 6, 7, 3]


def test_the_tokenizer_of_a_model_marks_and_cuts_the_text(word_folder: Path, tmp_path: Path) -> None:
    config = TextFeatures(kind="pretrained", path=str(word_folder), max_words=5)
    tokenizer = text.fit_tokenizer(["nothing of it matters"], config)
    assert tokenizer.get_vocab_size() == len(PIECES)
    assert text.encode(tokenizer, "Good you", config)[0].tolist() == [2, 5, 9, 3]
    ids, is_cut = text.encode(tokenizer, "good morning to you", config)
    assert ids.dtype == np.int32
    assert (ids.tolist(), is_cut) == ([2, 5, 6, 7, 3], True)
    for nothing in (None, "", " "):
        ids, is_cut = text.encode(tokenizer, nothing, config)
        assert (len(ids), is_cut) == (0, False)
    text.save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    assert text.mask_ids(tokenizer) == (4, 0)
    assert text.mask_ids(text.fit_tokenizer(["good"], TextFeatures())) == (2, 3)
    again = text.load_tokenizer(tmp_path / "tokenizer.json")
    assert again.to_str() == tokenizer.to_str()


def test_a_tokenizers_own_unknown_word_is_counted(word_folder: Path) -> None:
    config = TextFeatures(kind="pretrained", path=str(word_folder))
    tokenizer = text.fit_tokenizer([], config)
    ids, _ = text.encode(tokenizer, "good xylophone", config)
    assert ids.tolist() == [2, 5, PIECES.index("[UNK]"), 3]
    nothing = np.zeros((0, 1), np.float16)
    clip = ClipFeatures(nothing, nothing, ids)
    assert drift.summarise(clip, unknown_id=text.unknown_id(tokenizer))["text"].tolist() == [4, 0.25]
    # Where the unknown word has another id, the id 1 is a word like any other.
    moved = Tokenizer(WordPiece({"[CLS]": 0, "good": 1, "<unk>": 2}, unk_token="<unk>"))
    assert text.unknown_id(moved) == 2
    good = ClipFeatures(nothing, nothing, np.array([1, 1, 2, 1], np.int32))
    assert drift.summarise(good, unknown_id=2)["text"].tolist() == [4, 0.25]
    # One that spells words out in bytes knows them all.
    spelling = Tokenizer(BPE({"g": 0, "o": 1}, []))
    assert text.unknown_id(spelling) is None
    assert drift.summarise(good, unknown_id=None)["text"].tolist() == [4, 0.0]
    assert text.unknown_id(Tokenizer(Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))) == 0
    assert text.unknown_id(text.fit_tokenizer(["good"], TextFeatures())) == 1


def test_a_damaged_tokenizer_is_told_in_one_line(word_folder: Path, tmp_path: Path) -> None:
    whole = json.loads((word_folder / "tokenizer.json").read_text())
    for number, (part, damage) in enumerate(
        [("model", {"type": "WordPiece", "vocab": "lost"}), ("normalizer", {"type": "none such"}), ("added_tokens", 7)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(whole | {part: damage}))
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged \([^\n]+\): save it again") as told:
            text.fit_tokenizer([], TextFeatures(kind="pretrained", path=str(folder)))
        assert "\n" not in str(told.value)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer of this project: build the features again"):
        text.fit_tokenizer([], TextFeatures(kind="pretrained", path=str(folder)))


def test_what_is_no_encoder_is_named(tmp_path: Path, picture_folder: Path, speech_folder: Path) -> None:
    empty = AudioFeatures(kind="encoder", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"config\.json cannot be read: name a folder"):
        audio_width(empty)
    with pytest.raises(ValueError, match=r"vit does not turn samples into steps"):
        audio_width(AudioFeatures(kind="encoder", path=str(picture_folder)))
    with pytest.raises(ValueError, match="hears 16000 Hz: set"):
        audio_width(AudioFeatures(kind="encoder", path=str(speech_folder), sample_rate_hz=8000))
    with pytest.raises(ValueError, match="no tokenizer's folder, and no name on the hub"):
        text.fit_tokenizer([], TextFeatures(kind="pretrained", path=str(tmp_path / "none")))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd"}))
    with pytest.raises(ValueError, match="says no hidden_size"):
        video_width(VideoFeatures(kind="encoder", path=str(tmp_path)))
