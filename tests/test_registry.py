"""The release log: append-only, whole or absent, one winner a number."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from components.bundle_files import FILES, version_of
from components.gates import GateResult
from components.metrics import Interval
from components.registry import Registry, Release, ReleaseConflict
from components.storage import Storage


def folder_with(path: Path, content: str) -> Path:
    """A folder that has a bundle's files; the registry does not look into them."""
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).write_text(f"{name} {content}")
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Storage(str(tmp_path / "store")))


@pytest.fixture
def promotion(registry: Registry, tmp_path: Path) -> Release:
    name = registry.store_bundle(folder_with(tmp_path / "first", "one"))
    gate = GateResult("macro_f1_floor", True, 0.7, 0.5, 0.6, 0.8, "macro-F1 0.700")
    return Release(
        kind="promotion",
        bundle=name,
        version=name.rsplit("/", 1)[-1],
        run="abc",
        recipe="quick",
        dataset="synthetic",
        data={"clips": "d41d8cd9"},
        metrics={"macro_f1": Interval(0.7, 0.6, 0.8)},
        gates=(gate,),
        note="the first, näher betrachtet",
    )


def test_an_empty_log_has_no_champion(registry: Registry) -> None:
    assert registry.releases() == ()
    assert registry.champion() is None


def test_records_come_back_as_they_were_in_order(registry: Registry, promotion: Release) -> None:
    made = [registry.append(promotion) for _ in range(12)]
    assert [release.number for release in made] == list(range(1, 13))
    assert registry.releases() == tuple(made)
    assert registry.champion() == made[-1]
    assert made[0].created_at.endswith("+00:00")
    assert made[0].metrics["macro_f1"] == Interval(0.7, 0.6, 0.8)
    assert made[0].gates == promotion.gates


def test_a_bundle_is_stored_once_under_its_version(registry: Registry, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "one", "a")
    name = registry.store_bundle(folder)
    assert name == f"bundles/{version_of(folder)}"
    assert registry.store_bundle(folder) == name
    assert registry.store_bundle(folder_with(tmp_path / "same", "a")) == name
    assert registry.store_bundle(folder_with(tmp_path / "other", "b")) != name
    assert version_of(registry.fetch_bundle(name, tmp_path / "cache")) == version_of(folder)
    assert len(registry.storage.names("bundles")) == 2


def test_an_incomplete_bundle_is_not_stored(registry: Registry, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "one", "a")
    (folder / "golden.json").unlink()
    with pytest.raises(ValueError, match=r"golden\.json is missing"):
        registry.store_bundle(folder)
    assert registry.storage.names("bundles") == []


def test_a_damaged_bundle_is_not_handed_out(registry: Registry, tmp_path: Path) -> None:
    name = registry.store_bundle(folder_with(tmp_path / "one", "a"))
    (Path(registry.storage.url) / name / "model.safetensors").write_text("other weights")
    with pytest.raises(ValueError, match="is damaged"):
        registry.fetch_bundle(name, tmp_path / "cache")


def test_an_unknown_bundle_is_neither_fetched_nor_released(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no bundle"):
        registry.fetch_bundle("bundles/000000000000", tmp_path)
    with pytest.raises(ValueError, match="store it first"):
        registry.append(Release(kind="promotion", bundle="bundles/000000000000", version="000000000000"))
    assert registry.releases() == ()


def test_a_bundle_that_is_half_uploaded_to_an_object_store_is_completed(tmp_path: Path) -> None:
    registry = Registry(Storage("memory://half-uploaded"))
    folder = folder_with(tmp_path / "one", "a")
    name = f"bundles/{version_of(folder)}"
    registry.storage.write(f"{name}/model.safetensors", b"half")
    assert not registry.has_bundle(name)
    assert registry.store_bundle(folder) == name
    assert version_of(registry.fetch_bundle(name, tmp_path / "cache")) == version_of(folder)


def test_a_decision_against_an_older_champion_is_a_conflict(registry: Registry, promotion: Release) -> None:
    seen = registry.append(promotion).number
    registry.append(promotion)
    with pytest.raises(ReleaseConflict, match="release 2 was made by somebody else"):
        registry.append(promotion, after=seen)
    assert len(registry.releases()) == 2
    with pytest.raises(ValueError, match="the last release is 2"):
        registry.append(promotion, after=5)


def test_a_rollback_is_a_record_that_names_the_older_bundle(
    registry: Registry, promotion: Release, tmp_path: Path
) -> None:
    first = registry.append(promotion)
    newer = registry.store_bundle(folder_with(tmp_path / "second", "two"))
    registry.append(Release(kind="promotion", bundle=newer, version=newer.rsplit("/", 1)[-1]))
    rollback = registry.roll_back(1, note="the second is deaf")
    assert (rollback.number, rollback.kind, rollback.note) == (3, "rollback", "the second is deaf")
    assert (rollback.bundle, rollback.metrics) == (first.bundle, first.metrics)
    assert registry.champion() == rollback
    assert [release.kind for release in registry.releases()] == ["promotion", "promotion", "rollback"]
    with pytest.raises(ValueError, match="no such release"):
        registry.roll_back(4)


@pytest.mark.parametrize("content", ["", '{"number": 1, "ki', "[]", '{"number": 1}'])
def test_a_damaged_record_is_named(registry: Registry, promotion: Release, content: str) -> None:
    registry.append(promotion)
    registry.storage.write("releases/000001.json", content.encode())
    with pytest.raises(ValueError, match=r"releases/000001\.json is damaged"):
        registry.champion()


def test_a_removed_record_is_named(registry: Registry, promotion: Release) -> None:
    for _ in range(3):
        registry.append(promotion)
    (Path(registry.storage.url) / "releases/000002.json").unlink()
    with pytest.raises(ValueError, match=r"releases/000002\.json is missing"):
        registry.releases()
    assert registry.append(promotion).number == 4


def test_a_copied_record_is_not_believed(registry: Registry, promotion: Release) -> None:
    registry.append(promotion)
    registry.storage.write("releases/000002.json", registry.storage.read("releases/000001.json"))
    with pytest.raises(ValueError, match="says that it is release 1"):
        registry.champion()


def test_other_files_beside_the_log_are_left_alone(registry: Registry, promotion: Release) -> None:
    registry.append(promotion)
    registry.storage.write("releases/notes.txt", b"mine")
    registry.storage.write("releases/.partial-1", b"of somebody who was killed")
    assert len(registry.releases()) == 1


def race(url: str, release: Release, writer: int, num_records: int) -> int:
    """Append `num_records` records against others, trying again on each conflict; returns the conflicts."""
    registry = Registry(Storage(url))
    num_conflicts = 0
    for record in range(num_records):
        while True:
            champion = registry.champion()
            try:
                registry.append(
                    Release(release.kind, release.bundle, release.version, note=f"{writer}-{record}"),
                    after=champion.number if champion else 0,
                )
                break
            except ReleaseConflict:
                num_conflicts += 1
    return num_conflicts


def test_racing_processes_lose_nothing_and_each_number_has_one_winner(registry: Registry, promotion: Release) -> None:
    num_writers, num_records = 4, 12
    with multiprocessing.get_context("spawn").Pool(num_writers) as pool:
        pool.starmap(race, [(registry.storage.url, promotion, w, num_records) for w in range(num_writers)])
    records = registry.releases()
    assert [record.number for record in records] == list(range(1, num_writers * num_records + 1))
    expected = {f"{writer}-{record}" for writer in range(num_writers) for record in range(num_records)}
    assert {record.note for record in records} == expected
    for writer in range(num_writers):
        own = [record.note for record in records if record.note.startswith(f"{writer}-")]
        assert own == [f"{writer}-{record}" for record in range(num_records)]
