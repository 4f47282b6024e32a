"""The image's Containerfile as far as it can be told without building: its user, what it is made of, what is locked."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.conftest import REPOSITORY
from tests.containerfile import instructions, locked
from tests.infra import INFRA

FOUND = instructions()
IMAGE = "image"
OF_COMPUTE = ("infra/image/cpu.lock", "infra/image/cuda.lock")


def _values(name: str, stage: str | None = None) -> list[str]:
    return [each.value for each in FOUND if each.name == name and stage in (None, each.stage)]


def _users() -> set[int]:
    """As whom the containers of the project's image run in infra/base."""
    found: set[int] = set()
    for file in (INFRA / "base").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        if "image: crossmodal-affect:" in text:
            found |= {int(each) for each in re.findall(r"runAs(?:User|Group): (\d+)", text)}
    return found


def test_it_runs_as_the_user_of_the_manifests_and_not_as_root() -> None:
    [user] = _users()
    assert _values("USER", IMAGE) == [f"{user}:{user}"]
    assert f"useradd --uid {user} " in " ".join(_values("RUN", IMAGE))


def test_the_last_stage_is_the_image_and_every_stage_is_named() -> None:
    stages = list(dict.fromkeys(each.stage for each in FOUND if each.stage))
    assert stages[-1] == IMAGE
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"--target (\w+)", makefile)) <= set(stages)


def test_nothing_but_the_given_base_is_pulled_and_it_is_pinned() -> None:
    stages = {each.stage for each in FOUND}
    for value in _values("FROM"):
        assert value.split()[0] in {"${BASE}", "scratch", *stages}
    [base] = [value for value in _values("ARG", "") if value.startswith("BASE=")]
    # To the patch of Python and the release of Debian.
    assert re.fullmatch(r"BASE=[a-z.]+/[a-z/]+:3\.11\.\d+-slim-bookworm", base)
    assert not [value for value in _values("ADD") if "://" in value]


def test_processors_or_gpus_the_version_and_the_commit_are_arguments() -> None:
    assert "COMPUTE=cpu" in _values("ARG", "")
    assert {"VERSION=unknown", "REVISION=unknown"} <= set(_values("ARG", IMAGE))
    [labels] = _values("LABEL", IMAGE)
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    # The code asks there where there is no git.
    assert "AFFECT_COMMIT=${REVISION}" in _values("ENV", IMAGE)


def test_a_pod_of_a_flow_run_gives_arguments_alone_so_there_is_no_entrypoint() -> None:
    assert _values("ENTRYPOINT") == []


def test_every_installation_goes_by_a_lock_file() -> None:
    [environment] = [value for value in _values("ENV", "torch") if "PIP_CONSTRAINT" in value]
    assert 'PIP_CONSTRAINT="/build/requirements.lock /build/${COMPUTE}.lock"' in environment
    installations = [run for run in _values("RUN") if " install " in run]
    assert len(installations) == 4
    for run in installations:
        if "PIP_CONSTRAINT= " in run:
            assert "--no-deps --requirement sbom.lock" in run
        assert "apt-get" not in run
    # In the end nothing is installed: what was is copied.
    assert not [run for run in _values("RUN", IMAGE) if " install " in run]


def test_what_changes_most_is_copied_last() -> None:
    sources = [re.findall(r"--from=(\w+)", value) for value in _values("COPY", IMAGE)]
    assert sources == [["torch"], ["packages"], ["code"], ["code"]]
    names = [each.name for each in FOUND if each.stage == IMAGE]
    # The commit is another one each time.
    assert [names.index("LABEL") > place for place, name in enumerate(names) if name in ("COPY", "RUN")] == [True] * 5


@pytest.mark.parametrize("file", OF_COMPUTE)
def test_the_locks_of_pytorchs_builds_name_the_locked_version(file: str) -> None:
    found, everywhere = locked(file), locked("requirements.lock")
    torch = canonicalize_name("torch")
    assert found.pop(torch).split("+")[0] == everywhere[torch]
    # Each package is locked in one place.
    assert not found.keys() & everywhere.keys()


def test_the_lock_has_what_the_project_asks_for_and_what_that_asks_for() -> None:
    """Otherwise pip would take the newest of a package that is not in it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions, waiting = locked("requirements.lock"), [Requirement(each) for each in project["dependencies"]]
    seen: set[tuple[NormalizedName, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert name in versions, f"requirements.lock lacks {name}: make it again"
        assert wanted.specifier.contains(versions[name], prereleases=True), wanted
        for extra in wanted.extras or {""}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [each for each in _needed(name) if _applies(each, extra)]
    assert len(seen) > 200


def _needed(name: NormalizedName) -> list[Requirement]:
    try:
        return [Requirement(each) for each in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        # Only what an earlier patch of Python needs may be missing here.
        assert name in {"async-timeout"}
        return []


def _applies(wanted: Requirement, extra: str) -> bool:
    """With this Python or the first that the project runs on."""
    environments: list[dict[str, str]] = [{"extra": extra}, {"extra": extra, "python_full_version": "3.11.0"}]
    return wanted.marker is None or any(wanted.marker.evaluate(each) for each in environments)


def test_the_tool_that_writes_the_bill_is_locked_and_not_in_the_image() -> None:
    tool = locked("infra/image/sbom.lock")
    assert "cyclonedx-bom" in tool
    assert "cyclonedx-bom" not in locked("requirements.lock")


def _is_ignored(path: str) -> bool:
    """By the rules of .dockerignore: the last one that matches a path or a folder of it counts."""
    ignored = False
    parts = Path(path).parts
    prefixes = ["/".join(parts[: number + 1]) for number in range(len(parts))]
    for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and any(_matches(prefix, pattern) for prefix in prefixes):
            ignored = not line.startswith("!")
    return ignored


def _matches(path: str, pattern: str) -> bool:
    name = pattern.removeprefix("**/")
    return fnmatch.fnmatchcase(path.split("/")[-1] if name != pattern else path, name)


def test_what_is_copied_is_sent_to_the_build_and_nothing_else_is() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    sent = {each for each in listed.splitlines() if not _is_ignored(each)}
    copied = [each for each in FOUND if each.name == "COPY" and "--from=" not in each.value]
    sources = [
        source.replace("${COMPUTE}", compute)
        for each in copied
        for source in each.value.split()[:-1]
        for compute in ("cpu", "cuda")
    ]
    assert sent == {each for each in sent if any(each == source or each.startswith(f"{source}/") for source in sources)}
    for source in sources:
        assert any(each == source or each.startswith(f"{source}/") for each in sent), source
    for unwanted in (".venv/bin/python", ".affect/store/x", "build/bundle/x", ".git/HEAD", "flows/__pycache__/cli.pyc"):
        assert _is_ignored(unwanted), unwanted


def test_what_the_manifests_start_is_in_the_image() -> None:
    """Modules of the project by their files; tests/test_platform_image.py starts them."""
    copied = " ".join(_values("COPY", "code")).split()
    modules = set()
    for file in (INFRA / "base").glob("*.yaml"):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            modules |= set(re.findall(r"'-m', '([a-z_.]+)'", str(document)))
    assert modules == {"flows.deployments", "flows.rayservice", "flows.prefect_server"}
    for module in modules:
        assert module.split(".")[0] in copied
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").exists()


def test_pip_asks_a_mirror_by_secrets_that_no_layer_keeps() -> None:
    for run in _values("RUN"):
        if " install " in run:
            secrets = re.findall(r"--mount=type=secret,id=([\w.]+)", run)
            assert secrets == ["pip.conf", "ca.crt"]
            # Nor what pip downloads.
            assert "--mount=type=cache,target=/root/.cache/pip" in run
