"""Transcripts of clips that have none, by the recognizer that the settings name; one Ray Data task a block of clips.

Blocks lie as JSON files in a folder and are not made again. What a clip's file gives is heard as in serving: the same
part of it, at the same rate, by the same function.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data

from components import compute
from components.clip import Clip
from components.features import clip_features, speech
from components.media import MediaError, source_of
from components.params import Features
from components.shard_plans import MEDIA_LIMITS
from components.stage import Cost, own_cost, progress, spend
from components.storage import write_atomically

FILE: Final = "transcripts.parquet"
_SCHEMA: Final = pa.schema([("clip_id", pa.string()), ("transcript", pa.string())])


def transcribe(clips: Sequence[Clip], config: Features, folder: Path) -> dict[str, str]:
    """The words of the clips that have sound and no transcript, by clip_id, with `folder` to go on from.

    A clip that cannot be read is left out: the extraction of its features tells why.

    Raises:
        ValueError: the recognizer cannot be loaded.
        OSError: a block cannot be written.
    """
    if config.text.transcribe is None or "text" not in config.modalities:
        return {}
    silent = sorted(
        (clip for clip in clips if clip.transcript is None and clip.audio_uri is not None),
        key=lambda clip: clip.clip_id,
    )
    size = config.clips_per_shard
    blocks = {f"{first // size:05d}.json": silent[first : first + size] for first in range(0, len(silent), size)}
    found: dict[str, str] = {}
    to_do = []
    for name, block in blocks.items():
        known = _read(folder / name)
        if known.keys() >= {clip.clip_id for clip in block}:
            found |= known
        else:
            to_do.append((folder.absolute() / name, block))
    if to_do:
        # The workers load it themselves; here it is only found to be whole, before the work begins.
        speech.check(config.text.transcribe, sample_rate_hz=config.audio.sample_rate_hz)
        for path in _write(to_do, config, num_done=len(blocks) - len(to_do)):
            found |= _read(path)
    return found


def filled(clips: Sequence[Clip], words: dict[str, str]) -> list[Clip]:
    """The clips with the words that were recognized; what was written down stays."""
    return [
        replace(clip, transcript=words[clip.clip_id]) if clip.transcript is None and clip.clip_id in words else clip
        for clip in clips
    ]


def write(folder: Path, words: dict[str, str]) -> None:
    """Write what was recognized beside the features."""
    rows = [{"clip_id": name, "transcript": words[name]} for name in sorted(words)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / FILE)


def read(folder: Path) -> dict[str, str]:
    """What was recognized for the features of a folder; nothing where nothing had to be."""
    if not (folder / FILE).exists():
        return {}
    rows = pyarrow.parquet.read_table(folder / FILE).to_pylist()
    return {row["clip_id"]: row["transcript"] for row in rows}


def _write(blocks: Sequence[tuple[Path, Sequence[Clip]]], config: Features, *, num_done: int) -> list[Path]:
    """Hear the clips of each block, in Ray's tasks; the files of all."""
    compute.connect()
    ray.data.DataContext.get_current().enable_progress_bars = False
    references = [ray.put((path, block, config)) for path, block in blocks]
    work = functools.partial(_write_row, references=references)
    rows = ray.data.from_items([{"number": number} for number in range(len(blocks))], override_num_blocks=len(blocks))
    total = num_done + len(blocks)
    for row in rows.map(work, num_cpus=1).iter_rows():
        spend(Cost(float(row["cpu_s"])))
        if row["error"]:
            raise OSError(row["error"])
        num_done += 1
        progress(stage="features", done=num_done, total=total, message=f"{num_done}/{total} blocks transcribed")
    return [path for path, _ in blocks]


def _write_row(
    row: dict[str, Any], references: list[ray.ObjectRef[tuple[Path, Sequence[Clip], Features]]]
) -> dict[str, Any]:
    """One Ray task. An error of the disk comes back as text: Ray would wrap it beyond recognition."""
    (path, block, config), error, began = ray.get(references[row["number"]]), "", own_cost()
    try:
        write_atomically(path, json.dumps(_words(block, config), ensure_ascii=True, indent=1).encode())
    except OSError as failure:
        error = f"{path} cannot be written: {failure}"
    return {"number": row["number"], "error": error, "cpu_s": own_cost().cpu_s - began.cpu_s}


def _words(clips: Sequence[Clip], config: Features) -> dict[str, str]:
    settings = config.text.transcribe
    assert settings is not None
    names, waveforms = [], []
    for clip in clips:
        try:
            recording = clip_features.record(
                audio=source_of(clip.audio_uri or ""),
                video=None,
                config=config,
                start_s=clip.start_s,
                end_s=clip.end_s,
                limits=MEDIA_LIMITS,
            )
        except MediaError:
            continue
        waveform_S = clip_features.heard(recording, config)
        if waveform_S is not None:
            names.append(clip.clip_id)
            waveforms.append(waveform_S)
    words = speech.transcribe(waveforms, settings, sample_rate_hz=config.audio.sample_rate_hz)
    return dict(zip(names, words, strict=True))


def _read(path: Path) -> dict[str, str]:
    try:
        values: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return values
