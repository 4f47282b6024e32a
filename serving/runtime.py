"""A bundle in, predictions out: the one runtime under every serving target. It knows neither HTTP nor Ray nor BentoML.

A prediction has two halves, so that a server can run them side by side: `prepare` (decode and features, one clip,
any thread) and `predict_prepared` (the model, many clips in one batched forward). `predict` is the two in a row.

Shapes: N clips, B rows of the model's batch (clips and clips less one modality), C labels, K seconds, M modalities.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components import bundle, media, params, recorded
from components.answers import to_answers
from components.batches import collate
from components.bundle_files import CARD, GRAPH
from components.clip import Modality
from components.drift import Summary, summary_of
from components.features import ClipFeatures, clip_features
from components.features.audio import audio_step_s, audio_width
from components.features.clip_features import Decode
from components.features.text import unknown_id
from components.features.video import video_step_s, video_width
from components.predictor import LoadedClips
from components.recorded import WINDOW_S
from serving import feature_file
from serving.prediction import (
    BundleError,
    ClassPrediction,
    Info,
    LabelPrediction,
    Limits,
    Moment,
    Prediction,
    Prepared,
    Request,
    RequestError,
    ValuePrediction,
)
from serving.rows import Rows, num_steps, rows_of

# Clips of one forward; with their variants up to four times as many rows, of which the longest sets the memory.
_CLIPS_PER_FORWARD: Final = 8
# Below it a probability counts as this much, so that its logarithm is finite.
_TINY: Final = 1e-12


@runtime_checkable
class _Timed(Protocol):
    """A system that can tell what it makes of a clip's windows; of others there is no timeline."""

    def window_logits(self, output: object, *, window_s: float) -> tuple[Tensor, Tensor]: ...


class Runtime:
    """A loaded bundle that answers requests. Safe to use from several threads.

    Args:
        folder: the bundle.
        limits: what a request may carry.
        num_threads: of PyTorch, for the whole process.
        step_by_step: let Python run the model, as a peer to measure by, instead of a recorded graph.

    Attributes:
        card: the bundle's model card, in Markdown.

    Raises:
        BundleError: the folder is no bundle, or a file of it is damaged.
    """

    def __init__(
        self, folder: Path, *, limits: Limits | None = None, num_threads: int = 1, step_by_step: bool = False
    ) -> None:
        torch.set_num_threads(num_threads)
        self.limits = limits or Limits()
        self._media_limits = media.Limits(max_bytes=self.limits.max_bytes, max_duration_s=self.limits.max_duration_s)
        try:
            self._bundle = bundle.load(folder, read_model=False)
            self.card = (folder / CARD).read_text(encoding="utf-8")
            self._kind_of_features = feature_file.kind_of(folder)
            self._asked = self._judge(step_by_step=step_by_step)
        except (ValueError, OSError) as error:
            raise BundleError(str(error)) from error
        origin, features = self._bundle.provenance, self._bundle.features
        # Made once: each answer names its model.
        self._info = Info(
            system=origin.system,
            version=self._bundle.version,
            task=self._bundle.task,
            modalities=features.modalities,
            provenance=json.loads(origin.to_json()),
            max_analysed_s=features.max_duration_s,
            features=self._kind_of_features,
        )

    @property
    def version(self) -> str:
        """Digest of the bundle's files."""
        return self._bundle.version

    def info(self) -> Info:
        """What a caller may know of the model."""
        return self._info

    def warmup(self) -> None:
        """Answer once and check the answers that the bundle brings along, before the first caller comes.

        Raises:
            BundleError: an answer differs from the recorded one: other code, other libraries or damaged weights.
        """
        error = self._bundle.golden.error(self._bundle, self._whole_answers)
        tolerance = self._bundle.golden.tolerance
        if not error <= tolerance:
            raise BundleError(
                f"bundle {self._bundle.folder} answers its golden requests {error:.1e} off, more than {tolerance:.0e}: "
                "its code or libraries differ from those here; build it again with `dvc repro`"
            )

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        """Judge clips.

        Raises:
            RequestError: a request carries nothing, too much, or media that cannot be decoded.
        """
        return self.predict_prepared([self.prepare(request) for request in requests])

    def prepare(self, request: Request, decode: Decode = clip_features.record) -> Prepared:
        """Decode a request and compute its features, unless it brings them along.

        `decode` says where it is decoded, here when not given.

        Raises:
            RequestError: as for `predict`.
        """
        if request.features is not None:
            return self._described(request.features)
        self._check(request)
        try:
            features, warnings = self._bundle.features_of(
                request.audio, request.video, request.text, limits=self._media_limits, decode=decode
            )
        except media.MediaError as error:
            raise RequestError(error.code, str(error)) from error
        if not any(num_steps(features)):
            found = f"; {', '.join(warnings)}" if warnings else ""
            raise RequestError(
                "nothing-usable",
                f"the request has nothing that this model looks at ({', '.join(self._bundle.features.modalities)})"
                f"{found}: send a clip with sound, a face or words",
            )
        return Prepared(features, warnings)

    def summary_of(self, clip: Prepared) -> Summary:
        """What may be kept of a clip to tell drift by."""
        return summary_of(clip.features, unknown_id=unknown_id(self._bundle.tokenizer))

    @property
    def features(self) -> params.Features:
        """How sound and picture become what the model sees, for who follows a stream."""
        return self._bundle.features

    def prepare_frames(self, frames: clip_features.Frames, text: str | None) -> Prepared:
        """What the model sees of sound and picture that were described elsewhere, and of words."""
        features, warnings = clip_features.with_words(frames, text, self._bundle.features, self._bundle.tokenizer)
        return Prepared(features, warnings)

    def predict_prepared(self, clips: Sequence[Prepared]) -> list[Prediction]:
        """Judge prepared clips, each together with itself less one modality, in one batched forward."""
        predictions: list[Prediction] = []
        for start in range(0, len(clips), _CLIPS_PER_FORWARD):
            predictions += self._forward(clips[start : start + _CLIPS_PER_FORWARD])
        return predictions

    def _whole_answers(self, features: Sequence[ClipFeatures]) -> NDArray[np.float32]:
        rows = rows_of(features)
        return self._answers([Prepared(each, ()) for each in features], rows)[0][rows.whole_N]

    def _forward(self, clips: Sequence[Prepared]) -> list[Prediction]:
        rows = rows_of([clip.features for clip in clips])
        rows_BC, seconds_NKC = self._answers(clips, rows)
        return [
            self._prediction(clip, rows_BC, whole, without, self._timeline(clip.features, seconds_KC))
            for clip, whole, without, seconds_KC in zip(clips, rows.whole_N, rows.without_N, seconds_NKC, strict=True)
        ]

    def _answers(self, clips: Sequence[Prepared], rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The answers for all rows, (B, C), and for each second of the whole clips, (N, K, C)."""
        task = self._bundle.task
        with torch.inference_mode():
            logits_BC, logits_NKC = self._shared(clips, rows) if self._asked else self._apart(clips, rows)
            seconds_NKC = to_answers(logits_NKC.flatten(0, 1), task).reshape(logits_NKC.shape)
            return to_answers(logits_BC, task).numpy(), seconds_NKC.numpy()

    def _shared(self, clips: Sequence[Prepared], rows: Rows) -> tuple[Tensor, Tensor]:
        """The logits, where what rows of a clip have in common is computed once."""
        assert self._asked is not None
        own = {row: place for place, row in enumerate(dict.fromkeys(rows.from_B))}
        present_BM = torch.tensor(rows.present_BM)
        inputs = self._inputs(clips, [rows.clip_B[row] for row in own], present_BM[list(own)])
        audio, audio_lengths, video, video_lengths, words, word_lengths = inputs.values()
        return self._asked(
            (audio, audio_lengths, video, video_lengths, words, word_lengths),
            torch.tensor([own[row] for row in rows.from_B]),
            present_BM,
            torch.tensor([own[row] for row in rows.whole_N]),
        )

    def _apart(self, clips: Sequence[Prepared], rows: Rows) -> tuple[Tensor, Tensor]:
        """The logits, each row computed by itself."""
        model = self._bundle.model
        output = model(**self._inputs(clips, rows.clip_B, torch.tensor(rows.present_BM)))
        logits_BC: Tensor = output.logits_BC
        if not isinstance(model, _Timed):
            return logits_BC, logits_BC.new_zeros(len(clips), 0, logits_BC.shape[1])
        return logits_BC, model.window_logits(output, window_s=WINDOW_S)[0][rows.whole_N]

    def _judge(self, *, step_by_step: bool) -> recorded.Asked | None:
        """How what rows of a clip share is computed once; None for a system that cannot."""
        graph = self._bundle.folder / GRAPH
        if graph.is_file() and not step_by_step:
            return recorded.load(graph)
        model = self._bundle.model
        return recorded.step_by_step(model) if isinstance(model, recorded.Sharing) else None

    def _inputs(self, clips: Sequence[Prepared], clip_B: Sequence[int], present_BM: Tensor) -> dict[str, Tensor]:
        names = [str(number) for number in range(len(clips))]
        unlabelled_NC = np.full((len(clips), len(self._bundle.labels)), np.nan, np.float32)
        batch = collate(LoadedClips([clip.features for clip in clips], names, names, unlabelled_NC), clip_B)
        return batch.keep(present_BM).inputs()

    def _described(self, content: bytes) -> Prepared:
        """What the model sees of a clip that its caller described (`serving.feature_file`).

        Raises:
            RequestError: it is no such file, not of this model's kind, empty, or longer than what is looked at.
        """
        config, vocabulary = self._bundle.features, self._bundle.tokenizer.get_vocab_size()
        try:
            features, kind = feature_file.read(content)
        except ValueError as error:
            raise RequestError("malformed", str(error)) from error
        if kind != self._kind_of_features:
            raise RequestError(
                "wrong-features",
                f"the features are of the kind {kind or '(unnamed)'!r}, this model's of {self._kind_of_features!r}: "
                "describe the clip with this model's bundle",
            )
        for name, steps_TF, width, step_s in (
            ("audio", features.audio_TF, audio_width(config.audio), audio_step_s(config.audio)),
            ("video", features.video_TF, video_width(config.video), video_step_s(config.video)),
        ):
            most = math.ceil(config.max_duration_s / step_s) + 1
            if steps_TF.shape[1] != width or len(steps_TF) > most:
                raise RequestError(
                    "wrong-features",
                    f"{name} has the shape {steps_TF.shape}: give up to {most} steps of {width} values",
                )
        words_T = features.word_ids_T
        if len(words_T) > config.text.max_words or not ((words_T >= 0) & (words_T < vocabulary)).all():
            raise RequestError(
                "wrong-features", f"words must be up to {config.text.max_words} ids from 0 to {vocabulary - 1}"
            )
        if not any(num_steps(features)):
            raise RequestError("nothing-usable", "the features have no step: describe a clip with sound, face or words")
        return Prepared(features, ())

    def _check(self, request: Request) -> None:
        if request.audio is None and request.video is None and request.text is None:
            raise RequestError("no-modality", "the request has no audio, video or text: send at least one of them")
        for name, content in (("audio", request.audio), ("video", request.video)):
            if content is None:
                continue
            if not content:
                raise RequestError("empty", f"{name} is empty: upload the recording's bytes")
            if len(content) > self.limits.max_bytes:
                raise RequestError(
                    "too-large",
                    f"{name} has {len(content)} bytes, more than {self.limits.max_bytes}: send a shorter recording",
                )
        if request.text is not None and len(request.text) > self.limits.max_characters:
            raise RequestError(
                "too-large",
                f"text has {len(request.text)} characters, more than {self.limits.max_characters}: send what was said",
            )

    def _prediction(
        self,
        clip: Prepared,
        rows_BC: NDArray[np.float32],
        whole: int,
        without: dict[Modality, int],
        timeline: tuple[Moment, ...],
    ) -> Prediction:
        task, version = self._bundle.task, self._bundle.version
        if task.kind == "classes":
            winner = int(np.argmax(rows_BC[whole]))
            logs_B = np.log(np.maximum(rows_BC[:, winner].astype(float), _TINY))
            uniform_log = -math.log(rows_BC.shape[1])
            falls = {
                name: float(logs_B[whole] - (uniform_log if row == whole else logs_B[row]))
                for name, row in without.items()
            }
            label = task.labels[winner]
            return ClassPrediction(timeline, clip.warnings, version, label, self._named(rows_BC[whole]), falls)
        if task.kind == "multilabel":
            falls_of = self._falls(_log_odds(rows_BC.astype(float)), whole, without, alone=0.0)
            thresholds = dict(zip(task.labels, self._bundle.thresholds, strict=True))
            return LabelPrediction(timeline, clip.warnings, version, self._named(rows_BC[whole]), thresholds, falls_of)
        assert task.scale is not None
        falls_of = self._falls(rows_BC.astype(float), whole, without, alone=sum(task.scale) / 2)
        return ValuePrediction(timeline, clip.warnings, version, self._named(rows_BC[whole]), task.scale, falls_of)

    def _falls(
        self, rows_BC: NDArray[np.float64], whole: int, without: dict[Modality, int], *, alone: float
    ) -> dict[Modality, dict[str, float]]:
        """By modality and label, how much less the answer is without the modality; `alone` is what nothing says."""
        return {
            name: self._named(rows_BC[whole] - (alone if row == whole else rows_BC[row]))
            for name, row in without.items()
        }

    def _timeline(self, features: ClipFeatures, seconds_KC: NDArray[np.float32]) -> tuple[Moment, ...]:
        """The seconds of the sound, or of the picture where there is none; words carry no times."""
        audio, video = self._bundle.features.audio, self._bundle.features.video
        num_audio, num_video, _ = num_steps(features)
        end_s = num_audio * audio_step_s(audio) if num_audio else num_video * video_step_s(video)
        num_seconds = min(len(seconds_KC), math.ceil(end_s / WINDOW_S))
        return tuple(
            Moment(k * WINDOW_S, min((k + 1) * WINDOW_S, end_s), self._named(seconds_KC[k])) for k in range(num_seconds)
        )

    def _named(self, answers_C: NDArray[np.floating]) -> dict[str, float]:
        return dict(zip(self._bundle.labels, answers_C.astype(float).tolist(), strict=True))


def _log_odds(probabilities_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    kept_BC = np.clip(probabilities_BC, _TINY, 1 - _TINY)
    return np.log(kept_BC) - np.log1p(-kept_BC)
