"""From what a runtime says to what the endpoint answers, by the kind of the model's task."""

from __future__ import annotations

from dataclasses import asdict

from serving import schema
from serving.live import Live
from serving.prediction import ClassPrediction, Info, LabelPrediction, Limits, Prediction
from serving.schema import (
    AskedTask,
    ClassAnswer,
    LabelAnswer,
    ModelCard,
    ModelName,
    Moment,
    MultilabelAnswer,
    MultilabelMoment,
    TrialShown,
    ValueMoment,
    ValuesAnswer,
)


def name_of(info: Info, release: int) -> ModelName:
    """Which model it is."""
    return ModelName(system=info.system, version=info.version, release=release)


def answer_of(judged: Prediction, model: ModelName, request_id: str) -> ClassAnswer | MultilabelAnswer | ValuesAnswer:
    """The answer that a prediction is, by its kind."""
    warnings = list(judged.warnings)
    if isinstance(judged, ClassPrediction):
        return ClassAnswer(
            request_id=request_id,
            model=model,
            label=judged.label,
            probabilities=judged.probabilities,
            timeline=[Moment(start_s=at.start_s, end_s=at.end_s, probabilities=at.answers) for at in judged.timeline],
            contributions=judged.contributions,
            warnings=warnings,
        )
    if isinstance(judged, LabelPrediction):
        labels = {
            label: LabelAnswer(probability=value, threshold=threshold, present=value >= threshold)
            for label, value in judged.probabilities.items()
            for threshold in [judged.thresholds[label]]
        }
        return MultilabelAnswer(
            request_id=request_id,
            model=model,
            labels=labels,
            timeline=[
                MultilabelMoment(start_s=at.start_s, end_s=at.end_s, probabilities=at.answers) for at in judged.timeline
            ],
            contributions=judged.contributions,
            warnings=warnings,
        )
    return ValuesAnswer(
        request_id=request_id,
        model=model,
        values=judged.values,
        scale=judged.scale,
        timeline=[ValueMoment(start_s=at.start_s, end_s=at.end_s, values=at.answers) for at in judged.timeline],
        contributions=judged.contributions,
        warnings=warnings,
    )


def trial_of(live: Live) -> TrialShown | None:
    """What a caller may know of the trial that goes on, if one does."""
    found = live.challenger
    if found is None:
        return None
    return TrialShown(number=found.number, version=found.runtime.version, mode=found.mode, share=found.share)


def card_of(info: Info, release: int, refused: str, *, limits: Limits) -> ModelCard:
    """What a caller may know of the served model."""
    task = info.task
    asked = None
    if task.kind != "classes":
        asked = AskedTask(kind=task.kind, name=task.name, source=task.source, scale=task.scale)
    return ModelCard(
        system=info.system,
        version=info.version,
        release=release,
        labels=list(task.labels),
        task=asked,
        modalities=list(info.modalities),
        limits=schema.Limits(**asdict(limits), max_analysed_s=info.max_analysed_s),
        features=info.features,
        provenance=info.provenance,
        refused=refused or None,
    )
