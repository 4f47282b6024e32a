"""Systems by name: a module of this folder is a system, and its name is its address."""

from __future__ import annotations

import difflib
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from components.models.configuration import SystemConfig

# What is not a system but what systems are made of.
_PARTS = {
    *("attention", "audiovisual_layers", "configuration", "dropout", "layers", "speech_text_encoders", "summary"),
    "trimodal_decoder",
}


def system_names() -> list[str]:
    """Names of the systems that can be built."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _PARTS)


def config_of(system: str) -> type[SystemConfig]:
    """The configuration of a system; its fields say what `build` takes.

    Raises:
        ValueError: there is no such system.
    """
    found = [
        each for each in vars(_module(system)).values() if isinstance(each, type) and issubclass(each, SystemConfig)
    ]
    own = [each for each in found if each.system == system]
    assert len(own) == 1, f"components/models/{system}.py needs one configuration with that system"
    return own[0]


def build(system: str, **sizes: Any) -> PreTrainedModel:
    """A freshly initialised model of a system; `sizes` are the fields of its configuration.

    The draw comes from torch's generator: seed it first.

    Raises:
        ValueError: there is no such system.
    """
    model: PreTrainedModel = _module(system).build(**sizes)
    return model


def heads_of(model: PreTrainedModel) -> tuple[str, ...]:
    """How the names of the weights begin that are drawn anew for fine-tuning."""
    heads: tuple[str, ...] = vars(type(model))["HEADS"]
    return heads


def load(folder: Path) -> PreTrainedModel:
    """The model that `save_pretrained` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it is not a model of this project, or its files do not belong together.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no model: {path.name} is missing")
    try:
        system = json.loads(path.read_text(encoding="utf-8"))["system"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"{path} does not describe a model of this project: {error!r}") from error
    if system not in system_names():
        raise ValueError(f"{path}: unknown system {system!r}; there are: {', '.join(system_names())}")
    module = _module(system)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    model: PreTrainedModel = module.load(folder)
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    return model


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`, in the form that `load` and `AutoModel` read."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    model.save_pretrained(folder)


def _module(system: str) -> ModuleType:
    names = system_names()
    if system not in names:
        near = difflib.get_close_matches(system, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown system {system!r}{hint} there are: {', '.join(names)}")
    return importlib.import_module(f"{__name__}.{system}")
