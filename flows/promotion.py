"""From a built bundle to what callers get: the verdict of the gates, the swap of the endpoint, the release log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prefect import get_run_logger, task

from components import report as figures_report
from components.bundle_files import version_of
from components.gates import Verdict, read_verdict
from components.params import load_params
from components.registry import Release
from components.run_record import data_versions
from components.settings import Settings
from flows import approval, releasing, report, trials
from flows.approval import Approval
from flows.lineage import code_commit
from flows.records import Recorder
from flows.stages import run_module
from flows.workspace import Workspace

_PACKAGE = Path("build/package.json")
_VERDICT = Path("build/gates.json")


@dataclass(frozen=True)
class Champion:
    """The release that is live, and its bundle on this machine."""

    release: Release
    folder: Path


class GateFailed(RuntimeError):
    """The new model may not be served; the message says which gate, and by how much."""


def decide(workspace: Workspace, settings: Settings, *, record: Recorder) -> None:
    """Judge the bundle of a run, and release it when every gate passes and, where one is asked, a person agrees.

    Raises:
        GateFailed: a gate refused the model; the champion stays.
        NotApproved: a person did, or nobody answered.
        ReleaseConflict, ReleaseFailed: see `flows.releasing`.
        TrialRunning, DeployError: see `flows.trials`.
    """
    champion = find_champion(settings)
    record.update(champion=champion.release.number if champion else None)
    verdict = judge(workspace.folder, champion, settings, record=record)
    record.update(gates=verdict.gates)
    report.publish_gates(verdict.gates)
    _require_passed(verdict, champion)
    if champion and champion.release.version == verdict.candidate_version:
        get_run_logger().info("release %d is this very model: nothing to promote", champion.release.number)
        record.update(outcome="unchanged", release=champion.release.number)
        return
    gates = load_params(workspace.folder / "build/params.yaml").gates
    if champion and gates.trial != "none":
        tried = trials.hold(workspace, champion.release, gates, settings=settings, tell=get_run_logger().info)
        verdict = replace(verdict, gates=(*verdict.gates, *tried))
        record.update(gates=verdict.gates)
        report.publish_gates(verdict.gates)
        _require_passed(verdict, champion)
    approved = approval.ask(workspace.folder, verdict, gates) if gates.approval else None
    release = promote(workspace, champion, verdict, settings, approved=approved)
    record.update(outcome="promoted", release=release.number)
    report.publish_release(release)


def _require_passed(verdict: Verdict, champion: Champion | None) -> None:
    if not verdict.passed:
        reasons = "; ".join(f"gate {gate.name}: {gate.message}" for gate in verdict.failures)
        raise GateFailed(f"{reasons}; {'the champion stays' if champion else 'nothing is served'}")


def find_champion(settings: Settings) -> Champion | None:
    """The last release, or None before the first."""
    registry = releasing.registry_of(settings)
    release = registry.champion()
    if release is None:
        return None
    return Champion(release, registry.fetch_bundle(release.bundle, settings.home / "bundles"))


def judge(folder: Path, champion: Champion | None, settings: Settings, *, record: Recorder) -> Verdict:
    """Have all gates judge the bundle of a run's folder, as it is and as it is served."""
    record.add_check(run_module("serving.package_check", ["--output", str(_PACKAGE)], folder, settings))
    against = str(champion.folder) if champion else "none"
    arguments = ["--champion", against, "--package", str(_PACKAGE), "--output", str(_VERDICT)]
    record.add_check(run_module("components.gates", arguments, folder, settings))
    return read_verdict(folder / _VERDICT)


@task(task_run_name="promote", persist_result=False)
def promote(
    workspace: Workspace,
    champion: Champion | None,
    verdict: Verdict,
    settings: Settings,
    *,
    approved: Approval | None = None,
) -> Release:
    """Serve the run's bundle, check that it answers, and write the release record.

    On any failure the former champion is served again before the error goes on.

    Raises:
        ReleaseConflict: somebody else makes a release now, or made one in the meantime.
        ReleaseFailed: the endpoint did not come up with the new bundle, or answers its golden requests wrongly.
    """
    bundle = releasing.registry_of(settings).store_bundle(workspace.folder / "build/bundle")
    candidate = _describe(workspace, bundle, verdict, settings)
    if approved is not None:
        candidate = replace(candidate, approved_by=approved.decided_by, note=approved.reason)
    return releasing.make(
        candidate,
        after=champion.release.number if champion else 0,
        holder=f"run {workspace.digest}",
        settings=settings,
        tell=get_run_logger().error,
    )


def _describe(workspace: Workspace, bundle: str, verdict: Verdict, settings: Settings) -> Release:
    params = load_params(workspace.folder / "build/params.yaml")
    figures = figures_report.read(workspace.folder / "build/evaluation" / figures_report.FILE).figures
    return Release(
        kind="promotion",
        bundle=bundle,
        version=version_of(workspace.folder / "build/bundle"),
        run=workspace.digest,
        recipe=params.recipe,
        dataset=params.finetune_on.dataset,
        commit=code_commit(settings),
        data=data_versions(workspace.folder),
        params=params.model_dump(mode="json"),
        metrics=dict(figures),
        gates=verdict.gates,
    )
