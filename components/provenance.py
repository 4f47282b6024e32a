"""Where a bundle comes from: parameters, data, code and packages, each as a digest that can be checked.

Nothing here depends on when or where a run took place, so that equal inputs give equal bundles: the commit, the
time and the place are kept by the release log.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet
from pydantic import TypeAdapter, ValidationError

from components import params

_PACKAGES: Final = ("torch", "transformers", "tokenizers", "numpy", "av", "opencv-python-headless")
_COMPONENTS: Final = Path(__file__).parent

# What a prediction passes through. The rest of the tree may change without changing what a bundle answers.
_PREDICTION_CODE: Final = (
    *("task.py", "media.py", "features/*.py", "batches.py", "models/*.py"),
    *("answers.py", "training.py", "predictor.py"),
)


@dataclass(frozen=True)
class Provenance:
    """What went into a bundle.

    Attributes:
        system, recipe, dataset, pretrained_on, seed: the run's choices; pretrained_on is "" without pre-training.
        synthetic: the recordings of the data set were generated.
        params_digest: of the resolved parameters, without gates and places.
        code_digest: of the source that a prediction passes through.
        data: md5 by name, of the list of clips (without places) and of each part's shards.
        packages: version by name.
    """

    system: str
    recipe: str
    dataset: str
    pretrained_on: str
    synthetic: bool
    seed: int
    params_digest: str
    code_digest: str
    data: Mapping[str, str]
    packages: Mapping[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def parse(content: bytes) -> Provenance:
    """Read what `Provenance.to_json` wrote.

    Raises:
        ValueError: the content is damaged.
    """
    try:
        return TypeAdapter(Provenance).validate_json(content)
    except ValidationError as error:
        raise ValueError(f"not a provenance: {error.errors()[0]['msg']}") from error


def trace(settings: params.Params, *, synthetic: bool, build: Path) -> Provenance:
    """The provenance of what lies in `build` after all stages before the bundle.

    Raises:
        FileNotFoundError: a stage has not run.
    """
    pretrained_on = settings.pretrain_on or settings.finetune_on
    return Provenance(
        system=settings.model.system,
        recipe=settings.recipe,
        dataset=settings.finetune_on.dataset,
        pretrained_on=pretrained_on.dataset if settings.pretrain.enabled else "",
        synthetic=synthetic,
        seed=settings.seed,
        params_digest=params_digest(settings),
        code_digest=code_digest(),
        data=data_digests(build),
        packages={name: importlib.metadata.version(name) for name in _PACKAGES},
    )


def params_digest(settings: params.Params) -> str:
    """Digest of what shapes the weights: neither the gates nor the places of corpora, face model and recognizer do."""
    values = settings.model_dump(
        mode="json",
        exclude={
            "gates": True,
            "finetune_on": {"root", "fingerprint"},
            "pretrain_on": {"root", "fingerprint"},
            "features": {"video": {"face_model"}, "text": {"transcribe": {"path"}}},
        },
    )
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """Digest of the source that a prediction passes through."""
    found = (path for pattern in _PREDICTION_CODE for path in _COMPONENTS.glob(pattern))
    return _digest_of_files(found, _COMPONENTS, "sha256")


def data_digests(build: Path) -> dict[str, str]:
    """md5 of the list of clips and of each part's feature shards, by name."""
    digests = {"clips": _clips_md5(build / "clips" / "clips.parquet")}
    for folder in sorted(path for path in (build / "features").iterdir() if path.is_dir()):
        digests[f"features/{folder.name}"] = _digest_of_files(folder.glob("*.arrow"), folder, "md5")
    return digests


def _clips_md5(path: Path) -> str:
    """md5 of all columns but the places of the files, whose content has an md5 column of its own."""
    digest = hashlib.md5(usedforsecurity=False)
    separator = "["
    with pyarrow.parquet.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if not name.endswith("_uri")]
        # As one JSON list of rows, of which few are objects at a time.
        for batch in file.iter_batches(1024, columns=names):
            for row in batch.to_pylist():
                digest.update((separator + json.dumps(row, sort_keys=True, default=str)).encode())
                separator = ", "
    digest.update(b"]" if separator == ", " else b"[]")
    return digest.hexdigest()


def _digest_of_files(files: Iterable[Path], root: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for path in sorted(files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, algorithm).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()
