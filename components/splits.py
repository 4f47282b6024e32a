"""Who trains and who tests: splits are drawn by speaker, so that no voice or face is in two of them."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from components import params
from components.clip import Clip, Split
from components.protocols import EvaluationProtocol, Fold
from components.task import Task

_HELD_OUT: Final[tuple[Split, ...]] = ("validation", "test")
_NUM_TRIES: Final = 200


def divide(
    clips: Sequence[Clip], settings: params.Ingest, *, task: Task, protocol: EvaluationProtocol | None = None, seed: int
) -> dict[str, Split]:
    """The split of each speaker who has a labelled clip: train, validation or test.

    A `protocol` says who tests and validates in the fold `settings.fold`. Without one, a corpus's own splits are
    kept, and validation speakers are drawn from train where it has none. Else the named `test_speakers`, or a drawn
    share, are held out: first those without unlabelled clips, which holding out would waste, and such that each
    split has every class, where that can be.

    Raises:
        ValueError: there is nothing labelled, nothing to tell apart, fewer than three speakers, a speaker in two
            splits, an unknown speaker among `test_speakers`, or a fold that cannot be made.
    """
    labelled = [clip for clip in clips if _is_labelled(clip)]
    _check_labels(labelled, task)
    speakers = sorted({clip.speaker_id for clip in labelled})
    if len(speakers) < 3:
        raise ValueError(
            f"only {len(speakers)} speaker{'s have' if len(speakers) == 2 else ' has'} labelled clips "
            f"({', '.join(speakers)}): training, validation and test each need a speaker of their own, add recordings "
            f"of {3 - len(speakers)} more"
        )
    own = _own_splits(labelled)
    if own and (settings.test_speakers or protocol):
        setting = "test_speakers" if settings.test_speakers else "protocol or num_folds"
        raise ValueError(f"ingest.{setting} is set, but the corpus has splits of its own: leave one of the two out")
    if protocol is not None:
        return _divide_as(protocol, clips, number=settings.fold, seed=seed)
    test = sorted(name for name, split in own.items() if split == "test") or _named(settings.test_speakers, speakers)
    validation = sorted(name for name, split in own.items() if split == "validation")
    free = [name for name in speakers if name not in test and name not in validation]
    num_test = 0 if test else max(1, round(settings.test_share * len(speakers)))
    num_validation = 0 if validation else max(1, round(settings.validation_share * len(speakers)))
    if len(free) <= num_test + num_validation:
        raise ValueError(
            f"{len(free)} speakers remain for training beside the test speakers: ingest.test_share, validation_share "
            "or test_speakers take too many"
        )
    drawn = _Draw(clips, task, seed).draw(free, num_test, num_validation)
    return {**dict.fromkeys(test, "test"), **dict.fromkeys(validation, "validation"), **drawn}


def assign(clip: Clip, split_of: Mapping[str, Split]) -> Split | None:
    """The split of a clip; None for an unlabelled clip of a speaker who is held out: nobody may see it."""
    split = split_of.get(clip.speaker_id, "unlabelled")
    if _is_labelled(clip):
        return split
    return None if split in _HELD_OUT else "unlabelled"


def _is_labelled(clip: Clip) -> bool:
    return bool(clip.labels) and clip.split != "unlabelled"


def _check_labels(labelled: Sequence[Clip], task: Task) -> None:
    if not labelled:
        raise ValueError("no usable clip has a label: fine-tuning needs some, fill in labels")
    if task.kind == "values":
        if len({task.row(clip.labels) for clip in labelled}) == 1:
            raise ValueError("every labelled clip has the same values: there is nothing to learn, add other labels")
        return
    present = set().union(*(task.present(clip.labels) for clip in labelled))
    if task.kind == "multilabel":
        if not present:
            raise ValueError(f"no label of any clip exceeds {task.threshold}: there is nothing to tell, check the task")
    elif len(present) == 1:
        raise ValueError(f"every labelled clip is {present.pop()!r}: there is nothing to tell apart, add other labels")


def _divide_as(protocol: EvaluationProtocol, clips: Sequence[Clip], *, number: int, seed: int) -> dict[str, Split]:
    """The splits of one fold. A speaker of a held-out session is held out also where nothing of him is labelled."""
    units_of: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        unit = clip.speaker_id if protocol.unit == "speaker" else clip.session_id
        if not unit and _is_labelled(clip):
            raise ValueError(f"clip {clip.clip_id} has no session_id, and protocol {protocol.name} divides by session")
        units_of[clip.speaker_id].add(unit)
    labelled = {clip.speaker_id for clip in clips if _is_labelled(clip)}
    fold = protocol.fold(sorted(set().union(*(units_of[name] for name in labelled))), number, seed=seed)
    division: dict[str, Split] = {}
    for speaker, units in sorted(units_of.items()):
        found = {_split_in(fold, unit) for unit in units}
        if len(found) > 1:
            raise ValueError(
                f"speaker {speaker} is in {protocol.unit}s {', '.join(sorted(units))}, which protocol {protocol.name} "
                "puts into different splits: divide by speaker, with ingest.num_folds"
            )
        split = found.pop()
        if speaker in labelled or split in _HELD_OUT:
            division[speaker] = split
    return division


def _split_in(fold: Fold, unit: str) -> Split:
    if unit in fold.test:
        return "test"
    return "validation" if unit in fold.validation else "train"


def _own_splits(labelled: Sequence[Clip]) -> dict[str, Split]:
    found: dict[str, set[Split | None]] = defaultdict(set)
    for clip in labelled:
        found[clip.speaker_id].add(clip.split)
    if all(splits == {None} for splits in found.values()):
        return {}
    own: dict[str, Split] = {}
    for speaker, splits in sorted(found.items()):
        if None in splits:
            raise ValueError(f"speaker {speaker}: clips without a split, while others have one: fill in all or none")
        if len(splits) > 1:
            names = " and ".join(sorted(str(split) for split in splits))
            raise ValueError(f"speaker {speaker} is in {names}: splits must keep speakers apart, put them in one")
        own[speaker] = next(split for split in splits if split is not None)
    if "test" not in own.values():
        raise ValueError("the corpus's own splits have no test speaker: add some, or leave the splits empty")
    return own


def _named(names: Sequence[str], speakers: Sequence[str]) -> list[str]:
    for name in names:
        if name not in speakers:
            nearest = difflib.get_close_matches(name, speakers, n=1, cutoff=0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(speakers[:5])} and so on"
            raise ValueError(f"ingest.test_speakers: no labelled speaker {name!r}{hint}")
    return sorted(set(names))


@dataclass(frozen=True)
class _Draw:
    """Speakers drawn for the splits: of several divisions the one whose splits lack the fewest classes."""

    clips: Sequence[Clip]
    task: Task
    seed: int

    def draw(self, speakers: Sequence[str], num_test: int, num_validation: int) -> dict[str, Split]:
        """The division that lacks the fewest classes; of equal ones the first."""
        generator = np.random.default_rng([self.seed, len(speakers)])
        num_unlabelled = Counter(clip.speaker_id for clip in self.clips if not _is_labelled(clip))
        classes_of: dict[str, set[str]] = defaultdict(set)
        for clip in self.clips:
            classes_of[clip.speaker_id] |= self.task.present(clip.labels)
        num_classes = len(set().union(*classes_of.values()))
        num_held_out = num_test + num_validation

        def lacking(group: Iterable[str]) -> int:
            return num_classes - len(set().union(*(classes_of[name] for name in group)))

        best: list[str] = []
        best_score: tuple[int, int] | None = None
        for attempt in range(_NUM_TRIES):
            order = [speakers[index] for index in generator.permutation(len(speakers))]
            if attempt < _NUM_TRIES // 2:
                order.sort(key=lambda name: num_unlabelled[name] > 0)
                # The first in order are held out; which of them test is still up to chance.
                held_out = [order[index] for index in generator.permutation(num_held_out)]
                order = held_out + order[num_held_out:]
            groups = (order[num_held_out:], order[:num_test], order[num_test:num_held_out])
            score = (lacking(groups[0]), sum(lacking(group) for group in groups[1:] if group))
            if best_score is None or score < best_score:
                best, best_score = order, score
        division: dict[str, Split] = dict.fromkeys(best[num_held_out:], "train")
        division.update(dict.fromkeys(best[:num_test], "test"))
        division.update(dict.fromkeys(best[num_test:num_held_out], "validation"))
        return division
