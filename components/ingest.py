"""The stage that turns a corpus into clips: render or find the files, inspect each of them, divide the speakers.

Reads the corpus that the parameters name; writes `build/clips/`: `clips.parquet` (one row a clip, sorted by
clip_id), `rejected.parquet` (what is broken, and why), `task.json` and `labels.json` (what is asked of the clips),
`summary.json`, and `media/` for a generated corpus. One broken file is a row in `rejected.parquet`; more of them than
`ingest.max_rejected_share` end the run.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet

from components import datasets, params, splits, task
from components.candidates import gather
from components.clip import SPLITS, Clip, Split
from components.inspection import Inspected
from components.stage import run_stage
from components.storage import write_atomically
from components.survey import Rejection, survey

CLIPS_FOLDER: Final = Path("build/clips")

_CLIPS_SCHEMA: Final = pyarrow.schema(
    [
        ("clip_id", pyarrow.string()),
        ("corpus", pyarrow.string()),
        ("speaker_id", pyarrow.string()),
        ("session_id", pyarrow.string()),
        ("split", pyarrow.string()),
        ("audio_uri", pyarrow.string()),
        ("video_uri", pyarrow.string()),
        ("start_s", pyarrow.float64()),
        ("end_s", pyarrow.float64()),
        ("duration_s", pyarrow.float64()),
        ("transcript", pyarrow.string()),
        ("labels", pyarrow.map_(pyarrow.string(), pyarrow.float64())),
        ("num_bytes", pyarrow.int64()),
        ("md5", pyarrow.string()),
    ]
)
_REJECTED_SCHEMA: Final = pyarrow.schema([(name, pyarrow.string()) for name in ("clip_id", "uri", "reason", "detail")])


def read_clips(folder: Path) -> pyarrow.Table:
    """`clips.parquet` of a clips folder, with the URIs of generated media made absolute.

    Raises:
        FileNotFoundError: the stage has not run.
    """
    path = folder / "clips.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the ingest stage first (`dvc repro ingest`)")
    table = pyarrow.parquet.read_table(path)
    root = folder.absolute()
    for name in ("audio_uri", "video_uri"):
        absolute = [uri and (uri if "://" in uri else str(root / uri)) for uri in table.column(name).to_pylist()]
        column = pyarrow.array(absolute, pyarrow.string())
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def to_clip(row: Mapping[str, Any]) -> Clip:
    """The clip of one row of `read_clips(…).to_pylist()`."""
    return Clip(
        clip_id=row["clip_id"],
        speaker_id=row["speaker_id"],
        session_id=row["session_id"],
        split=row["split"],
        audio_uri=row["audio_uri"],
        video_uri=row["video_uri"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        transcript=row["transcript"],
        labels=dict(row["labels"]),
    )


@dataclass(frozen=True)
class _Member:
    """A usable clip, and the corpus it came from."""

    inspected: Inspected
    corpus: str
    is_extra: bool

    @property
    def clip(self) -> Clip:
        return self.inspected.clip


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
    try:
        candidates, rejections = gather(parameters, partial / "media")
        members = []
        for candidate, outcome in zip(candidates, survey(candidates), strict=True):
            if isinstance(outcome, Rejection):
                rejections.append(outcome)
            else:
                members.append(_Member(outcome, candidate.corpus, candidate.is_extra))
        rejected = pyarrow.Table.from_pylist(
            [asdict(each) for each in sorted(rejections, key=_order)], _REJECTED_SCHEMA
        )
        pyarrow.parquet.write_table(rejected, partial / "rejected.parquet")
        try:
            _check_share(len(members), rejections, parameters.ingest.max_rejected_share, left_behind)
            _write(partial, members, rejections, parameters)
        except ValueError:
            write_atomically(left_behind, (partial / "rejected.parquet").read_bytes())
            raise
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _order(rejection: Rejection) -> tuple[str, str, str]:
    return (rejection.clip_id, rejection.uri, rejection.reason)


def _check_share(num_found: int, rejections: Sequence[Rejection], max_share: float, left_behind: Path) -> None:
    num_all = num_found + len(rejections)
    if num_found and len(rejections) <= max_share * num_all:
        return
    (reason, count), *_ = Counter(each.reason for each in sorted(rejections, key=_order)).most_common()
    example = next(each for each in sorted(rejections, key=_order) if each.reason == reason)
    raise ValueError(
        f"{len(rejections)} of {num_all} clips cannot be used, over the share ingest.max_rejected_share = {max_share}; "
        f"most often {reason} ({count}, such as {example.uri or example.clip_id}): mend them, or see {left_behind}"
    )


def _write(
    partial: Path, members: Sequence[_Member], rejections: Sequence[Rejection], parameters: params.Params
) -> None:
    """Divide the clips and write what the stage hands on."""
    own = [member.clip for member in members if not member.is_extra]
    asked = datasets.task_of(parameters.finetune_on) or _named_by(own)
    protocol = datasets.protocol_of(parameters.finetune_on, parameters.ingest)
    split_of = splits.divide(own, parameters.ingest, task=asked, protocol=protocol, seed=parameters.seed)
    kept, num_held_back = _keep(members, split_of, parameters.finetune_on.dataset)
    rows = [_row(member, split) for member, split in kept]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _CLIPS_SCHEMA), partial / "clips.parquet")
    task.write(partial, asked)
    summary = {
        "dataset": parameters.finetune_on.dataset,
        "task": asked.name,
        "protocol": protocol and protocol.name,
        "fold": protocol and parameters.ingest.fold,
        "num_clips": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
        "num_speakers": {split: len({row["speaker_id"] for row in rows if row["split"] == split}) for split in SPLITS},
        "minutes": round(sum(row["duration_s"] for row in rows) / 60, 2),
        "num_duplicate_files": len(rows) - len({row["md5"] or row["clip_id"] for row in rows}),
        "num_unlabelled_held_back": num_held_back,
        "num_rejected": len(rejections),
        "rejected": dict(sorted(Counter(each.reason for each in rejections).items())),
    }
    (partial / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    # A recording that nobody may see needs no place on the disk.
    used = {Path(row["video_uri"]).name for row in rows if row["video_uri"]}
    for path in (partial / "media").iterdir():
        if path.name not in used:
            path.unlink()
    if not used or not any((partial / "media").iterdir()):
        (partial / "media").rmdir()


def _named_by(clips: Sequence[Clip]) -> task.Task:
    """The task of a corpus whose data name the labels."""
    names = sorted({name for clip in clips for name in clip.labels})
    if not names:
        raise ValueError("no usable clip has a label: fine-tuning needs some, fill in labels")
    return task.Task("classes", tuple(names), source="the labels that the data name")


def _keep(
    members: Sequence[_Member], split_of: Mapping[str, Split], dataset: str
) -> tuple[list[tuple[_Member, Split]], int]:
    """The clips that may be used with their splits, by clip_id, and how many unlabelled ones are held back.

    Held back is what would show a held-out speaker to pre-training: unlabelled clips of that speaker, also from
    another copy of the corpus, and copies of a held-out file under any name.
    """
    held_out_files = {
        member.inspected.md5
        for member in members
        if not member.is_extra and splits.assign(member.clip, split_of) in ("validation", "test")
    } - {""}
    kept: list[tuple[_Member, Split]] = []
    for member in members:
        clip = replace(member.clip, labels={}) if member.is_extra else member.clip
        split = splits.assign(clip, split_of if member.corpus == dataset else {})
        if split == "unlabelled":
            member = replace(member, inspected=replace(member.inspected, clip=replace(clip, labels={})))
            split = None if member.inspected.md5 in held_out_files else split
        if split is not None:
            kept.append((member, split))
    return sorted(kept, key=lambda each: each[0].clip.clip_id), len(members) - len(kept)


def _row(member: _Member, split: Split) -> dict[str, Any]:
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
        "labels": sorted(clip.labels.items()),
        "num_bytes": member.inspected.num_bytes,
        "md5": member.inspected.md5,
    }


def main() -> None:
    ingest(params.load_params())


if __name__ == "__main__":
    run_stage(main)
