"""The endpoint as a BentoML service: the same app in one portable server, for a laptop, an image or an edge box.

`store` puts a bundle into BentoML's model store with its lineage as metadata; `bentoml serve
serving.bento:EmotionService` serves the newest one. It answers what the Ray Serve target answers, apart from
`/healthz` and `/readyz`, which are BentoML's own. `bentoml serve` listens on all addresses unless it is told
otherwise, and so it needs API keys unless it is told `--host 127.0.0.1`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import bentoml
import click
from bentoml.models import BentoModel

from components import settings
from components.bundle_files import PROVENANCE, version_of
from serving import keys, loading
from serving.app import Live, create_app

MODEL_NAME: Final = "crossmodal-affect"


@dataclass
class _Slot:
    """What this process serves: the app is made before BentoML makes the service."""

    live: Live = field(default_factory=Live)


_slot = _Slot()


@bentoml.service(
    name=MODEL_NAME,
    workers=1,
    traffic={"timeout": 120},
    # The app counts for itself; with BentoML's own metrics on, `/metrics` would be theirs.
    metrics={"enabled": False},
)
@bentoml.asgi_app(create_app(lambda: _slot.live, keys=lambda: keys.of_settings(settings.load())), path="/")
class EmotionService:
    """Loads the newest bundle of the model store."""

    bundle = BentoModel(f"{MODEL_NAME}:latest")

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # BentoML does not say what it makes of a static method
    @staticmethod
    def check_host() -> None:
        """Refuse, before a socket is opened, to listen beyond this machine without keys.

        Raises:
            ValueError: it would.
        """
        command = click.get_current_context(silent=True)
        if command is None:
            return  # Not `bentoml serve`: the app itself refuses callers on other machines.
        unsaid = "127.0.0.1" if command.params.get("development") else "0.0.0.0"
        keys.require_for(command.params.get("host") or unsaid, settings.load())

    def __init__(self) -> None:
        loaded = loading.load(Path(self.bundle.path))
        _slot.live = Live(loaded, release=int(self.bundle.info.labels.get("release", "0")))


def store(folder: Path, *, release: int) -> str:
    """Copy a bundle into BentoML's model store, and return its tag there.

    Raises:
        ValueError: the bundle is not complete.
    """
    version = version_of(folder)
    lineage = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    with bentoml.models.create(
        MODEL_NAME, labels={"release": str(release), "version": version}, metadata=lineage
    ) as model:
        shutil.copytree(folder, model.path, dirs_exist_ok=True)
    return str(model.tag)
