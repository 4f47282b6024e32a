"""The stage `features`: from validated clips to shards of features, one Ray Data task a shard.

A task decodes each of its clips once, for all modalities, and writes its shard itself, so nothing large passes
through Ray. Shards gather in `build/features.partial`, which belongs to no DVC stage and so survives a crash: the
next start keeps the shards that are there, unless the clips, the settings or the code have changed meanwhile. Only
the complete folder becomes `build/features`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tokenizers import Tokenizer

from components import task, transcripts
from components.clip import SPLITS, Clip
from components.clip_table import read_clips, to_clip
from components.features import face_detectors, precomputed, speech
from components.features.text import fit_tokenizer, save_tokenizer
from components.params import Features, load_params
from components.shard_plans import ShardPlan, plan_shards, write_shards
from components.shards import ShardNotes, Skipped, read_notes
from components.shared_frames import open_shared
from components.stage import progress, run_stage
from components.storage import write_atomically

CLIPS_FOLDER = Path("build/clips")
FEATURES_FOLDER = Path("build/features")

# Ingest has decoded every clip before: more failures than this are a fault of the place, not of the clips.
MAX_SKIPPED_SHARE = 0.05
# A few recordings lack features that were made elsewhere; where many do, the names do not fit.
MAX_UNMATCHED_SHARE = 0.2

_DIGEST_FILE = "digest"
_HEARD = "transcripts"
_CODE = (
    "shard_plans.py",
    "task.py",
    "media.py",
    "shards.py",
    "sources.py",
    "datasets/_csd.py",
    "features/*.py",
    "transcripts.py",
)


def main() -> None:
    """Read `build/clips`, write `build/features`."""
    extract(CLIPS_FOLDER, FEATURES_FOLDER, load_params().features)


def extract(clips_folder: Path, target: Path, config: Features) -> None:
    """Write the features of all splits, with the tokenizer and the settings they were made with.

    Raises:
        ValueError: too many clips cannot be read any more.
        OSError: a shard cannot be written.
    """
    precomputed.check(config)
    config = _identified(config)
    rows = read_clips(clips_folder).to_pylist()
    clips = [to_clip(row) for row in rows]
    shared = open_shared(rows, config)
    asked = task.read(clips_folder)
    partial = target.with_name(f"{target.name}.partial").absolute()
    _enter(partial, _digest(clips_folder, config))
    config = _with_own_face_model(config, partial)
    words = transcripts.transcribe(clips, config, partial / _HEARD)
    clips = transcripts.filled(clips, words)
    # Words of test speakers would let the vocabulary know what is to be recognised.
    tokenizer = fit_tokenizer((clip.transcript for clip in clips if clip.split in ("train", "unlabelled")), config.text)
    plans: list[ShardPlan] = []
    for split in SPLITS:
        of_split = [clip for clip in clips if clip.split == split]
        plans += [
            replace(plan, shared=shared and shared.only(clip.clip_id for clip in plan.clips))
            for plan in plan_shards(of_split, partial / split, config, tokenizer, asked)
        ]
    notes = _write_all(plans, num_clips=len(clips))
    skipped = sorted(_all_skipped(notes), key=lambda skip: skip.clip_id)
    _check_skipped(skipped, len(clips))
    num_warnings = sum((Counter(note.num_warnings) for note in notes), Counter[str]())
    if num_warnings["no-features"] > MAX_UNMATCHED_SHARE * len(clips):
        raise ValueError(
            f"{num_warnings['no-features']} of {len(clips)} clips have no precomputed features, such as "
            f"{clips[0].clip_id}: let path, key and rename of features.audio and .video give names that the files have"
        )
    summary: dict[str, object] = {"num_clips": len(clips) - len(skipped), "num_skipped": len(skipped)}
    summary["num_warnings"] = num_warnings
    if config.text.transcribe is not None:
        summary["num_transcribed"] = len(words)
        transcripts.write(partial, words)
    save_tokenizer(tokenizer, partial / "tokenizer.json")
    # The file moves with the folder, so it is named without one.
    settings = config.model_dump(mode="json")
    settings["video"]["face_model"] = config.video.face_model and face_detectors.FACE_MODEL
    write_atomically(partial / "preprocess.json", json.dumps(settings, indent=2).encode())
    task.write(partial, asked)
    write_atomically(partial / "skipped.json", json.dumps([asdict(skip) for skip in skipped], indent=2).encode())
    write_atomically(partial / "summary.json", json.dumps(summary, indent=2, sort_keys=True).encode())
    shutil.rmtree(partial / _HEARD, ignore_errors=True)
    (partial / _DIGEST_FILE).unlink()
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def extract_clips(clips: Sequence[Clip], *, config: Features, tokenizer: Tokenizer, folder: Path) -> list[Skipped]:
    """Write shards of some clips into a folder, as with the settings of another model; returns those left out.

    Labels are not written. The folder is read by `ShardSet(sorted(folder.glob("*.arrow")))`; what is in it is replaced.
    """
    shutil.rmtree(folder, ignore_errors=True)
    clips = transcripts.filled(clips, transcripts.transcribe(clips, config, folder / _HEARD))
    plans = plan_shards(clips, folder.absolute(), config, tokenizer, None)
    return _all_skipped(_write_all(plans, num_clips=len(clips)))


def _write_all(plans: Sequence[ShardPlan], *, num_clips: int) -> list[ShardNotes]:
    """Write the shards that are not there yet, telling the progress; the notes of all, in order."""
    done, num_done = 0, 0
    progress(stage="features", done=0, total=len(plans), message=f"0/{num_clips} clips")
    for plan in write_shards(plans):
        done, num_done = done + 1, num_done + len(plan.clips)
        progress(stage="features", done=done, total=len(plans), message=f"{num_done}/{num_clips} clips")
    return [read_notes(plan.path) for plan in plans]


def _all_skipped(notes: Sequence[ShardNotes]) -> list[Skipped]:
    return [skip for note in notes for skip in note.skipped]


def _check_skipped(skipped: Sequence[Skipped], num_clips: int) -> None:
    if len(skipped) > MAX_SKIPPED_SHARE * num_clips:
        raise ValueError(
            f"{len(skipped)} of {num_clips} clips cannot be read any more (first: {skipped[0].clip_id}, "
            f"{skipped[0].reason}): bring the files back, or run `dvc repro --force ingest` to leave them out"
        )


def _identified(config: Features) -> Features:
    """The settings with the digests of the files that they name; a wrong name is told before the work begins."""
    video, text = face_detectors.identified(config.video), config.text
    if text.transcribe is not None:
        text = text.model_copy(update={"transcribe": speech.identified(text.transcribe)})
    return config.model_copy(update={"video": video, "text": text})


def _with_own_face_model(config: Features, folder: Path) -> Features:
    """The settings with a copy of the face model's file, which goes on into the bundle."""
    if config.video.face_model is None:
        return config
    write_atomically(folder / face_detectors.FACE_MODEL, face_detectors.read_face_model(config.video))
    return face_detectors.placed(config, folder)


def _digest(clips_folder: Path, config: Features) -> str:
    """A name for everything that decides what is in the shards."""
    # The face model and the recognizer count by their content, wherever they lie.
    values = config.model_dump_json(exclude={"video": {"face_model"}, "text": {"transcribe": {"path"}}})
    digest = hashlib.sha256(values.encode())
    digest.update(repr(task.read(clips_folder)).encode())
    files = [clips_folder / "clips.parquet"]
    for pattern in _CODE:
        files += sorted(Path(__file__).parent.glob(pattern))
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _enter(partial: Path, digest: str) -> None:
    """Go on in the folder of a former run that had the same in hand, or start it afresh."""
    marker = partial / _DIGEST_FILE
    if marker.exists() and marker.read_text() == digest:
        return
    shutil.rmtree(partial, ignore_errors=True)
    write_atomically(marker, digest.encode())


if __name__ == "__main__":
    run_stage(main)
