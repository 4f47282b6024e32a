"""The speech and text system beyond the paper's checklist: missing modalities, windows, files, and wrong settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from components import models
from components.batches import Batch, collate
from components.clip import Modality
from components.models.speech_text import SpeechTextModel, SpeechTextOutput
from components.objectives import Classification
from components.training import FitSettings, fit, predict
from tests.toy_pairs import SMALL_SPEECH, SMALL_WORDS, WORDS, there, waves_and_words

SIZES: dict[str, Any] = {
    "audio_architecture": SMALL_SPEECH,
    "text_architecture": SMALL_WORDS,
    "width": 8,
    "num_heads": 2,
    "num_classes": 2,
}


def _model(**sizes: Any) -> SpeechTextModel:
    torch.manual_seed(0)
    model = models.build("speech_text", **{**SIZES, **sizes})
    assert isinstance(model, SpeechTextModel)
    model.train(False)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    return collate(waves_and_words(6), range(6))


def _run(model: SpeechTextModel, batch: Batch) -> SpeechTextOutput:
    with torch.inference_mode():
        output: SpeechTextOutput = model(**batch.inputs())
    return output


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_missing_modality_is_not_looked_at(modality: Modality, batch: Batch) -> None:
    model = _model()
    changed = replace(batch, audio_BTF=-batch.audio_BTF.square(), word_ids_BT=(batch.word_ids_BT + 7) % WORDS)
    other = "word_ids_BT" if modality == "audio" else "audio_BTF"
    changed = replace(changed, **{other: getattr(batch, other)})
    same, different = _run(model, batch.without([modality])), _run(model, changed.without([modality]))
    assert torch.equal(same.logits_BC, different.logits_BC)
    assert not torch.allclose(_run(model, batch).logits_BC, _run(model, changed).logits_BC, atol=1e-5)
    # The stream that is left still tells the clips apart.
    assert float(same.logits_BC.std(dim=0).min()) > 1e-4
    assert _run(model, batch.without(["audio", "text"])).logits_BC.isfinite().all()


def test_a_clip_shorter_than_one_frame_is_one_frame(batch: Batch) -> None:
    output = _run(_model(), replace(batch, audio_lengths_B=torch.tensor([1, 9, 29, 30, 34, 200])))
    assert output.logits_BC.isfinite().all()
    # A frame sees 10 + (3 - 1) * 5 + (2 - 1) * 10 = 30 samples, and the next begins 20 later.
    assert there(output.audio).mask_BT.sum(dim=1).tolist() == [1, 1, 1, 1, 1, 9]


def test_masked_samples_are_silence(batch: Batch) -> None:
    model = _model()
    masked_BT = torch.zeros(batch.audio_BTF.shape[:2], dtype=torch.bool)
    masked_BT[:, 40:120] = True
    changed_BTF = batch.audio_BTF.clone()
    changed_BTF[:, 40:120] = changed_BTF[:, 40:120].flip(1)
    with torch.inference_mode():
        one = model(**batch.inputs(), audio_masked_BT=masked_BT).logits_BC
        two = model(**replace(batch, audio_BTF=changed_BTF).inputs(), audio_masked_BT=masked_BT).logits_BC
        bare = model(**batch.inputs()).logits_BC
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, bare, atol=1e-5)


@pytest.mark.parametrize("modalities", [("audio", "text"), ("audio",), ("text",)], ids="+".join)
def test_windows_cover_the_clip_and_one_window_is_the_whole(modalities: tuple[str, ...], batch: Batch) -> None:
    missing = {f"{each}_architecture": None for each in ("audio", "text") if each not in modalities}
    model = _model(modalities=list(modalities), **missing)
    output = _run(model, batch)
    with torch.inference_mode():
        whole_BKC, _ = model.window_logits(output, window_s=100.0)
        parts_BKC, there_BK = model.window_logits(output, window_s=200 / 16_000)
    torch.testing.assert_close(whole_BKC[:, 0], output.logits_BC)
    assert parts_BKC.shape[:2] == there_BK.shape
    frames_B = ((batch.audio_lengths_B - 30) // 20 + 1) if "audio" in modalities else torch.ones(6)
    assert there_BK.sum(dim=1).tolist() == (-(-frames_B // 10)).tolist()
    silent = _run(model, batch.without(["audio"]))
    assert model.window_logits(silent, window_s=200 / 16_000)[1].sum(dim=1).tolist() == [1] * 6


@pytest.mark.parametrize("freeze", ["none", "front_end"])
def test_a_saved_model_answers_the_same_to_the_bit_and_names_no_place(
    freeze: str, batch: Batch, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    BertModel(BertConfig(**{k: v for k, v in SMALL_WORDS.items() if k != "model_type"})).save_pretrained(
        tmp_path / "words"
    )
    model = _model(text_encoder=tmp_path / "words", text_architecture=None, freeze=freeze)
    models.save(model, tmp_path / "saved")
    written = (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in written
    assert json.loads(written)["text_architecture"]["hidden_size"] == 16
    (tmp_path / "words" / "model.safetensors").unlink()
    for other in (models.load(tmp_path / "saved"), AutoModel.from_pretrained(tmp_path / "saved")):
        assert isinstance(other, SpeechTextModel)
        assert torch.equal(_run(other, batch).logits_BC, _run(model, batch).logits_BC)


def test_new_heads_come_from_the_saved_configuration(tmp_path: Path) -> None:
    models.save(_model(num_classes=0), tmp_path)
    pretrained = models.load(tmp_path)
    config = {**pretrained.config.to_dict(), "num_classes": 4}
    tuned = models.build(config.pop("system"), **config)
    report = tuned.load_state_dict(pretrained.state_dict(), strict=False)
    models.save(tuned, tmp_path / "tuned")
    assert str(tmp_path) not in (tmp_path / "tuned" / "config.json").read_text(encoding="utf-8")
    assert not report.unexpected_keys
    assert {key.split(".")[0] + "." for key in report.missing_keys} == set(SpeechTextModel.HEADS)


def test_a_training_step_draws_nothing_from_numpy(batch: Batch) -> None:
    # transformers masks wav2vec2's frames with numpy's global generator, which a resumed run does not restore.
    model = _model(audio_architecture={**SMALL_SPEECH, "mask_time_prob": 0.9, "mask_time_length": 2})
    model.train()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(model(**batch.inputs()).logits_BC)
    assert torch.equal(found[0], found[1])


def test_it_learns_what_can_be_learned() -> None:
    clips = waves_and_words(32)
    model = _model(dropout=0.0, freeze="front_end")
    fit(model, clips, Classification(), FitSettings(num_epochs=8, batch_size=8, learning_rate=3e-3, seed=0))
    right_N = predict(model, clips).argmax(axis=1) == clips.labels_NC.argmax(axis=1)
    assert right_N.mean() > 0.9


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"num_head": 3}, "unknown setting 'num_head'; did you mean num_heads"),
        ({"modalities": ["video"]}, "choose one or more of audio, text"),
        ({"modalities": ["text"]}, "audio_architecture is given, but modalities leave audio out"),
        ({"ablation": "attention"}, "ablation 'attention' is none of none, concatenation"),
        ({"freeze": "audio"}, "freeze 'audio' is none of none, front_end, all"),
        ({"audio_features": 40}, "hears the waveform itself"),
        ({"audio_step_s": 0.01}, "set the waveform to 16 kHz"),
        ({"num_heads": 3}, "multiple of num_heads 3"),
        ({"kernel_size": 4}, "kernel_size 4 odd"),
        ({"vocabulary_size": 41}, "gives 41 ids and the text encoder knows 40"),
        ({"audio_architecture": {"hidden_size": 4}}, "audio_architecture has no model_type"),
        (
            {"audio_architecture": SMALL_WORDS},
            "'bert' is no encoder of waveforms that this system knows: take one of hubert",
        ),
        ({"text_encoder": "somewhere"}, "give text_encoder or text_architecture, not both"),
        ({"text_architecture": None, "text_encoder": "/no/such/folder"}, "is no encoder that can be read"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused(sizes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        _model(**sizes)
    assert "\n" not in str(caught.value)


def test_concatenation_needs_two_modalities() -> None:
    with pytest.raises(ValueError, match="joins two modalities"):
        _model(modalities=["audio"], text_architecture=None, ablation="concatenation")


def test_too_long_a_transcript_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match="40 word pieces: the text encoder reads 32 at most"):
        _run(_model(), replace(batch, word_ids_BT=torch.ones(6, 40, dtype=torch.long)))


def test_the_last_place_that_an_encoder_knows_can_be_read(batch: Batch) -> None:
    for kind, num_words in (("bert", 32), ("roberta", 30)):
        model = _model(text_architecture={**SMALL_WORDS, "model_type": kind, "pad_token_id": 1})
        full = replace(batch, word_ids_BT=torch.full((6, num_words), 7), word_lengths_B=torch.full((6,), num_words))
        assert _run(model, full).logits_BC.isfinite().all()
        assert there(model.word_encoder).max_words == num_words


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(**{k: v for k, v in SMALL_WORDS.items() if k != "model_type"})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"weights lack 16 .* first encoder\.layer\.2"):
        _model(text_encoder=tmp_path, text_architecture=None)
