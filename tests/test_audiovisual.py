"""The audiovisual system beyond the paper's checklist: padding, missing modalities, windows, and the form on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from components import models
from components.batches import Batch, collate, frame_statistics
from components.clip import MODALITIES, Modality
from components.models.audiovisual import AudiovisualModel, AudiovisualOutput
from components.objectives import Classification
from components.training import FitSettings, fit, predict
from tests.toy_clips import NUM_AUDIO_FEATURES, NUM_CLASSES, NUM_VIDEO_FEATURES, ToyClips

SIZES: dict[str, Any] = {
    "audio_features": NUM_AUDIO_FEATURES,
    "video_features": NUM_VIDEO_FEATURES,
    "num_classes": NUM_CLASSES,
    "width": 8,
    "num_heads": 2,
    "num_layers": 2,
}


def _model(**sizes: Any) -> AudiovisualModel:
    torch.manual_seed(0)
    model = models.build("audiovisual", **{**SIZES, **sizes})
    assert isinstance(model, AudiovisualModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.train(False)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Audio has twice as many steps as video here: nothing may depend on equal lengths."""
    return collate(ToyClips(6), range(6))


def _run(model: AudiovisualModel, batch: Batch) -> AudiovisualOutput:
    with torch.inference_mode():
        output: AudiovisualOutput = model(**batch.inputs())
    return output


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("drop", [(), ("audio",), ("video",)], ids=str)
def test_padding_changes_nothing(causal: bool, drop: tuple[Modality, ...], batch: Batch) -> None:
    model, batch = _model(causal=causal), batch.without(drop)
    longer = replace(
        batch,
        audio_BTF=F.pad(batch.audio_BTF, (0, 0, 0, 9), value=7.0),
        video_BTF=F.pad(batch.video_BTF, (0, 0, 0, 30), value=-7.0),
    )
    torch.testing.assert_close(_run(model, longer).logits_BC, _run(model, batch).logits_BC, rtol=1e-4, atol=1e-5)
    for row in range(6):
        alone = _run(model, collate(ToyClips(6), [row]).without(drop)).logits_BC[0]
        torch.testing.assert_close(alone, _run(model, batch).logits_BC[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_missing_modality_is_not_looked_at(modality: Modality, batch: Batch) -> None:
    model = _model()
    changed = replace(batch, **{f"{modality}_BTF": getattr(batch, f"{modality}_BTF") + 5})
    same, different = _run(model, batch.without([modality])), _run(model, changed.without([modality]))
    assert torch.equal(same.logits_BC, different.logits_BC)
    assert not torch.allclose(_run(model, batch).logits_BC, _run(model, changed).logits_BC, atol=1e-4)
    others: tuple[Modality, ...] = tuple(each for each in MODALITIES if each not in (modality, "text"))
    alone = _run(_model(modalities=list(others)), batch)
    assert torch.equal(alone.logits_BC, same.logits_BC)


@pytest.mark.parametrize("causal", [True, False])
def test_each_stream_looks_at_the_valid_steps_of_the_other_alone(causal: bool, batch: Batch) -> None:
    model = _model(causal=causal)
    output = _run(model, batch)
    for row in range(6):
        num_audio, num_video = int(batch.audio_lengths_B[row]), int(batch.video_lengths_B[row])
        assert num_video < num_audio
        with torch.inference_mode():
            audio_1TD = model.audio_projection(batch.audio_BTF[row : row + 1, :num_audio].transpose(1, 2)).transpose(
                1, 2
            )
            video_1TD = model.video_projection(batch.video_BTF[row : row + 1, :num_video].transpose(1, 2)).transpose(
                1, 2
            )
            there_1A, there_1V = (torch.ones(1, num, dtype=torch.bool) for num in (num_audio, num_video))
            found_1TD = model.audio_from_video(audio_1TD, video_1TD, there_1V)
            seen_1TD = model.video_from_audio(video_1TD, audio_1TD, there_1A)
        torch.testing.assert_close(output.audio_from_video_BTD[row, :num_audio], found_1TD[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.video_from_audio_BTD[row, :num_video], seen_1TD[0], rtol=1e-4, atol=1e-5)


def test_a_clip_with_nothing_gets_an_answer(batch: Batch) -> None:
    assert _run(_model(), batch.without(MODALITIES)).logits_BC.isfinite().all()


def test_windows_cover_the_clip_and_one_window_is_the_whole(batch: Batch) -> None:
    model = _model()
    output = _run(model, batch)
    with torch.inference_mode():
        whole_BKC, _ = model.window_logits(output, window_s=100.0)
        parts_BKC, there_BK = model.window_logits(output, window_s=1.0)
    torch.testing.assert_close(whole_BKC[:, 0], output.logits_BC)
    assert there_BK.sum(dim=1).tolist() == (-(-batch.audio_lengths_B // 5)).tolist()
    for row in range(6):
        last = int(there_BK[row].sum()) - 1
        torch.testing.assert_close(parts_BKC[row, last], output.logits_BC[row])
        # The past alone: the first window is what the model says of a clip that ends there.
        cut = replace(
            collate(ToyClips(6), [row]),
            audio_lengths_B=torch.tensor([5]),
            video_lengths_B=batch.video_lengths_B[row : row + 1].clamp(max=5),
        )
        torch.testing.assert_close(parts_BKC[row, 0], _run(model, cut).logits_BC[0], rtol=1e-4, atol=1e-5)


def test_inputs_are_normalised_where_asked() -> None:
    clips = ToyClips(12)
    statistics = vars(frame_statistics(clips))
    plain, normalising = _model(), _model(normalise_inputs=True)
    for model in (plain, normalising):
        model.set_input_statistics(**statistics)
    audio_BTF = collate(clips, range(12)).audio_BTF
    assert torch.equal(plain.normalised_audio(audio_BTF), audio_BTF)
    frames_NF = torch.cat([torch.from_numpy(clip.audio_TF).float() for clip in clips.clips])
    found_NF = normalising.normalised_audio(frames_NF)
    torch.testing.assert_close(found_NF.mean(dim=0), torch.zeros(NUM_AUDIO_FEATURES), rtol=0, atol=1e-3)
    torch.testing.assert_close(found_NF.std(dim=0, correction=0), torch.ones(NUM_AUDIO_FEATURES), rtol=1e-3, atol=0)


def test_a_saved_model_answers_the_same_to_the_bit(batch: Batch, tmp_path: Path) -> None:
    model = _model(normalise_inputs=True)
    model.set_input_statistics(**vars(frame_statistics(ToyClips(6))))
    models.save(model, tmp_path)
    for other in (models.load(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(other, AudiovisualModel)
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
    assert {key.split(".")[0] + "." for key in report.missing_keys} == set(AudiovisualModel.HEADS)


def test_the_unused_projections_are_counted_and_not_trained(tmp_path: Path) -> None:
    models.save(_model(), tmp_path)
    for model in (_model(), models.load(tmp_path)):
        idle = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert {name.split(".")[0] for name in idle} == {"unused_projections"}
        assert len(idle) == 4


def test_it_learns_what_can_be_learned() -> None:
    clips = ToyClips(48)
    model = _model(normalise_inputs=True, embedding_dropout=0.0, width=16)
    model.set_input_statistics(**vars(frame_statistics(clips)))
    fit(model, clips, Classification(), FitSettings(num_epochs=12, batch_size=16, learning_rate=5e-3, seed=0))
    right_N = predict(model, clips).argmax(axis=1) == clips.labels_NC.argmax(axis=1)
    assert right_N.mean() > 0.8


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"hidden_width": 3}, "unknown setting 'hidden_width'; did you mean head_width"),
        ({"zzz": 3}, "unknown setting 'zzz'; there are: .*num_heads"),
        ({"modalities": ["text"]}, "choose one or more of audio, video"),
        ({"modalities": []}, "choose one or more of audio, video"),
        ({"num_heads": 3}, "width 8 is no multiple of num_heads 3"),
        ({"video_step_s": 0.08}, "0.2 s and one of video 0.08 s"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused(sizes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _model(**sizes)
