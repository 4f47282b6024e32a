"""From a built bundle to what callers get: the verdict of the gates, the swap of the endpoint, the release log."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from prefect import get_run_logger, task

from components import report
from components.bundle_files import version_of
from components.gates import Verdict, read_verdict
from components.params import load_params
from components.registry import Registry, Release
from components.settings import PROJECT_ROOT, Settings
from components.storage import Storage
from flows.approval import Approval
from flows.stages import run_module
from flows.workspace import Workspace
from serving.deploy import deploy

_PACKAGE = Path("build/package.json")
_VERDICT = Path("build/gates.json")


@dataclass(frozen=True)
class Champion:
    """The release that is live, and its bundle on this machine."""

    release: Release
    folder: Path


def find_champion(settings: Settings) -> Champion | None:
    """The last release, or None before the first."""
    registry = _registry(settings)
    release = registry.champion()
    if release is None:
        return None
    return Champion(release, registry.fetch_bundle(release.bundle, settings.home / "bundles"))


def judge(folder: Path, champion: Champion | None, settings: Settings) -> Verdict:
    """Have all gates judge the bundle of a run's folder, as it is and as it is served."""
    run_module("serving.package_check", ["--output", str(_PACKAGE)], folder, settings)
    against = str(champion.folder) if champion else "none"
    arguments = ["--champion", against, "--package", str(_PACKAGE), "--output", str(_VERDICT)]
    run_module("components.gates", arguments, folder, settings)
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

    On any failure the former champion is put back before the error goes on.

    Raises:
        ReleaseConflict: another run released in the meantime.
        DeployError: the endpoint did not come up with the new bundle.
    """
    registry = _registry(settings)
    bundle = registry.store_bundle(workspace.folder / "build/bundle")
    candidate = _describe(workspace, bundle, verdict, settings)
    if approved is not None:
        candidate = replace(candidate, approved_by=approved.decided_by, note=approved.reason)
    before = champion.release.number if champion else 0
    try:
        _serve(registry.bundle_uri(bundle), before + 1, settings)
        return registry.append(candidate, after=before)
    except BaseException:
        get_run_logger().error("the promotion failed: putting back what the release log names")
        restore(settings)
        raise


def restore(settings: Settings) -> None:
    """Make the endpoint serve what the release log says: its last release, or nothing before the first."""
    _serve(*last_release(settings), settings)


def last_release(settings: Settings) -> tuple[str, int]:
    """Address and number of what the release log says is live; an empty address and 0 before the first release."""
    registry = _registry(settings)
    live = registry.champion()
    return (registry.bundle_uri(live.bundle), live.number) if live else ("", 0)


def _serve(bundle: str, release: int, settings: Settings) -> None:
    """Have the endpoint serve a bundle, wherever it runs."""
    if settings.rayservice:
        # The client of Kubernetes takes a second to import.
        from flows import rayservice

        rayservice.deploy(bundle, release, here=settings)
    else:
        deploy(bundle, release, here=settings)


def code_commit(settings: Settings) -> str:
    """Commit of the project's code, with `+` behind it when files differ; from the settings where there is no git."""
    if settings.commit:
        return settings.commit
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def data_versions(folder: Path) -> dict[str, str]:
    """md5 of the data that a run's folder was built from, as DVC's lock file has it."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {
        out["path"]: out["md5"] for stage in ("ingest", "features") for out in stages.get(stage, {}).get("outs", [])
    }


def _describe(workspace: Workspace, bundle: str, verdict: Verdict, settings: Settings) -> Release:
    params = load_params(workspace.folder / "build/params.yaml")
    figures = report.read(workspace.folder / "build/evaluation" / report.FILE).figures
    return Release(
        kind="promotion",
        bundle=bundle,
        version=version_of(workspace.folder / "build/bundle"),
        run=workspace.digest,
        recipe=params.recipe,
        dataset=params.finetune_on.dataset,
        commit=code_commit(settings),
        data=data_versions(workspace.folder),
        metrics=dict(figures),
        gates=verdict.gates,
    )


def _registry(settings: Settings) -> Registry:
    return Registry(Storage(settings.storage_url))
