"""The work behind extraction: clips divided into shards, and one Ray Data task that writes each.

Apart from the stage, so that workers import it by name and need nothing of what only the driver does.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data
from tokenizers import Tokenizer

from components import compute
from components.clip import Clip
from components.features import clip_features, precomputed
from components.features.audio import audio_width
from components.features.clip_features import Frames
from components.features.text import parse_tokenizer
from components.features.video import video_width
from components.media import Limits, MediaError, source_of
from components.params import Features
from components.shards import Example, ShardNotes, Skipped, read_notes, shard_name, write_shard
from components.shared_frames import SharedFrames
from components.stage import Cost, own_cost, spend
from components.task import Task

# A clip may be a few seconds of a long recording; what is decoded of it is bounded by the settings.
MEDIA_LIMITS = Limits(max_bytes=8 * 1024**3)


@dataclass(frozen=True)
class ShardPlan:
    """One shard that is to be written, and all that is needed for it; no `task` where labels are not wanted."""

    path: Path
    clips: tuple[Clip, ...]
    config: Features
    tokenizer: str
    task: Task | None
    shared: SharedFrames | None = None


def plan_shards(
    clips: Sequence[Clip], folder: Path, config: Features, tokenizer: Tokenizer, task: Task | None
) -> list[ShardPlan]:
    """Divide clips among shards: mixed by a hash of their names, and one empty shard where there are no clips."""
    mixed = sorted(clips, key=lambda clip: hashlib.sha256(clip.clip_id.encode()).digest())
    return [
        ShardPlan(
            path=folder / shard_name(number),
            clips=tuple(mixed[first : first + config.clips_per_shard]),
            config=config,
            tokenizer=tokenizer.to_str(),
            task=task,
        )
        for number, first in enumerate(range(0, max(1, len(mixed)), config.clips_per_shard))
    ]


def write_shards(plans: Sequence[ShardPlan]) -> Iterator[ShardPlan]:
    """Each plan once its shard is complete."""
    to_write = []
    for plan in plans:
        if _is_complete(plan.path):
            yield plan
        else:
            to_write.append(plan)
    if not to_write:
        return
    compute.connect()
    ray.data.DataContext.get_current().enable_progress_bars = False
    # A plan is no table row: each task fetches its own from the object store.
    references = [ray.put(plan) for plan in to_write]
    rows = [{"number": number} for number in range(len(to_write))]
    write = functools.partial(_write_row, references=references)
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(write, num_cpus=1)
    for row in tasks.iter_rows():
        spend(Cost(float(row["cpu_s"])))
        if row["error"]:
            raise OSError(row["error"])
        yield to_write[row["number"]]


def _write_row(row: dict[str, Any], references: list[ray.ObjectRef[ShardPlan]]) -> dict[str, Any]:
    """One Ray task. An error of the disk comes back as text: Ray would wrap it beyond recognition."""
    plan, error, began = ray.get(references[row["number"]]), "", own_cost()
    try:
        write_plan(plan)
    except OSError as failure:
        error = f"{plan.path} cannot be written: {failure}"
    return {"number": row["number"], "error": error, "cpu_s": own_cost().cpu_s - began.cpu_s}


def write_plan(plan: ShardPlan) -> None:
    """Decode and describe the clips of a shard, and write it. A clip that cannot be read is noted and left out."""
    tokenizer = _parsed(plan.tokenizer)
    examples: list[Example] = []
    skipped: list[Skipped] = []
    num_warnings: Counter[str] = Counter()
    new: dict[str, Frames] = {}
    for clip in plan.clips:
        frames = plan.shared.find(clip.clip_id) if plan.shared else None
        try:
            if frames is None:
                frames = new[clip.clip_id] = _frames(clip, plan.config)
            given = precomputed.read(clip, plan.config)
        except MediaError as error:
            skipped.append(Skipped(clip.clip_id, error.code))
            continue
        features, warnings = clip_features.with_words(frames, clip.transcript, plan.config, tokenizer, given=given)
        num_warnings.update(warnings)
        values = plan.task.row(clip.labels) if plan.task and clip.labels else ()
        examples.append(Example(clip.clip_id, clip.speaker_id, values, features))
    widths = (audio_width(plan.config.audio), video_width(plan.config.video))
    write_shard(plan.path, examples, widths=widths, notes=ShardNotes(tuple(skipped), num_warnings))
    if plan.shared:
        plan.shared.keep(new, widths)


def _frames(clip: Clip, config: Features) -> Frames:
    """Decode and describe a clip."""
    audio = None if clip.audio_uri is None else source_of(clip.audio_uri)
    video = None if clip.video_uri is None else source_of(clip.video_uri)
    recording = clip_features.record(
        audio=audio, video=video, config=config, start_s=clip.start_s, end_s=clip.end_s, limits=MEDIA_LIMITS
    )
    return clip_features.compute_frames(recording, config)


@functools.lru_cache(maxsize=2)
def _parsed(tokenizer: str) -> Tokenizer:
    return parse_tokenizer(tokenizer, source="the plan of a shard")


def _is_complete(path: Path) -> bool:
    """Whether a former run wrote this shard with all its clips; a missing clip may have been the disk's fault."""
    try:
        return not read_notes(path).skipped
    except (FileNotFoundError, ValueError):
        return False
