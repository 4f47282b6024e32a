"""A bento of the champion: model, code and locked packages in one archive, which any BentoML can serve.

The model goes into BentoML's store with its lineage as metadata, and both archives into the object store beside the
bundles, so that another machine can fetch them with `bentoml models import` and `bentoml import`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from components.bundle_files import CARD
from components.registry import Registry, Release
from components.settings import PROJECT_ROOT, Settings, inherited_environment
from components.storage import Storage

SERVICE: Final = "serving.bento:EmotionService"
PYTHON_VERSION: Final = "3.11"
_CODE: Final = ("components", "serving")
_LOCK: Final = "requirements.lock"
# What the code that serves imports. The rest of the lock, such as Ray, Prefect and the linters, would double the image.
PACKAGES: Final = (
    *("av", "bentoml", "fastapi", "fastapi-offline", "fsspec", "h5py", "httpx", "numpy", "opencv-python-headless"),
    *("prometheus-client", "pyarrow", "pydantic", "pydantic-settings", "python-multipart", "pyyaml", "safetensors"),
    *("scipy", "tokenizers", "torch", "transformers", "websockets"),
)
_TAG_MARK: Final = "__tag__:"


class BentoBuildError(RuntimeError):
    """BentoML did not make the bento; the message is its last line."""


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes:
        bento: its tag in BentoML's store.
        model: the tag of its model there.
        bento_archive, model_archive: addresses in the object store.
        version: of the bundle.
        release: its number in the release log.
    """

    bento: str
    model: str
    bento_archive: str
    model_archive: str
    version: str
    release: int


def build(here: Settings) -> Built:
    """Make a bento of what the release log names last, and put it into the object store.

    Raises:
        ValueError: nothing has been released yet, or the bundle is damaged.
        BentoBuildError: BentoML refuses.
    """
    registry = Registry(Storage(here.storage_url))
    champion = registry.champion()
    if champion is None:
        raise ValueError("releases: the log is empty, so there is no model to build from: run `affect retrain` first")
    bundle = registry.fetch_bundle(champion.bundle, here.home / "serving")
    # BentoML takes a second to import, and an empty log is told without it.
    import bentoml

    from serving.bento import store

    model = store(bundle, release=champion.number)
    with tempfile.TemporaryDirectory(prefix="affect-bento-") as scratch:
        tag = _build(_context(Path(scratch) / "context", bundle, champion))
        packed_bento = Path(bentoml.bentos.export_bento(tag, str(Path(scratch) / "packed.bento")))
        packed_model = Path(bentoml.models.export_model(model, str(Path(scratch) / "packed.bentomodel")))
        return Built(
            bento=tag,
            model=model,
            bento_archive=_put(registry.storage, packed_bento, f"bentos/{_name(tag)}.bento"),
            model_archive=_put(registry.storage, packed_model, f"bentos/{_name(model)}.bentomodel"),
            version=champion.version,
            release=champion.number,
        )


def _context(folder: Path, bundle: Path, champion: Release) -> Path:
    """A folder with no more than goes into the bento: a checkout also has corpora, caches and environments."""
    for name in _CODE:
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(PROJECT_ROOT / "LICENSE", folder / "LICENSE")
    locked = (PROJECT_ROOT / _LOCK).read_text(encoding="utf-8")
    (folder / _LOCK).write_text(_needed(locked), encoding="utf-8")
    shutil.copyfile(bundle / CARD, folder / CARD)
    config: dict[str, Any] = {
        "service": SERVICE,
        "description": f"file:./{CARD}",
        "labels": {
            "release": str(champion.number),
            "version": champion.version,
            "commit": champion.commit or "unknown",
        },
        "include": ["*"],
        "docker": {"python_version": PYTHON_VERSION},
        # The lock file names every package already; asking an index again could only change them.
        "python": {"requirements_txt": f"./{_LOCK}", "lock_packages": False},
    }
    (folder / "bentofile.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def _needed(locked: str) -> str:
    """The lines of a lock file that the packages of a bento, and what these need in turn, stand in.

    Raises:
        BentoBuildError: the lock file lacks one of them.
    """
    lines = {canonicalize_name(re.split("[^A-Za-z0-9._-]", line)[0]): line for line in locked.splitlines()}
    found: set[tuple[NormalizedName, frozenset[str]]] = set()
    waiting = [Requirement(name) for name in PACKAGES]
    while waiting:
        required = waiting.pop()
        name, extras = canonicalize_name(required.name), frozenset(required.extras or {""})
        if name not in lines:
            raise BentoBuildError(f"{_LOCK} has no line for {name}, which a bento needs: make it again")
        if (name, extras) in found:
            continue
        found.add((name, extras))
        more = [Requirement(each) for each in metadata.requires(name) or ()]
        waiting += [each for each in more if each.marker is None or _applies(each.marker, extras)]
    return "".join(f"{line}\n" for line in sorted({lines[name] for name, _ in found}, key=str.lower))


def _applies(marker: Marker, extras: frozenset[str]) -> bool:
    return any(marker.evaluate({"extra": extra}) for extra in extras)


def _build(context: Path) -> str:
    """The tag of the bento that BentoML makes of a folder, in a process of its own: it imports the code there."""
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(context)],
        cwd=context,
        env={**inherited_environment(), "PYTHONPATH": str(context), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    tags = [line.removeprefix(_TAG_MARK).strip() for line in done.stdout.splitlines() if line.startswith(_TAG_MARK)]
    if done.returncode or not tags:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise BentoBuildError(f"bentoml build failed: {lines[-1] if lines else f'status {done.returncode}'}")
    return tags[-1]


def _put(storage: Storage, archive: Path, name: str) -> str:
    storage.write(name, archive.read_bytes())
    return storage.uri(name)


def _name(tag: str) -> str:
    return tag.replace(":", "-")
