"""The bundle: one folder with all that is needed to predict, to check the prediction, and to say where it is from.

Beside the files that every bundle has, `task.json` says what is asked, a bundle of several labels has their
`thresholds.json`, one whose faces were found by a YuNet network has that in `face_model.onnx`, and one whose system can
be recorded has what an endpoint asks of it in `graph.pt`.

In Hugging Face form, so that `AutoModel.from_pretrained` reads it (after `import components.models.trimodal`).
Nothing in it is ever unpickled. `python -m components.bundle` is the stage that writes `build/bundle`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components import bundle_files, card, drift, golden, params, predictor, provenance, recorded, report, shards
from components.bundle_files import (
    CARD,
    CONFIG,
    DRIFT_REFERENCE,
    FACE_MODEL,
    GOLDEN,
    LABELS,
    PREPROCESS,
    PROVENANCE,
    TASK,
    THRESHOLDS,
    TOKENIZER,
)
from components.drift import DriftReference
from components.features.text import unknown_id
from components.golden import Golden, GoldenRequest
from components.predictor import Predictor
from components.provenance import Provenance
from components.stage import progress, run_stage
from components.storage import write_atomically

BUILD = Path("build")


@dataclass(frozen=True, eq=False)
class Bundle(Predictor):
    """A predictor with its papers.

    Attributes:
        version: short digest of its files.
    """

    version: str
    provenance: Provenance
    golden: Golden
    drift_reference: DriftReference

    def golden_error(self) -> float:
        """Largest distance between a golden answer and what this bundle answers here."""
        return self.golden.error(self)


def load(folder: Path, *, read_model: bool = True) -> Bundle:
    """Load a bundle and check that it is whole.

    Args:
        read_model: otherwise it is read when it is first asked for: who runs the recorded graph needs none.

    Raises:
        ValueError: a file is missing or damaged; names the file and the remedy.
    """
    version = bundle_files.version_of(folder)
    try:
        name = PROVENANCE
        origin = provenance.parse((folder / name).read_bytes())
        name = GOLDEN
        requests = golden.parse((folder / name).read_bytes())
        name = DRIFT_REFERENCE
        reference = drift.load(folder / name)
    except ValueError as error:
        raise ValueError(
            f"{folder / name} is damaged ({error}): build it again with `dvc repro`, or fetch it again"
        ) from error
    core = predictor.load(folder)
    loaded = Bundle(
        core.folder,
        core.features,
        core.tokenizer,
        core.task,
        core.thresholds,
        version,
        origin,
        requests,
        reference,
    )
    if read_model:
        _ = loaded.model
    return loaded


def write(target: Path, *, settings: params.Params, requests: tuple[GoldenRequest, ...], build: Path = BUILD) -> Bundle:
    """Assemble the bundle of a finished run at `target`, in one step at the end, and load it from there.

    Raises:
        FileNotFoundError: a stage before has not run.
        ValueError: what a stage left is damaged.
    """
    partial = target.parent / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _fill(partial, settings=settings, requests=requests, build=build)
        bundle_files.check_complete(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load(target)


def _fill(folder: Path, *, settings: params.Params, requests: tuple[GoldenRequest, ...], build: Path) -> None:
    for name, source in (
        (bundle_files.WEIGHTS, "finetune"),
        (CONFIG, "finetune"),
        (LABELS, "finetune"),
        (PREPROCESS, "features"),
        (TOKENIZER, "features"),
    ):
        path = build / source / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run `dvc repro {source}` first")
        # By content: DVC may have linked the file read-only into its cache.
        shutil.copyfile(path, folder / name)
    for name, source in ((TASK, "finetune"), (THRESHOLDS, "evaluation"), (FACE_MODEL, "features")):
        if (build / source / name).exists():
            shutil.copyfile(build / source / name, folder / name)
    core = predictor.load(folder)
    figures = report.read(build / "evaluation" / report.FILE)
    origin = provenance.trace(settings, synthetic=figures.synthetic, build=build)
    write_atomically(folder / PROVENANCE, origin.to_json().encode())
    progress(stage="bundle", done=1, total=3, message="drift reference")
    _describe_inputs(core, build).save(folder / DRIFT_REFERENCE)
    progress(stage="bundle", done=2, total=3, message="golden requests")
    write_atomically(folder / GOLDEN, golden.answer(requests, core).to_json())
    recorded.write(folder, core.model, core.features)
    num_parameters = sum(parameter.numel() for parameter in core.model.parameters())
    text = card.write(figures, origin, task=core.task, features=core.features, num_parameters=num_parameters)
    write_atomically(folder / CARD, text.encode())


def _describe_inputs(core: Predictor, build: Path) -> DriftReference:
    train = shards.open_split(build / "features", "train")
    validation = shards.open_split(build / "features", "validation")
    clips = [train.features(index) for index in range(len(train))]
    answers_NC = core.answers([validation.features(index) for index in range(len(validation))])
    is_of_values = core.task.kind == "values"
    return drift.describe(
        clips,
        np.zeros(0, dtype=np.float32) if is_of_values else _shares(core, answers_NC),
        drift.columns_of(list(answers_NC)) if is_of_values else None,
        unknown_id=unknown_id(core.tokenizer),
        speakers=train.speaker_ids,
        answers=drift.spoken_rows(list(answers_NC), validation.speaker_ids),
    )


def _shares(core: Predictor, answers_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of clips for which each class, or each of several labels, is answered."""
    if core.task.kind == "multilabel":
        counts_C = np.asarray((answers_NC >= np.asarray(core.thresholds)).sum(axis=0), dtype=np.int64)
    else:
        counts_C = np.bincount(answers_NC.argmax(axis=1), minlength=len(core.labels)).astype(np.int64)
    return (counts_C / max(1, len(answers_NC))).astype(np.float32)


def main() -> None:
    """Write `build/bundle`."""
    # Only who makes a bundle draws recordings, whose sounds need half of SciPy: a server must not wait for it.
    from components.datasets import synthetic

    requests = tuple(
        GoldenRequest(request.name, request.audio, request.video, request.text)
        for request in synthetic.golden_requests()
    )
    made = write(BUILD / "bundle", settings=params.load_params(), requests=requests)
    progress(stage="bundle", done=3, total=3, message=f"version {made.version}")


if __name__ == "__main__":
    run_stage(main)
