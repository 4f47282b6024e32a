"""Features of a clip that is still being made: only new frames are described, and the last seconds are a clip.

Of the sound the whole window is described anew each time, which takes some milliseconds. The face is sought with the
past alone, so a step may differ a little from the same step of the finished clip, which knows what comes after.

Shapes: T samples, frames or steps, H and W pixels, F features.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.features.audio import audio_width, describe_sound
from components.features.clip_features import FeatureWarning, Frames, is_silent
from components.features.face_detectors import detector_of
from components.features.faces import FaceSearch
from components.features.video import crop, crop_side, describe_faces, video_width
from components.params import Features


@dataclass(frozen=True, eq=False)
class Window:
    """The last seconds of a stream as a clip; times in seconds from the stream's start."""

    frames: Frames
    start_s: float
    end_s: float


def can_follow(config: Features) -> bool:
    """Whether these features can keep up with a stream: a neural encoder sees a clip as a whole and cannot."""
    return "encoder" not in (config.audio.kind, config.video.kind)


class LiveFrames:
    """Collects a stream, and makes clips of its last `max_duration_s`.

    Raises:
        ValueError: the face detector that `config` names cannot be read.
    """

    def __init__(self, config: Features) -> None:
        assert can_follow(config)
        self._config = config
        self._uses_audio = "audio" in config.modalities and config.audio.precomputed is None
        self._uses_video = "video" in config.modalities and config.video.precomputed is None
        self._waveform_T = np.zeros(0, np.float32)
        self._num_samples = self._num_frames = 0
        num_kept = math.ceil(config.max_duration_s * config.video.frame_rate_hz) + 1
        self._rows: deque[NDArray[np.float16] | None] = deque(maxlen=num_kept)
        self._faces = FaceSearch(detector_of(config.video))

    @property
    def reached_s(self) -> float:
        """How long the stream is by now."""
        return max(
            self._num_samples / self._config.audio.sample_rate_hz,
            self._num_frames / self._config.video.frame_rate_hz,
        )

    def hear(self, waveform_T: NDArray[np.float32]) -> None:
        """Add samples at the rate of the features."""
        num_kept = math.ceil((self._config.max_duration_s + 1) * self._config.audio.sample_rate_hz)
        self._num_samples += len(waveform_T)
        if self._uses_audio and len(waveform_T):
            self._waveform_T = np.concatenate([self._waveform_T, waveform_T])[-num_kept:]

    def see(self, frames_HW: Sequence[NDArray[np.uint8]]) -> None:
        """Add the next frames of the grid."""
        for frame_HW in frames_HW:
            if self._uses_video:
                self._rows.append(self._described(frame_HW))
            self._num_frames += 1

    def window(self) -> Window:
        """The last `max_duration_s` as features of a clip."""
        config, rate_hz = self._config, self._config.video.frame_rate_hz
        end_s = self.reached_s
        first_frame = max(0, math.ceil((end_s - config.max_duration_s) * rate_hz - 1e-6))
        start_s = first_frame / rate_hz
        warnings: list[FeatureWarning] = []
        audio_TF = np.zeros((0, audio_width(config.audio)), np.float16)
        if self._uses_audio and self._num_samples:
            waveform_T = self._sound_from(start_s)
            if is_silent(waveform_T):
                warnings.append("silence")
            else:
                audio_TF = describe_sound(waveform_T, config.audio)
        video_TF = self._picture_from(first_frame)
        if self._uses_video and self._num_frames and not len(video_TF):
            warnings.append("no-face")
        return Window(Frames(audio_TF, video_TF, tuple(warnings)), start_s, end_s)

    def _described(self, frame_HW: NDArray[np.uint8]) -> NDArray[np.float16] | None:
        config = self._config.video
        time_s = self._num_frames / config.frame_rate_hz
        self._faces.look(self._num_frames, time_s, frame_HW)
        box = self._faces.box_at(time_s)
        if box is None:
            return None
        face_SS = crop(frame_HW, np.asarray(box), crop_side(config))
        return np.asarray(describe_faces(face_SS[None], config)[0], np.float16)

    def _sound_from(self, start_s: float) -> NDArray[np.float32]:
        first_kept = self._num_samples - len(self._waveform_T)
        return self._waveform_T[max(0, round(start_s * self._config.audio.sample_rate_hz) - first_kept) :]

    def _picture_from(self, first_frame: int) -> NDArray[np.float16]:
        """(T, F); no steps where no face is seen in any of them."""
        width = video_width(self._config.video)
        rows = list(self._rows)[max(0, first_frame - (self._num_frames - len(self._rows))) :]
        if all(row is None for row in rows):
            return np.zeros((0, width), np.float16)
        nothing_F = np.zeros(width, np.float16)
        return np.stack([nothing_F if row is None else row for row in rows])
