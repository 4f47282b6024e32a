"""The stage that turns a corpus into clips: render or find the files, inspect each of them, divide the speakers.

Reads the corpus that the parameters name; writes `build/clips/`: `clips.parquet` (one row a clip, sorted by
clip_id), `rejected.parquet` (what is broken, and why), `task.json` and `labels.json` (what is asked of the clips),
`summary.json`, and `media/` for a generated corpus. One broken file is a row in `rejected.parquet`; more of them than
`ingest.max_rejected_share` end the run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow

from components import clip_table, datasets, params, splits, task
from components.candidates import gather
from components.clip import SPLITS, Clip, Split
from components.inspection import Inspected
from components.inspections import Inspections, shared_path
from components.ledger import Ledger, Member
from components.stage import progress, run_stage
from components.storage import write_atomically
from components.survey import Rejection, survey

CLIPS_FOLDER: Final = Path("build/clips")

_REJECTED_SCHEMA: Final = pyarrow.schema([(name, pyarrow.string()) for name in ("clip_id", "uri", "reason", "detail")])
_TOLD_EVERY: Final = 50
_LISTED_EVERY: Final = 10_000


def ingest(parameters: params.Params, folder: Path = CLIPS_FOLDER) -> None:
    """Build the clips folder; it appears whole or not at all.

    Raises:
        ValueError: a corpus is missing or empty, too much of it is broken, or its labels or speakers cannot be
            divided; what was rejected is then listed in `rejected.parquet` beside the folder.
    """
    partial = folder.parent / f".partial-{folder.name}"
    left_behind = folder.parent / "rejected.parquet"
    shutil.rmtree(partial, ignore_errors=True)
    left_behind.unlink(missing_ok=True)
    # A wrong name is told before anything is read.
    datasets.task_of(parameters.finetune_on)
    datasets.protocol_of(parameters.finetune_on, parameters.ingest)
    (partial / "media").mkdir(parents=True)
    own_inspections = folder.with_name(f"{folder.name}.inspected")
    try:
        with (
            closing(Inspections(shared_path() or own_inspections)) as inspections,
            closing(Ledger(partial / "ledger")) as ledger,
        ):
            _inspect(parameters, partial / "media", ledger, inspections)
            _write(partial, ledger, parameters, left_behind)
        (partial / "ledger").unlink()
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        own_inspections.unlink(missing_ok=True)
    except sqlite3.OperationalError as error:
        raise OSError(f"{folder.parent} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _inspect(parameters: params.Params, media: Path, ledger: Ledger, inspections: Inspections) -> None:
    """Bring everything that the corpora name into the ledger, with what came of it."""
    for item in gather(parameters, media):
        if isinstance(item, Rejection):
            ledger.reject(item)
        elif ledger.add(item):
            if item.clip and (found := inspections.find(item.clip, item.bounds)):
                ledger.settle(item, found)
            if ledger.num_clips % _LISTED_EVERY == 0:
                progress(stage="ingest", done=0, total=ledger.num_clips, message=f"{ledger.num_clips} clips listed")
    for candidate, outcome in survey(ledger.waiting()):
        ledger.settle(candidate, outcome)
        if candidate.clip and isinstance(outcome, Inspected):
            inspections.keep(candidate.clip, candidate.bounds, outcome)
        done, total = ledger.num_settled, ledger.num_clips
        if done % _TOLD_EVERY == 0 or done == total:
            progress(stage="ingest", done=done, total=total, message=f"{done} clips")


def _check_share(ledger: Ledger, counts: Counter[str], max_share: float, left_behind: Path) -> None:
    num_all = ledger.num_usable + counts.total()
    if ledger.num_usable and counts.total() <= max_share * num_all:
        return
    [(reason, count)] = counts.most_common(1)
    example = next(each for each in ledger.rejections() if each.reason == reason)
    raise ValueError(
        f"{counts.total()} of {num_all} clips cannot be used, over the share ingest.max_rejected_share = {max_share}; "
        f"most often {reason} ({count}, such as {example.uri or example.clip_id}): mend them, or see {left_behind}"
    )


def _write(partial: Path, ledger: Ledger, parameters: params.Params, left_behind: Path) -> None:
    """Write what the stage hands on; where that cannot be, the list of what was rejected is left behind."""
    clip_table.write_rows(partial / "rejected.parquet", _REJECTED_SCHEMA, map(asdict, ledger.rejections()))
    counts = Counter(each.reason for each in ledger.rejections())
    try:
        _check_share(ledger, counts, parameters.ingest.max_rejected_share, left_behind)
        _write_clips(partial, ledger, counts, parameters)
    except ValueError:
        write_atomically(left_behind, (partial / "rejected.parquet").read_bytes())
        raise


def _write_clips(partial: Path, ledger: Ledger, rejected: Counter[str], parameters: params.Params) -> None:
    """Divide the speakers and write the clips."""
    own = [member.clip for member in ledger.members(with_extra=False)]
    asked = datasets.task_of(parameters.finetune_on) or _named_by(own)
    protocol = datasets.protocol_of(parameters.finetune_on, parameters.ingest)
    split_of = splits.divide(own, parameters.ingest, task=asked, protocol=protocol, seed=parameters.seed)
    written = _Written()
    rows = (_row(member, split) for member, split in _keep(ledger, split_of, parameters.finetune_on.dataset))
    clip_table.write_rows(partial / clip_table.NAME, clip_table.SCHEMA, map(written.count, rows))
    task.write(partial, asked)
    summary = {
        "dataset": parameters.finetune_on.dataset,
        "task": asked.name,
        "protocol": protocol and protocol.name,
        "fold": protocol and parameters.ingest.fold,
        "num_clips": written.num_clips,
        "num_speakers": {split: len(written.speakers[split]) for split in SPLITS},
        "minutes": round(written.duration_s / 60, 2),
        "num_duplicate_files": written.num_duplicate_files(),
        "num_unlabelled_held_back": ledger.num_usable - sum(written.num_clips.values()),
        "num_rejected": rejected.total(),
        "rejected": dict(sorted(rejected.items())),
    }
    (partial / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    # A recording that nobody may see needs no place on the disk.
    for path in (partial / "media").iterdir():
        if path.name not in written.media:
            path.unlink()
    if not any((partial / "media").iterdir()):
        (partial / "media").rmdir()


@dataclass
class _Written:
    """What is counted of the rows while they are written.

    Attributes:
        media: names of the generated files that they name.
        contents: 16 bytes for the content of each, as many as there may be.
    """

    num_clips: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    speakers: dict[Split, set[str]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    duration_s: float = 0.0
    media: set[str] = field(default_factory=set)
    contents: bytearray = field(default_factory=bytearray)

    def count(self, row: dict[str, Any]) -> dict[str, Any]:
        self.num_clips[row["split"]] += 1
        self.speakers[row["split"]].add(row["speaker_id"])
        self.duration_s += row["duration_s"]
        if row["video_uri"] and row["video_uri"].startswith("media/"):
            self.media.add(Path(row["video_uri"]).name)
        content = row["md5"] or hashlib.md5(row["clip_id"].encode(), usedforsecurity=False).hexdigest()
        self.contents += bytes.fromhex(content)
        return row

    def num_duplicate_files(self) -> int:
        halves = np.frombuffer(self.contents, [("first", np.uint64), ("second", np.uint64)])
        return len(halves) - len(np.unique(halves))


def _named_by(clips: Sequence[Clip]) -> task.Task:
    """The task of a corpus whose data name the labels."""
    names = sorted({name for clip in clips for name in clip.labels})
    if not names:
        raise ValueError("no usable clip has a label: fine-tuning needs some, fill in labels")
    return task.Task("classes", tuple(names), source="the labels that the data name")


def _keep(ledger: Ledger, split_of: Mapping[str, Split], dataset: str) -> Iterator[tuple[Member, Split]]:
    """The clips that may be used with their splits, by clip_id.

    Left out is what would show a held-out speaker to pre-training: unlabelled clips of that speaker, also from
    another copy of the corpus, and copies of a held-out file under any name.
    """
    held_out_files = {
        member.inspected.md5
        for member in ledger.members(with_extra=False)
        if splits.assign(member.clip, split_of) in ("validation", "test")
    } - {""}
    for member in ledger.members():
        clip = replace(member.clip, labels={}) if member.is_extra else member.clip
        split = splits.assign(clip, split_of if member.corpus == dataset else {})
        if split == "unlabelled":
            member = replace(member, inspected=replace(member.inspected, clip=replace(clip, labels={})))
            split = None if member.inspected.md5 in held_out_files else split
        if split is not None:
            yield member, split


def _row(member: Member, split: Split) -> dict[str, Any]:
    clip = member.clip
    is_generated = isinstance(datasets.load(member.corpus), datasets.GeneratedModule)

    def placed(uri: str | None) -> str | None:
        return f"media/{uri}" if uri and is_generated else uri

    return {
        "clip_id": clip.clip_id,
        "corpus": member.corpus,
        "speaker_id": clip.speaker_id,
        "session_id": clip.session_id,
        "split": split,
        "audio_uri": placed(clip.audio_uri),
        "video_uri": placed(clip.video_uri),
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "duration_s": member.inspected.duration_s,
        "transcript": clip.transcript,
        "speaker_sex": clip.speaker_sex,
        "speaker_age": clip.speaker_age,
        "labels": sorted(clip.labels.items()),
        "num_bytes": member.inspected.num_bytes,
        "md5": member.inspected.md5,
    }


def main() -> None:
    ingest(params.load_params())


if __name__ == "__main__":
    run_stage(main)
