"""A process that decodes recordings for a server and may die of them: `python -m serving.decoding_worker`.

It gets one end of a socket pair, and from it files in memory; it answers with features, or with the decoded recording
where a neural network has to see or hear it (the network stays with the server).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import resource
import socket
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from components import params
from components.features import clip_features
from components.media import Limits, MediaError, Recording
from serving import confinement
from serving.decoding_messages import READY, Job, Reply, of_array, receive, receive_header, send


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--cpu-s", type=int, required=True)
    arguments = parser.parse_args()
    connection = confinement.connect(arguments.socket)
    _warm_up()
    confinement.confine(arguments.memory_bytes)
    connection.sendall(READY)
    try:
        while True:
            job = Job.model_validate_json(receive_header(connection))
            _allow_seconds(arguments.cpu_s)
            reply, contents = _answer(job, *_files(connection, job))
            send(connection, reply, *contents)
    except (EOFError, ConnectionError):
        return


def _warm_up() -> None:
    """Load what the first recording would wait for: the face cascade, and the tables of the sound."""
    nothing = Recording(np.zeros(16_000, np.float32), np.zeros((1, 64, 64), np.uint8), np.zeros(1), 1.0)
    clip_features.compute_frames(nothing, params.Features())


def _allow_seconds(cpu_s: int) -> None:
    """The kernel ends this process when one recording takes that much longer."""
    used_s = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + cpu_s, resource.RLIM_INFINITY))


def _files(connection: socket.socket, job: Job) -> tuple[bytes | None, bytes | None]:
    audio, video = (
        None if num_bytes is None else bytes(receive(connection, num_bytes))
        for num_bytes in (job.num_audio_bytes, job.num_video_bytes)
    )
    return (video if job.sound_from_video else audio), video


def _answer(job: Job, audio: bytes | None, video: bytes | None) -> tuple[Reply, list[memoryview]]:
    limits = Limits(job.max_bytes, job.max_duration_s, job.max_pixels, job.max_channels, job.max_decoded_bytes)
    config = _config(job.features)
    try:
        recording = clip_features.record(audio=audio, video=video, config=config, limits=limits)
        if clip_features.needs_network(config):
            times = {"frame_times_s": recording.frame_times_s}
            given = {"waveform_T": recording.waveform_T, "frames_THW": recording.frames_THW}
            present = {name: values for name, values in given.items() if values is not None}
            return _reply({**present, **times}, duration_s=recording.duration_s)
        frames = clip_features.compute_frames(recording, config)
    except MediaError as error:
        return Reply(error=error.code, message=str(error)[:2_000]), []
    except (MemoryError, cv2.error):
        return Reply(error="too-large-to-decode", message="the recording takes too much memory: cut or shrink it"), []
    return _reply({"audio_TF": frames.audio_TF, "video_TF": frames.video_TF}, warnings=frames.warnings)


def _reply(
    arrays: dict[str, NDArray[np.generic]],
    *,
    warnings: tuple[clip_features.FeatureWarning, ...] = (),
    duration_s: float = 0.0,
) -> tuple[Reply, list[memoryview]]:
    whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    announced = {name: of_array(values) for name, values in whole.items()}
    # Viewed as bytes: a memoryview with a zero in its shape cannot be cast.
    contents = [values.reshape(-1).view(np.uint8).data for values in whole.values()]
    return Reply(warnings=list(warnings), duration_s=duration_s, arrays=announced), contents


@functools.lru_cache(maxsize=4)
def _config(features: str) -> params.Features:
    return params.parse(params.Features, json.loads(features), source="the server")


if __name__ == "__main__":
    main()
