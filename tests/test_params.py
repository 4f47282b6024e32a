"""Settings: sections of several kinds, merging, overrides, and what is told of a wrong key."""

from __future__ import annotations

import re

import pytest

from components import params
from components.features.audio import audio_step_s
from components.features.video import video_step_s
from components.params import AudioFeatures, Choices, TextFeatures, resolve, with_setting
from components.sections import merge
from components.systems import Audiovisual, SpeechText, Trimodal


def test_each_recipe_is_of_its_system() -> None:
    systems = {name: resolve(Choices(recipe=name)).model for name in params.recipe_names()}
    assert {name: type(model) for name, model in systems.items()} == {
        "khare2021": Trimodal,
        "krishna2021": SpeechText,
        "quick": Trimodal,
        "tran2022_base": Audiovisual,
        "tran2022_large": Audiovisual,
    }


def test_a_resolved_run_reads_back_as_it_was() -> None:
    for name in params.recipe_names():
        settings = resolve(Choices(recipe=name))
        assert params.parse(params.Params, settings.model_dump(mode="json"), source="test") == settings


@pytest.mark.parametrize(
    ("recipe", "assignment", "message"),
    [
        ("quick", "model.widht=8", r"unknown key model\.widht; did you mean width\?"),
        ("quick", "finetune.min_workers=3", r"finetune: min_workers 3: no more than num_workers, 2"),
        ("tran2022_base", "model.casual=true", r"unknown key model\.casual; did you mean causal\?"),
        ("tran2022_base", "model.modality_weights=[1,1,1]", r"unknown key model\.modality_weights"),
        ("quick", "model.system=trimodel", r"unknown system 'trimodel' in model; did you mean trimodal\? there are: "),
        ("quick", "finetune.num_epoch=3", r"unknown key finetune\.num_epoch; did you mean num_epochs\?"),
        ("quick", "gates.min_macro=3", r"unknown key gates\.min_macro; did you mean min_macro_f1\?"),
        ("quick", "pretrain_on.datset=ravdess", r"unknown key pretrain_on\.datset; did you mean dataset\?"),
        ("quick", "model.width=2", r"model\.width = 2: Input should be greater than or equal to 8"),
        ("quick", "features.audio.kind=encoder", r"features\.audio: kind encoder needs path"),
        ("krishna2021", "features.audio.num_mels=20", r"features\.audio: num_mels says nothing where kind is waveform"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(recipe: str, assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^--set: {message}") as caught:
        with_setting(Choices(recipe=recipe), assignment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["activation_checkpointing=true", "sharding=full"])
def test_compiled_layers_are_neither_sharded_nor_computed_again(other: str) -> None:
    compiled = with_setting(Choices(recipe="quick"), "finetune.compile=true")
    with pytest.raises(ValueError, match=r"finetune: compile: not together with"):
        with_setting(compiled, f"finetune.{other}")


def test_settings_of_the_chosen_system_are_known() -> None:
    choices = with_setting(Choices(recipe="tran2022_base"), "model.causal=false")
    model = resolve(with_setting(choices, "model.num_layers=2")).model
    assert model == Audiovisual(causal=False, num_layers=2)


def test_another_system_begins_with_its_own_defaults() -> None:
    choices = with_setting(Choices(recipe="quick"), "model.system=audiovisual")
    assert resolve(choices).model == Audiovisual()
    assert resolve(with_setting(choices, "model.width=60")).model == Audiovisual(width=60)


def test_another_kind_of_features_begins_with_its_own_defaults() -> None:
    choices = with_setting(Choices(recipe="quick"), "features.audio.kind=waveform")
    assert resolve(choices).features.audio == AudioFeatures(kind="waveform")
    # The same kind keeps what the recipe says.
    same = with_setting(Choices(recipe="quick"), "features.audio={kind: log_mel, num_mels: 20}")
    assert resolve(same).features.audio == AudioFeatures(num_mels=20, stack=8, pitch=True)


def test_the_audiovisual_recipe_runs_on_what_is_built_in() -> None:
    """As its file says, for want of the authors' features: both at five steps a second."""
    choices = with_setting(Choices(recipe="tran2022_base"), "features.audio={kind: log_mel, stack: 20}")
    features = resolve(with_setting(choices, "features.video={kind: histogram, frame_rate_hz: 5.0}")).features
    assert (audio_step_s(features.audio), video_step_s(features.video)) == pytest.approx((0.2, 0.2))
    assert (features.audio.precomputed, features.video.precomputed) == (None, None)


def test_merging_leaves_both_sides_alone() -> None:
    lower, upper = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}}
    assert merge(lower, upper) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert lower == {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge({"a": {"kind": "x", "c": 2}}, {"a": {"kind": "y"}}) == {"a": {"kind": "y"}}


def test_a_folder_is_refused_where_no_model_is_read_from_it() -> None:
    with pytest.raises(ValueError, match="path says nothing where kind is words"):
        TextFeatures(path="/somewhere")


def test_the_form_has_every_choice() -> None:
    properties = Choices.model_json_schema()["properties"]
    assert set(properties) == {"recipe", "finetune_on", "pretrain_on", "seed", "gates", "overrides"}


def test_what_is_recalled_is_marked_in_the_recipes() -> None:
    """Reference section 1 to 3: the values that nobody found in a public source, by recipe."""
    recalled = {
        "khare2021": {"num_mels", "hop_s", "stack", "width", "num_heads", "num_layers", "linear_head", "warmup_share"}
        | {"mask_share", "mask_span", "loss_weights"},
        "krishna2021": {"path", "audio_encoder", "text_encoder", "width", "num_heads", "batch_size", "learning_rate"},
    }
    for recipe, expected in recalled.items():
        lines = (params.RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines()
        marked = {
            line.split(":")[0].strip()
            for line in lines
            if re.search(r"\S.*# source: recalled", line) and line[0] != "#"
        }
        assert marked == expected, recipe
