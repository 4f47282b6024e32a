"""Who trains and who tests: splits are drawn by speaker, so that no voice or face is in two of them."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from components import params
from components.clip import Clip, Split

_HELD_OUT: Final[tuple[Split, ...]] = ("validation", "test")
_NUM_TRIES: Final = 200


def divide(clips: Sequence[Clip], settings: params.Ingest, seed: int) -> dict[str, Split]:
    """The split of each speaker who has a labelled clip: train, validation or test.

    A corpus's own splits are kept, and validation speakers are drawn from train where it has none. Else the named
    `test_speakers`, or a drawn share, are held out: first those without unlabelled clips, which holding out would
    waste, and such that each split has every class, where that can be.

    Raises:
        ValueError: there is nothing labelled, only one class, fewer than three speakers, a speaker in two of the
            corpus's splits, or an unknown speaker among `test_speakers`.
    """
    labelled = [clip for clip in clips if clip.labels and clip.split != "unlabelled"]
    classes = {main_label(clip) for clip in labelled}
    if not labelled:
        raise ValueError("no usable clip has a label: fine-tuning needs some, fill in labels")
    if len(classes) == 1:
        raise ValueError(f"every labelled clip is {classes.pop()!r}: there is nothing to tell apart, add other labels")
    speakers = sorted({clip.speaker_id for clip in labelled})
    if len(speakers) < 3:
        raise ValueError(
            f"only {len(speakers)} speaker{'s have' if len(speakers) == 2 else ' has'} labelled clips "
            f"({', '.join(speakers)}): training, validation and test each need a speaker of their own, add recordings "
            f"of {3 - len(speakers)} more"
        )
    own = _own_splits(labelled)
    if own and settings.test_speakers:
        raise ValueError("ingest.test_speakers is set, but the corpus has splits of its own: leave one of the two out")
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
    drawn = _draw(free, num_test, num_validation, clips, seed)
    return {**dict.fromkeys(test, "test"), **dict.fromkeys(validation, "validation"), **drawn}


def assign(clip: Clip, split_of: Mapping[str, Split]) -> Split | None:
    """The split of a clip; None for an unlabelled clip of a speaker who is held out: nobody may see it."""
    split = split_of.get(clip.speaker_id, "unlabelled")
    if clip.labels and clip.split != "unlabelled":
        return split
    return None if split in _HELD_OUT else "unlabelled"


def main_label(clip: Clip) -> str:
    """The label with the largest share; of equal ones the first by name."""
    return min(clip.labels, key=lambda name: (-clip.labels[name], name))


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


def _draw(
    speakers: Sequence[str], num_test: int, num_validation: int, clips: Sequence[Clip], seed: int
) -> dict[str, Split]:
    """Draw several divisions and keep the one whose splits lack the fewest classes; of equal ones the first."""
    generator = np.random.default_rng([seed, len(speakers)])
    num_unlabelled = Counter(clip.speaker_id for clip in clips if not clip.labels or clip.split == "unlabelled")
    classes_of: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.labels:
            classes_of[clip.speaker_id].add(main_label(clip))
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
