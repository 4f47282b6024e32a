"""A run's own folder: the code as it is, the chosen parameters, and one DVC cache shared by all runs.

A run is named by the digest of its parameters, data and code. The same three give the same folder, so a run that
is started again goes on where it stopped, and two different runs cannot touch each other's files.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components import datasets, run_archive
from components.clip import Clip
from components.features import face_detectors, precomputed, speech
from components.params import Choices, Corpus, resolve, to_yaml
from components.settings import PROJECT_ROOT, Settings
from components.storage import Storage
from components.task import Task
from flows.stages import bring_all

_CODE = ("components", "dvc.yaml", "requirements.lock")
_DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Workspace:
    """The folder of one run and the digest that names both."""

    folder: Path
    digest: str


def prepare(choices: Choices, settings: Settings) -> Workspace:
    """Make, or find again, the folder of the run that these choices describe.

    Raises:
        ValueError: the recipe, a setting, a task, a protocol or a corpus folder does not exist.
    """
    datasets.protocol_of(choices.finetune_on, resolve(choices).ingest)
    return prepare_known(fingerprinted(choices), settings)


def prepare_known(choices: Choices, settings: Settings) -> Workspace:
    """As `prepare`, for choices that have their fingerprints: many runs on the same data read its listing once."""
    digest = run_digest(choices)
    folder = settings.home / "workspaces" / digest
    if not folder.exists():
        partial = folder.parent / f".partial-{uuid.uuid4().hex}"
        try:
            _fill(partial, choices, settings)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Workspace(folder, digest)


def keep(workspace: Workspace, settings: Settings) -> None:
    """Let a run be found by machines that have no more than the store, where stages go by it."""
    if settings.goes_by_store:
        run_archive.keep(workspace.digest, workspace.folder, Storage(settings.storage_url))


def find(digest: str, settings: Settings) -> Path | None:
    """The folder of a run that was made before, here or where it was kept; what its stages made only if it was here."""
    folder = settings.home / "workspaces" / digest
    if not folder.exists() and settings.goes_by_store:
        store = Storage(settings.storage_url)
        if name := run_archive.find(digest, store):
            run_archive.bring(name, store, folder, home=settings.home)
    return folder if folder.exists() else None


def reopen(digest: str, settings: Settings) -> Workspace:
    """The folder of a run that was made before, with all that its stages made.

    Raises:
        ValueError: it is not to be found, or its bundle was not built.
        StageFailed: the store does not have it all any more.
    """
    folder = find(digest, settings)
    if folder is not None and not (folder / "build/bundle").exists() and settings.goes_by_store:
        bring_all(folder, settings)
    if folder is None or not (folder / "build/bundle").exists():
        where = settings.home / "workspaces" / digest
        raise ValueError(f"run {digest} has no bundle in {where}: bring it to its end with `affect retrain` first")
    return Workspace(folder, digest)


@contextmanager
def held(workspace: Workspace, tell: Callable[[str], object]) -> Iterator[None]:
    """Be the only run that works in a workspace; a second one waits here for the first, and says so.

    The lock is the process's own, so one that was killed holds it no longer.
    """
    with workspace.folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another run works in {workspace.folder}: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fingerprinted(choices: Choices) -> Choices:
    """The choices with the digests of what lies outside of the run: the corpora, and features made elsewhere.

    Raises:
        ValueError: a corpus, its task or its folder does not exist, or the face model is missing or none.
    """
    changes = {
        "finetune_on": _fingerprinted(choices.finetune_on, datasets.task_of(choices.finetune_on)),
        "pretrain_on": choices.pretrain_on and _fingerprinted(choices.pretrain_on, None),
    }
    return _with_features_fingerprinted(choices.model_copy(update=changes))


def run_digest(choices: Choices) -> str:
    """The name of a run: a digest of its resolved parameters, its data's listing and the project's code."""
    digest = hashlib.sha256(to_yaml(resolve(choices)).encode())
    for file in _code_files():
        digest.update(file.relative_to(PROJECT_ROOT).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _code_files() -> Iterator[Path]:
    for name in _CODE:
        path = PROJECT_ROOT / name
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix in {".py", ".yaml"})
        elif path.exists():
            yield path


def _fill(folder: Path, choices: Choices, settings: Settings) -> None:
    for file in _code_files():
        target = folder / file.relative_to(PROJECT_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (folder / "params.yaml").write_text(to_yaml(choices), encoding="utf-8")
    run_archive.write_dvc_config(folder, settings.home)


def check_corpus(corpus: Corpus) -> Corpus:
    """The corpus with its place made absolute.

    Raises:
        ValueError: there is no such corpus, or nothing where it is said to lie.
    """
    module = datasets.load(corpus.dataset)
    if corpus.root is None:
        if not isinstance(module, datasets.GeneratedModule):
            raise ValueError(f"corpus {corpus.dataset}: say where its files are, with --data-root or finetune_on.root")
        return corpus
    root = Path(corpus.root).expanduser().resolve()
    if not root.exists():
        raise ValueError(f"corpus {corpus.dataset}: there is no file or folder {root}; correct --data-root")
    return corpus.model_copy(update={"root": str(root)})


def _fingerprinted(corpus: Corpus, asked: Task | None) -> Corpus:
    """The corpus with the digest of what lies there, with the labels of the task that is asked.

    The digest is over each clip as it is read and the size and time of its files, which is what DVC itself goes
    by before it reads a file; a generated corpus follows from its parameters and needs none.
    """
    corpus = check_corpus(corpus)
    if corpus.root is None:
        return corpus
    digest = hashlib.sha256()
    for found in datasets.load(corpus.dataset).read(Path(corpus.root), asked):
        digest.update(repr(found).encode())
        uris = {found.audio_uri, found.video_uri} if isinstance(found, Clip) else {found.uri}
        for uri in sorted(filter(None, uris)):
            digest.update(_status(Path(uri)).encode())
    return corpus.model_copy(update={"fingerprint": digest.hexdigest()[:_DIGEST_LENGTH]})


def _with_features_fingerprinted(choices: Choices) -> Choices:
    """The choices with the digests of what they name that lies outside of the run: features, face model, recognizer."""
    overrides = copy.deepcopy(choices.overrides)
    features = resolve(choices).features
    for name, section in (("audio", features.audio), ("video", features.video)):
        if section.precomputed is not None:
            found = precomputed.fingerprint(section.precomputed)
            made = section.precomputed.model_copy(update={"fingerprint": found}).model_dump(mode="json")
            changed = overrides.setdefault("features", {}).setdefault(name, {})
            changed.update({"kind": "precomputed", "precomputed": made})
    if features.video.face_model is not None:
        unknown = features.video.model_copy(update={"face_model_digest": None})
        digest = face_detectors.identified(unknown).face_model_digest
        overrides.setdefault("features", {}).setdefault("video", {})["face_model_digest"] = digest
    if features.text.transcribe is not None:
        unheard = features.text.transcribe.model_copy(update={"digest": None})
        changed = overrides.setdefault("features", {}).setdefault("text", {})
        changed["transcribe"] = speech.identified(unheard).model_dump(mode="json")
    return choices.model_copy(update={"overrides": overrides})


def _status(file: Path) -> str:
    try:
        status = file.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
