"""From the bytes of a recording to answers: the one path that evaluation, golden requests and serving share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from tokenizers import Tokenizer

from components import media, params
from components import task as tasks
from components.bundle_files import CONFIG, LABELS, PREPROCESS, THRESHOLDS, TOKENIZER, WEIGHTS
from components.clip import MODALITIES
from components.features import ClipFeatures, clip_features, face_detectors, speech
from components.features.clip_features import Decode
from components.features.text import load_tokenizer
from components.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class LoadedClips:
    """Clips with their features in memory, as a source of batches."""

    clips: Sequence[ClipFeatures]
    clip_ids: Sequence[str]
    speaker_ids: Sequence[str]
    labels_NC: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def num_steps_N3(self) -> NDArray[np.int64]:
        steps = [(len(clip.audio_TF), len(clip.video_TF), len(clip.word_ids_T)) for clip in self.clips]
        return np.array(steps, dtype=np.int64).reshape(-1, len(MODALITIES))

    def features(self, index: int) -> ClipFeatures:
        return self.clips[index]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model with everything that turns recordings into its input, and its output into answers.

    Attributes:
        folder: where it was loaded from.
        thresholds: multilabel: the probability from which on each label counts as there; empty for other kinds.
    """

    folder: Path
    features: params.Features
    tokenizer: Tokenizer
    task: Task
    thresholds: tuple[float, ...]

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, read when it is first asked for.

        Raises:
            ValueError: a file of it is missing or damaged, or it has not an output for each label.
        """
        found = load_model(self.folder)
        if int(found.config.num_classes) != len(self.labels):
            raise ValueError(
                f"{self.folder / LABELS} has {len(self.labels)} labels for a model of {found.config.num_classes}: "
                "build both again"
            )
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """The names, in the order of the model's outputs."""
        return self.task.labels

    def features_of(
        self,
        audio: bytes | Path | None,
        video: bytes | Path | None,
        text: str | None,
        *,
        limits: media.Limits | None = None,
        decode: Decode = clip_features.record,
    ) -> tuple[ClipFeatures, tuple[clip_features.FeatureWarning, ...]]:
        """What the model sees of a recording, and short warnings such as "no-face".

        The sound is taken from `audio`, or, where there is none, from the video file. `decode` says where files are
        decoded: in this process, unless a server does so in one apart.

        Raises:
            MediaError: a file is broken, or passes a limit.
            ValueError: there is neither audio nor video nor text.
        """
        if audio is None and video is None and text is None:
            raise ValueError("audio, video and text are all missing: give at least one")
        sound = audio if audio is not None else video
        decoded = decode(audio=sound, video=video, config=self.features, limits=limits)
        if isinstance(decoded, media.Recording):
            return clip_features.compute(decoded, text, self.features, self.tokenizer)
        return clip_features.with_words(decoded, text, self.features, self.tokenizer)

    def answers(self, clips: Sequence[ClipFeatures]) -> NDArray[np.float32]:
        """For each clip the probability of each label, or its value on the task's scale, (N, C)."""
        # As in `load_model`: a server that has the recorded graph needs none of it.
        from components import training

        names = [str(number) for number in range(len(clips))]
        nothing_NC = np.full((len(clips), len(self.labels)), np.nan, dtype=np.float32)
        source = LoadedClips(clips, names, names, nothing_NC)
        return training.predict(self.model, source, batch_size=_BATCH_SIZE, task=self.task)


def load(folder: Path) -> Predictor:
    """Read the files of a bundle that predictions need, except for the model.

    Raises:
        ValueError: a file is missing or damaged, or the files do not belong together; names file and remedy.
    """
    task = read_task(folder)
    features = read_preprocess(folder / PREPROCESS)
    try:
        tokenizer = load_tokenizer(folder / TOKENIZER)
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise _damaged(folder / TOKENIZER, error) from error
    # What cannot find faces or recognize words is told now, not by the first request.
    face_detectors.identified(features.video)
    if features.text.transcribe is not None:
        speech.identified(features.text.transcribe)
    return Predictor(folder, features, tokenizer, task, read_thresholds(folder / THRESHOLDS, task))


def read_task(folder: Path) -> Task:
    """What the model of a folder is asked, with the label names in the order of its outputs.

    Raises:
        ValueError: a file is missing or damaged.
    """
    read_labels(folder / LABELS)
    return tasks.read(folder)


def read_thresholds(path: Path, task: Task) -> tuple[float, ...]:
    """The thresholds of a task's labels in their order; none unless the task has several labels.

    Raises:
        ValueError: the file is missing or damaged, or is of other labels.
    """
    if task.kind != "multilabel":
        return ()
    try:
        found = TypeAdapter(dict[str, float]).validate_json(path.read_bytes())
        return tuple(found[label] for label in task.labels)
    except (FileNotFoundError, ValidationError, KeyError) as error:
        raise _damaged(path, error) from error


def read_labels(path: Path) -> tuple[str, ...]:
    """The label names in the order of the model's outputs.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise _damaged(path, error) from error


def read_preprocess(path: Path) -> params.Features:
    """The settings of the features; a face model is beside them.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    video = values.get("video") if isinstance(values, dict) else None
    if isinstance(video, dict) and video.get("face_model"):
        video["face_model"] = str(path.parent.absolute() / face_detectors.FACE_MODEL)
    return params.parse(params.Features, values, source=str(path))


def load_model(folder: Path) -> PreTrainedModel:
    """The model of a bundle, or of a stage's output.

    Raises:
        ValueError: a file of it is missing or damaged.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: build it again with `dvc repro`, or fetch it again")
    # It comes with what models are built with, which takes longer to import than PyTorch itself.
    from components import models

    try:
        return models.load(folder)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(folder / WEIGHTS, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    if isinstance(error, FileNotFoundError):
        return ValueError(f"{path} is missing: build it again with `dvc repro`, or fetch it again")
    reason = " ".join(str(error).split())
    return ValueError(f"{path} is damaged ({reason[:200]}): build it again with `dvc repro`, or fetch it again")
