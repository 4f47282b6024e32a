"""CMU-MOSEI: videos of people speaking their mind, with sentiment and six emotions (Zadeh et al., ACL 2018).

Read are the computational sequences (`CMU_MOSEI_Labels.csd`, `CMU_MOSEI_TimestampedWords.csd`), the raw tree
(`Videos/Full/Combined`, `Transcript/Segmented/Combined`, `Audio/.../WAV_16000`, `Labels/*.csv`), or both, at any depth
below the root. Labels come from the sequence where it is there, else from the annotators' tables, averaged. Without
recordings a clip has words alone; sound and picture are then features made elsewhere (`features.precomputed`), found by
the video's id, which is the clip's speaker. The official folds are a file of the SDK that belongs beside the release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from components.clip import Clip, Split
from components.datasets import Refusal
from components.datasets._release import check_folder
from components.datasets.cmu_mosei import folds, release, segments
from components.datasets.cmu_mosei.release import Release
from components.datasets.cmu_mosei.segments import EMOTIONS, SENTIMENT, Segment
from components.datasets.cmu_mosei.transcripts import Speech
from components.protocols import EvaluationProtocol
from components.task import Task

TASKS: Mapping[str, Task] | None = {
    "emotions": Task(
        "multilabel",
        EMOTIONS,
        name="emotions",
        source="mean of the annotators' intensities from 0 to 3; present when over 0",
    ),
    "sentiment": Task(
        "values",
        (SENTIMENT,),
        name="sentiment",
        source="mean of the annotators' ratings from -3 to 3",
        scale=(-3.0, 3.0),
    ),
}
# The official folds are the clips' own splits.
PROTOCOLS: Mapping[str, EvaluationProtocol] = {}
SOURCE: str = release.SOURCE


def read(root: Path, task: Task | None) -> Iterator[Clip | Refusal]:
    """The annotated segments, each in the fold of its video.

    Raises:
        ValueError: the folder, the labels or the file of folds is missing, or a file is damaged.
    """
    check_folder(root, corpus="cmu_mosei", source=SOURCE)
    found = release.find(root)
    split_of: Mapping[str, Split] = {}
    if found.folds is not None:
        split_of = folds.read(found.folds)
    elif task is not None:
        raise ValueError(f"cmu_mosei: the official folds are not below {root}: put {folds.ORIGIN} there")
    with Speech(found) as speech:
        for segment in segments.read(found):
            yield segment if isinstance(segment, Refusal) else _clip(segment, found, split_of, speech, task)


def _clip(
    segment: Segment, found: Release, split_of: Mapping[str, Split], speech: Speech, task: Task | None
) -> Clip | Refusal:
    video_id = segment.video_id
    if task is not None and video_id not in split_of:
        return Refusal(segment.name, "no-fold", f"video {video_id} is in none of the official folds")
    audio, video = found.sounds.get(video_id), found.videos.get(video_id)
    if found.has_recordings and audio is None and video is None:
        return Refusal(segment.name, "no-recording", f"neither {video_id}.mp4 nor {video_id}.wav is there")
    labels = {}
    if task is not None:
        labels = {label: segment.values[label] for label in task.labels if label in segment.values}
        if not labels:
            return Refusal(segment.name, "no-label", f"not annotated with {', '.join(task.labels)}")
    transcript = speech.said(video_id, segment.start_s, segment.end_s)
    if transcript is None and not found.has_recordings:
        transcript = ""
    return Clip(
        clip_id=segment.name,
        # Nobody is named, so the video stands for who speaks in it: its clips never part.
        speaker_id=video_id,
        split=split_of.get(video_id),
        audio_uri=str(audio) if audio else None,
        video_uri=str(video) if video else None,
        start_s=segment.start_s,
        end_s=segment.end_s,
        transcript=transcript,
        labels=labels,
    )
