"""Inspecting many clips at once, over Ray: what is generated is rendered there, and every file is decoded there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import cv2
import ray.data
from pydantic import TypeAdapter

from components import compute, datasets
from components.clip import Clip
from components.inspection import Bounds, ClipError, Inspected, inspect
from components.media import MediaError
from components.stage import Cost, own_cost, spend

_CLIPS_PER_BLOCK: Final = 16
_MAX_BLOCKS: Final = 256
# Ray Data starts a task that dies again for ever.
_MAX_ATTEMPTS: Final = 2


@dataclass(frozen=True)
class Candidate:
    """One clip to inspect; one with a `plan` instead of a `clip` is rendered into `media_folder` before.

    Attributes:
        corpus: name of its dataset.
        is_extra: whether the corpus is there for pre-training only.
        media_folder: absolute path; part of no result.
    """

    corpus: str
    is_extra: bool
    bounds: Bounds
    media_folder: str
    clip: Clip | None = None
    plan: datasets.RecordingPlan | None = None

    @property
    def clip_id(self) -> str:
        known = self.clip or self.plan
        return known.clip_id if known else ""

    @property
    def uri(self) -> str:
        return (self.clip.video_uri or self.clip.audio_uri or "") if self.clip else ""


@dataclass(frozen=True)
class Rejection:
    """Something that cannot be used: `reason` is a short stable code, `detail` says it in a line."""

    clip_id: str
    uri: str
    reason: str
    detail: str


Outcome = Inspected | Rejection
# As text an outcome fits into a column of Ray's blocks.
_OUTCOME: Final[TypeAdapter[Outcome]] = TypeAdapter(Outcome)


def carry_out(candidate: Candidate) -> Outcome:
    """Render the candidate's recording if it is generated, and inspect it."""
    clip = candidate.clip
    if clip is None:
        module = datasets.load(candidate.corpus)
        assert isinstance(module, datasets.GeneratedModule)
        assert candidate.plan is not None
        clip = module.render(candidate.plan, Path(candidate.media_folder))
    try:
        found = inspect(_with_folder(clip, candidate), candidate.bounds)
    except (MediaError, ClipError) as error:
        return Rejection(candidate.clip_id, candidate.uri, error.code, str(error))
    # A generated file is named relative to the clips folder: the folder may move, and its bytes must not change.
    return replace(found, clip=clip) if candidate.clip is None else found


def survey(
    candidates: Iterable[Candidate], work: Callable[[Candidate], Outcome] = carry_out
) -> Iterator[tuple[Candidate, Outcome]]:
    """Each candidate with its outcome, in the order in which they come in.

    A file that takes its whole process down (a crash in a decoder, memory gone) costs that clip only: Ray starts
    the lost block again, and a clip that was begun twice and never ended is rejected as `decoder-crashed`.
    """
    left = iter(candidates)
    # Ray holds all rows of what it is given, so it is given a part at a time.
    while part := list(islice(left, _MAX_BLOCKS * _CLIPS_PER_BLOCK)):
        yield from _inspect(part, work)


def _inspect(
    candidates: Sequence[Candidate], work: Callable[[Candidate], Outcome]
) -> Iterator[tuple[Candidate, Outcome]]:
    compute.connect()
    num_blocks = -(-len(candidates) // _CLIPS_PER_BLOCK)
    context = ray.data.DataContext.get_current()
    had_bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        with tempfile.TemporaryDirectory(prefix="affect-begun-") as begun:
            rows = ray.data.from_items(
                [{"index": index, "candidate": candidate} for index, candidate in enumerate(candidates)],
                override_num_blocks=num_blocks,
            ).map(
                partial(_step, work=work, begun=begun),
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=min(compute.num_cpus(), num_blocks)),
            )
            for row in rows.iter_rows():
                spend(Cost(float(row["cpu_s"])))
                yield candidates[int(row["index"])], _OUTCOME.validate_json(row["outcome"])
    finally:
        context.enable_progress_bars = had_bars


def _step(row: dict[str, Any], work: Callable[[Candidate], Outcome], begun: str) -> dict[str, Any]:
    """Do one task in a worker, with a file in the folder `begun` that is as long as it was begun often."""
    # One process a core: threads inside it would only get in each other's way.
    cv2.setNumThreads(1)
    began = own_cost()
    index, candidate = row["index"], row["candidate"]
    mark = Path(begun) / str(index)
    mark.parent.mkdir(exist_ok=True)
    with mark.open("ab") as file:
        file.write(b".")
    if mark.stat().st_size > _MAX_ATTEMPTS:
        detail = "the process that decoded it ended: make the file again from its source"
        outcome: Outcome = Rejection(candidate.clip_id, candidate.uri, "decoder-crashed", detail)
    else:
        outcome = work(candidate)
    mark.unlink()
    return {"index": index, "outcome": _OUTCOME.dump_json(outcome), "cpu_s": own_cost().cpu_s - began.cpu_s}


def _with_folder(clip: Clip, candidate: Candidate) -> Clip:
    if candidate.clip is not None:
        return clip

    def placed(uri: str | None) -> str | None:
        return None if uri is None else str(Path(candidate.media_folder) / uri)

    return replace(clip, audio_uri=placed(clip.audio_uri), video_uri=placed(clip.video_uri))
