"""`affect models`: each recipe's system and the number of its parameters, as published."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from components import models, recipe_models
from components.model_sizes import sizes
from components.params import Choices, recipe_names, resolve
from flows import cli
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(("size", "published"), [("base", 18_407_329), ("large", 89_250_961)])
def test_the_audiovisual_models_are_as_large_as_published(size: str, published: int) -> None:
    recipe = resolve(Choices(recipe=f"tran2022_{size}"))
    assert recipe_models.num_parameters(recipe) == published


def test_a_count_is_that_of_the_model() -> None:
    recipe = resolve(Choices(recipe="quick"))
    torch.manual_seed(0)
    found = sizes(recipe, (336, 216), vocabulary_size=recipe.features.text.vocabulary_size)
    model = models.build("trimodal", **found)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert recipe_models.num_parameters(recipe) == expected
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_the_command_lists_every_recipe() -> None:
    answer = CliRunner().invoke(cli.app, ["models", "--json"], catch_exceptions=False)
    listed = {entry["recipe"]: entry for entry in json.loads(answer.stdout)}
    assert sorted(listed) == recipe_names()
    assert listed["krishna2021"]["system"] == "speech_text"
    # wav2vec 2.0 and BERT, base, are 94 and 110 millions.
    assert 200e6 < listed["krishna2021"]["num_parameters"] < 210e6
    assert (listed["krishna2021"]["audio"], listed["krishna2021"]["video"]) == ("waveform", "-")
    assert listed["tran2022_base"]["num_parameters"] == 18_407_329
    assert listed["tran2022_base"]["audio"] == "precomputed"
    assert "89,250,961" in CliRunner().invoke(cli.app, ["models"], catch_exceptions=False).stdout


def test_the_command_needs_torch_for_nothing_else() -> None:
    code = "import sys, flows.cli; assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
