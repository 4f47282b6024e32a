"""From the corpora that a run names to the clips that are to be inspected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from components import datasets, params
from components.clip import Clip
from components.inspection import Bounds
from components.survey import Candidate, Rejection


def gather(parameters: params.Params, media_folder: Path) -> tuple[list[Candidate], list[Rejection]]:
    """What is to be inspected, and what the corpora refuse themselves.

    Raises:
        ValueError: a corpus, its folder or its task is missing, or nothing in it can be used.
    """
    first, second = parameters.finetune_on, parameters.pretrain_on
    candidates, rejections = _candidates(first, parameters, media_folder, is_extra=False)
    if second is not None:
        if second.dataset == first.dataset and isinstance(datasets.load(second.dataset), datasets.GeneratedModule):
            raise ValueError(f"pretrain_on: {second.dataset} has an unlabelled part already: leave pretrain_on empty")
        more, refused = _candidates(second, parameters, media_folder, is_extra=True)
        candidates, rejections = candidates + more, rejections + refused
    return candidates, rejections


def _candidates(
    corpus: params.Corpus, parameters: params.Params, media_folder: Path, *, is_extra: bool
) -> tuple[list[Candidate], list[Rejection]]:
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
        return [replace(template, plan=plan) for plan in module.plan(parameters.synthetic)], []
    if corpus.root is None:
        raise ValueError(f"dataset {corpus.dataset} needs root: name the folder of the release, or the table's file")
    candidates, rejections = _sorted_out(module.read(Path(corpus.root).absolute(), asked), template)
    if not candidates:
        remedy = "check that it is the right place"
        if rejections:
            remedy = f"{len(rejections)} files refused, such as {rejections[0].uri}: {rejections[0].detail}"
        raise ValueError(f"dataset {corpus.dataset}: {corpus.root} holds no usable clips: {remedy}")
    return candidates, rejections


def _sorted_out(
    items: Iterable[Clip | datasets.Refusal], template: Candidate
) -> tuple[list[Candidate], list[Rejection]]:
    """What a reader found, with each clip_id once; clips for pre-training get names of their own."""
    candidates: list[Candidate] = []
    rejections: list[Rejection] = []
    seen: set[str] = set()
    for item in items:
        if isinstance(item, datasets.Refusal):
            rejections.append(Rejection("", item.uri, item.reason, item.detail))
            continue
        clip = replace(item, clip_id=f"pretrain-{item.clip_id}") if template.is_extra else item
        candidate = replace(template, clip=clip)
        if clip.clip_id in seen:
            detail = "another clip has the same clip_id"
            rejections.append(Rejection(clip.clip_id, candidate.uri, "duplicate-id", detail))
        else:
            seen.add(clip.clip_id)
            candidates.append(candidate)
    return candidates, rejections
