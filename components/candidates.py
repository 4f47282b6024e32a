"""From the corpora that a run names to the clips that are to be inspected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components import datasets, params
from components.inspection import Bounds
from components.survey import Candidate, Rejection


def gather(parameters: params.Params, media_folder: Path) -> Iterator[Candidate | Rejection]:
    """What is to be inspected, and what the corpora refuse themselves, while they are read.

    Clips for pre-training get names of their own. Two clips of a corpus may still have the same clip_id.

    Raises:
        ValueError: a corpus, its folder or its task is missing, or nothing in it can be used.
    """
    first, second = parameters.finetune_on, parameters.pretrain_on
    yield from _candidates(first, parameters, media_folder, is_extra=False)
    if second is not None:
        if second.dataset == first.dataset and isinstance(datasets.load(second.dataset), datasets.GeneratedModule):
            raise ValueError(f"pretrain_on: {second.dataset} has an unlabelled part already: leave pretrain_on empty")
        yield from _candidates(second, parameters, media_folder, is_extra=True)


def _candidates(
    corpus: params.Corpus, parameters: params.Params, media_folder: Path, *, is_extra: bool
) -> Iterator[Candidate | Rejection]:
    module = datasets.load(corpus.dataset)
    if is_extra and corpus.task is not None:
        raise ValueError(f"pretrain_on.task = {corpus.task}: pre-training uses no labels, leave it empty")
    # The labels of a corpus for pre-training are not used, so they need not be known.
    asked = None if is_extra else datasets.task_of(corpus)
    bounds = Bounds(
        min_duration_s=parameters.ingest.min_duration_s,
        max_duration_s=parameters.ingest.max_duration_s,
        labels=None if asked is None else asked.labels,
    )
    template = Candidate(corpus.dataset, is_extra, bounds, str(media_folder.absolute()))
    if isinstance(module, datasets.GeneratedModule):
        if corpus.root is not None:
            raise ValueError(f"dataset {corpus.dataset} is generated: leave root empty instead of {corpus.root}")
        yield from (replace(template, plan=plan) for plan in module.plan(parameters.synthetic))
        return
    if corpus.root is None:
        raise ValueError(f"dataset {corpus.dataset} needs root: name the folder of the release, or the table's file")
    num_clips = num_refused = 0
    refused: datasets.Refusal | None = None
    for item in module.read(Path(corpus.root).absolute(), asked):
        if isinstance(item, datasets.Refusal):
            num_refused, refused = num_refused + 1, refused or item
            yield Rejection("", item.uri, item.reason, item.detail)
        else:
            num_clips += 1
            yield replace(template, clip=replace(item, clip_id=f"pretrain-{item.clip_id}") if is_extra else item)
    if not num_clips:
        remedy = "check that it is the right place"
        if refused:
            remedy = f"{num_refused} files refused, such as {refused.uri}: {refused.detail}"
        raise ValueError(f"dataset {corpus.dataset}: {corpus.root} holds no usable clips: {remedy}")
