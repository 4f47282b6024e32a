"""The tree's own rules: who may import whom, where the environment is read, and where Ray and Prefect may appear."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Each module of components imports only modules that stand before it.
ORDER = (
    "settings",
    "stage",
    "store_errors",
    "storage",
    "run_archive",
    "stored_stage",
    "bucket",
    "sections",
    "sources",
    "systems",
    "params",
    "schedules",
    "monitoring",
    "compute",
    "clip",
    "clip_table",
    "task",
    "protocols",
    "media_limits",
    "media_streams",
    "media_writing",
    "media",
    "media_live",
    "datasets",
    "inspection",
    "inspections",
    "survey",
    "ledger",
    "candidates",
    "splits",
    "ingest",
    "catalogue",
    "fetch",
    "features",
    "drift",
    "drift_samples",
    "drift_windows",
    "drift_answers",
    "drift_comparison",
    "shards",
    "shard_parcels",
    "shared_frames",
    "shard_plans",
    "transcripts",
    "extract",
    "batches",
    "masking",
    "masking_joint",
    "models",
    "model_sizes",
    "objectives",
    "objectives_audiovisual",
    "objectives_labels",
    "optimizers",
    "metrics",
    "metrics_by_label",
    "metrics_multilabel",
    "metrics_regression",
    "metrics_calibration",
    "answers",
    "banded_ridge",
    "linear_part",
    "report",
    "compilation",
    "sharding",
    "training",
    "scoring",
    "measuring",
    "machine",
    "checkpoints",
    "cluster_entry",
    "cluster",
    "runs",
    "pretrain",
    "finetune",
    "recipe_models",
    "bundle_files",
    "recorded",
    "predictor",
    "golden",
    "provenance",
    "card",
    "pictures",
    "markup",
    "drawing",
    "bundle",
    "evaluate",
    "ridge",
    "study",
    "study_jobs",
    "study_records",
    "study_report",
    "trials",
    "drift_report",
    "gates",
    "registry",
    "claims",
    "run_record",
    "run_report",
)
TRAINING_CORE = (
    *("task", "batches", "masking", "masking_joint", "models", "optimizers", "answers"),
    *("compilation", "sharding", "training"),
    *("banded_ridge", "linear_part"),
    *("objectives", "objectives_audiovisual", "objectives_labels"),
    *("metrics", "metrics_by_label", "metrics_multilabel", "metrics_regression", "metrics_calibration"),
)
CORE_PACKAGES = {"torch", "transformers", "numpy", "scipy", "sklearn", "safetensors"}


def _modules(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports out, from the top"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _top_level_imports(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _component(path: Path) -> str:
    return path.relative_to(REPOSITORY / "components").parts[0].removesuffix(".py")


def _names(path: Path) -> set[str]:
    """Which modules of components a module imports."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "components" and len(parts) > 1:
            found.add(parts[1])
    return found


@pytest.mark.parametrize("path", _modules("components"), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_components_import_upwards_only(path: Path) -> None:
    this = _component(path)
    if this == "__init__":
        return
    assert this in ORDER, f"give components/{this} its place in the import order"
    later = {name for name in _names(path) if name in ORDER and ORDER.index(name) > ORDER.index(this)}
    assert not later, f"{path.name} imports {later}, which stand below it"


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("components", {"flows", "serving", "prefect", "fastapi", "bentoml", "tests"}),
        ("serving", {"flows", "prefect", "tests"}),
        ("flows", {"torch", "transformers", "tests"}),
    ],
)
def test_folders_keep_to_their_job(folder: str, forbidden: set[str]) -> None:
    for path in _modules(folder):
        if path.name == "cli.py":
            continue  # `affect bench` runs the benchmarks, which stand under tests.
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & forbidden, f"{path} imports {used & forbidden}"


def test_only_cluster_imports_ray_train_and_only_compute_starts_ray() -> None:
    for path in _modules("components") + _modules("flows") + _modules("serving"):
        if path.name not in ("cluster.py", "cluster_entry.py"):
            assert not {name for name in imports(path) if name.startswith("ray.train")}, path
        if path.name != "compute.py":
            assert "ray.init(" not in path.read_text(encoding="utf-8"), path


def test_training_core_needs_no_platform_package() -> None:
    for path in _modules("components"):
        if _component(path) not in TRAINING_CORE:
            continue
        for name in imports(path):
            root = name.split(".")[0]
            if root == "components":
                continue
            standard = root in _standard_library()
            assert standard or root in CORE_PACKAGES, f"{path} imports {root}: a bare GPU machine has it not"


def test_environment_is_read_in_settings_alone() -> None:
    for path in _modules("components") + _modules("flows") + _modules("serving"):
        if path.name == "settings.py":
            continue
        text = path.read_text(encoding="utf-8")
        for reading in ("os.getenv", "os.environ.get", "os.environ["):
            assert reading not in text, f"{path} reads the environment; let settings.py do it"


def _opens_the_test_split(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "open_split":
            splits = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
            if "test" in splits:
                return True
    return False


def test_only_evaluate_opens_the_test_split() -> None:
    """But for the one setting that chooses the epoch on it, and tells so in every report."""
    for path in _modules("components"):
        if path.name == "evaluate.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "finetune.py":
            asked = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.If) and ast.unparse(node.test) == "settings.select_on_test"
            ]
            assert len(asked) == 1
            asked[0].body = [ast.Pass()]
        assert not _opens_the_test_split(tree), f"{path} opens the test split"


def test_no_module_catches_everything() -> None:
    for path in _modules("components") + _modules("flows") + _modules("serving"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in {"Exception", "everything"}, f"{path}:{node.lineno} catches {caught}"


def _standard_library() -> frozenset[str]:
    import sys

    return frozenset(sys.stdlib_module_names)
