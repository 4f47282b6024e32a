"""The flow that looks at the requests of the live release: is it still the world that the model was trained for?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.events import DeploymentEventTrigger, emit_event
from prefect.runtime import flow_run

from components import drift, drift_samples
from components.bundle_files import DRIFT_REFERENCE, THRESHOLDS
from components.drift_comparison import compare
from components.monitoring import Monitor
from components.params import CHOICES_FILE, load_choices
from components.registry import Release
from components.settings import PROJECT_ROOT, Settings
from components.settings import load as load_settings
from components.storage import Storage
from flows import releasing, watching
from flows.stages import RETRYING
from flows.watching import Watch
from flows.workspace import find

DRIFT: Final = "model.drift"
DEAD_INPUT: Final = "model.dead-input"
_RESOURCE: Final = "affect.release."
_RETRAIN: Final = "affect.retrain"

# A template of an automation is text; this makes values of it again, here the choices that the event carries.
_CHOICES: Final = {
    "__prefect_kind": "json",
    "value": {"__prefect_kind": "jinja", "template": "{{ event.payload.choices | tojson }}"},
}


def on_drift() -> DeploymentEventTrigger:
    """What makes the `retrain` deployment start by itself: drift for which a training is due."""
    return DeploymentEventTrigger(
        name="retrain on drift",
        description="The monitor found drift, and neither its cooldown nor its budget speaks against a training.",
        expect={DRIFT},
        match={"prefect.resource.id": f"{_RESOURCE}*", _RETRAIN: "due"},
        parameters={"choices": _CHOICES},
    )


@flow(name="monitor", persist_result=False)
def monitor(settings: Monitor = Monitor()) -> None:  # noqa: B008  # Prefect makes the form from this default
    """Compare the last requests with the training part of the live model, and tell what is no longer the same.

    Drift emits `model.drift`, which starts `retrain` unless it started one lately; a dead input emits
    `model.dead-input`, which starts nothing.

    Raises:
        ValueError: the release, its bundle or a part of the samples is damaged.
    """
    here, log = load_settings(), get_run_logger()
    storage = Storage(here.storage_url)
    champion = releasing.registry_of(here).champion()
    if champion is None:
        log.info("nothing is live: there is nothing to watch")
        return
    watch = look(champion, settings, here)
    log.info("release %d, %d clips: %s", watch.release, watch.comparison.num_clips, watch.told)
    announce(watch, champion, here)
    oldest = datetime.now(UTC) - timedelta(days=settings.keep_days)
    drift_samples.forget(storage, before=oldest.date())
    watching.forget(storage, before=oldest)


@task(task_run_name="look", persist_result=False, **RETRYING)
def look(champion: Release, settings: Monitor, here: Settings) -> Watch:
    """Compare the window with the bundle's reference, decide, and keep both with a page."""
    # Matplotlib and torch come with these: whoever registers the deployments need not wait for them.
    from components import drift_report, predictor

    now, storage = datetime.now(UTC), Storage(here.storage_url)
    samples = drift_samples.read(
        storage,
        champion.number,
        since=now - timedelta(hours=settings.window_h),
        until=now,
        max_clips=settings.max_clips,
    )
    folder = releasing.registry_of(here).fetch_bundle(champion.bundle, here.home / "bundles")
    reference, asked = drift.load(folder / DRIFT_REFERENCE), predictor.read_task(folder)
    thresholds = predictor.read_thresholds(folder / THRESHOLDS, asked)
    comparison = compare(reference, samples, settings, task=asked, thresholds=thresholds)
    watch = Watch(
        at=now.isoformat(),
        run_id=str(flow_run.id),
        release=champion.number,
        version=champion.version,
        verdict=watching.verdict_of(comparison),
        retrain=watching.retrain_now(comparison, settings, storage, now),
        comparison=comparison,
    )
    page = drift_report.build(comparison, reference, samples, title=_title(watch), facts=_facts(watch, settings))
    return watching.keep(storage, watch, page)


@task(task_run_name="announce", persist_result=False)
def announce(watch: Watch, champion: Release, here: Settings) -> None:
    """Say in the Prefect UI what was found, and emit what others act on."""
    create_markdown_artifact(_markdown(watch), key="monitor", description="The last requests beside the training part")
    resource = {"prefect.resource.id": f"{_RESOURCE}{watch.release}", "prefect.resource.name": _title(watch)}
    payload: dict[str, Any] = {"report": watch.report, "retrain": watch.retrain, "version": watch.version}
    if watch.comparison.dead:
        emit_event(DEAD_INPUT, resource, payload={**payload, "modalities": list(watch.comparison.dead)})
    if watch.comparison.drifted:
        if watch.retrain == "due":
            # Counted first: a training too few is better than one an hour.
            watching.note_retrain(Storage(here.storage_url), datetime.now(UTC), watch.run_id)
        payload |= {"modalities": list(watch.comparison.drifted), "choices": _choices_of(champion, here)}
        emit_event(DRIFT, {**resource, _RETRAIN: watch.retrain}, payload=payload)


def _choices_of(champion: Release, here: Settings) -> dict[str, Any]:
    """The choices that the live model was made with, so that it is trained again and no other one."""
    own = (find(champion.run, here) or PROJECT_ROOT) / CHOICES_FILE
    choices = load_choices(own if own.exists() else PROJECT_ROOT / CHOICES_FILE)
    # What lay there then; the form has no such field.
    corpora = {name: getattr(choices, name) for name in ("finetune_on", "pretrain_on")}
    bare = {name: corpus and corpus.model_copy(update={"fingerprint": None}) for name, corpus in corpora.items()}
    values: dict[str, Any] = choices.model_copy(update=bare).model_dump(mode="json")
    return values


def _title(watch: Watch) -> str:
    return f"Requests of release {watch.release}"


def _facts(watch: Watch, settings: Monitor) -> dict[str, str]:
    return {
        "Model": f"release {watch.release}, version {watch.version}",
        "Window": f"{settings.window_h:g} hours up to {watch.at[:16]} UTC, {watch.comparison.num_clips} sampled clips",
        "Found": watch.told,
    }


def _markdown(watch: Watch) -> str:
    lines = [f"**{watch.told}**", "", f"Release {watch.release}, {watch.comparison.num_clips} clips. The whole page: "]
    lines[-1] += f"`{watch.report}`"
    lines += ["", "| | clips | PSI | drift | dead | in training |", "|---|---|---|---|---|---|"]
    for part in watch.comparison.parts:
        cells = [part.name, str(part.num_clips), f"{part.psi:.2f}"]
        cells += [
            "**yes**" if part.drifted else part.note or "no",
            f"{part.dead_share:.0%}",
            f"{part.usual_dead_share:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
