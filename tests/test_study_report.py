"""The report of a study, read back from its HTML: figures, what failed, what was published, all in one file."""

from __future__ import annotations

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components import evaluate, ridge, study_report
from components.metrics import macro_f1_of, paired_bootstrap
from components.shards import open_split
from components.study import Condition, StudyChoices, StudyRun, divide, plan
from components.study_records import RunRecord
from components.study_report import Built, Study
from components.study_report.kinds import figures_of, pool
from components.study_report.references import PATH as REFERENCES
from components.study_report.references import Reference, references
from components.study_report.results import NUM_RESAMPLES, by_condition, difference, read_results
from components.study_report.tables import main_table
from components.task import Task
from tests.finished_run import LABELS, FinishedRun, write_model

FIGURES = figures_of(None)
CHOICES = StudyChoices(seeds=[0, 1], label_shares=[1.0])
ERROR = "evaluate: the disk is <full> & so on"
DATA = {"build/clips": "0123abcd.dir", "build/features": "4567cdef.dir"}


@dataclass
class Table:
    """A table of a page: the text of its cells, row by row, the head first."""

    rows: list[list[str]] = field(default_factory=list)
    caption: str = ""


class Page(HTMLParser):
    """The tables, the text, the links and the nesting of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.text: list[str] = []
        self.sources: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [(name, value or "") for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self._open.append(tag)
        match tag:
            case "table":
                self.tables.append(Table())
            case "tr":
                self.tables[-1].rows.append([])
            case "td" | "th":
                self.tables[-1].rows[-1].append("")
            case "h2":
                self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "caption" in self._open:
            self.tables[-1].caption += data
        elif "td" in self._open or "th" in self._open:
            self.tables[-1].rows[-1][-1] += data
        elif "h2" in self._open:
            self.headings[-1] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def table(self, head: str) -> Table:
        """The table whose first row holds these words."""
        [found] = [table for table in self.tables if head in " ".join(table.rows[0])]
        return found


def _workspace(folder: Path, finished: FinishedRun, run: StudyRun) -> None:
    """What a run leaves in its folder: a drawn model, really evaluated, or ridge, really fitted."""
    build = folder / "build"
    shutil.copytree(finished.build, build)
    if run.condition.learner == "ridge":
        fitted = ridge.fit([open_split(build / "features", "train")], Task("classes", LABELS))
        (build / ridge.FOLDER).mkdir()
        evaluate.write_answers(build / ridge.FOLDER, evaluate.answer_test(fitted.answer, build=build), build=build)
        return
    write_model(build, finished.settings, seed=10 * run.seed + (run.condition.learner == "pretrained"))
    evaluate.evaluate(finished.settings, build=build)
    (build / "finetune" / "losses.csv").write_text(
        "epoch,train,validation,macro_f1\n1,1.9,1.8,0.25\n2,1.5,1.6,0.4\n", encoding="utf-8"
    )
    (build / "pretrain").mkdir()
    lines = "1,1,0.9,0.4\n2,2,0.7,0.3\n" if run.condition.learner == "pretrained" else ""
    (build / "pretrain" / "losses.csv").write_text(f"step,epoch,train,audio\n{lines}", encoding="utf-8")


@pytest.fixture(scope="module")
def outcomes(
    finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[StudyRun, RunRecord | None]]:
    """A study of six runs: one has failed, all others have figures."""
    found: list[tuple[StudyRun, RunRecord | None]] = []
    for run in plan(CHOICES):
        folder = tmp_path_factory.mktemp("workspace")
        if (run.condition.learner, run.seed) == ("scratch", 1):
            found.append((run, RunRecord(run.name, "d1", str(folder), "failed", error=ERROR)))
            continue
        _workspace(folder, finished_run, run)
        found.append((run, RunRecord(run.name, f"d{len(found)}", str(folder), "done", duration_s=12.0, data=DATA)))
    return found


@pytest.fixture(scope="module")
def built(outcomes: list[tuple[StudyRun, RunRecord | None]]) -> Built:
    about = Study(CHOICES, divide(CHOICES), "feedc0de", "abc123def456+", "2026-11-21T12:00:00+00:00")
    return study_report.build(about, outcomes)


@pytest.fixture(scope="module")
def page(built: Built) -> Page:
    return Page(built.html)


def test_figures_are_those_of_the_stored_answers(page: Page, outcomes: list[tuple[StudyRun, RunRecord | None]]) -> None:
    rows = {row[0]: row for row in page.table("the paper's own runs").rows[1:]}
    for learner, name in (("pretrained", "pre-trained"), ("ridge", "ridge")):
        right, by_label = [], {label: [0, 0] for label in LABELS}
        for run, record in outcomes:
            if run.condition.learner != learner or record is None:
                continue
            folder = Path(record.folder) / "build" / ("ridge" if learner == "ridge" else "evaluation")
            for row in pq.read_table(folder / "predictions.parquet").to_pylist():
                right.append(row["actual"] == row["predicted"])
                by_label[row["actual"]][0] += right[-1]
                by_label[row["actual"]][1] += 1
        assert len(right) == 24
        ua = sum(hits / total for hits, total in by_label.values()) / len(by_label)
        cells = rows[f"audio+video+text, 100 % of labels, {name}"]
        assert cells[1].startswith(f"{100 * ua:.1f} [")
        assert cells[2].startswith(f"{100 * sum(right) / len(right):.1f} [")
        assert cells[-1] == "2 of 2"
        low, high = (float(end) for end in re.findall(r"[\d.]+", cells[2].split("[")[1])[:2])
        assert low - 0.05 <= 100 * sum(right) / len(right) <= high + 0.05  # the ends are rounded


def test_the_gain_is_paired_over_the_runs_that_both_have(
    page: Page, outcomes: list[tuple[StudyRun, RunRecord | None]]
) -> None:
    [row] = page.table("pre-trained minus from scratch").rows[1:]
    results = {(each.run.condition.learner, each.run.seed): each.outcomes for each in read_results(outcomes)}
    first, second = results["pretrained", 0], results["scratch", 0]
    assert first is not None
    assert second is not None
    expected = paired_bootstrap(first, second, metric=macro_f1_of, num_resamples=NUM_RESAMPLES)
    assert row[3] == f"{100 * expected.value:+.1f} [{100 * expected.low:+.1f}, {100 * expected.high:+.1f}]"
    assert row[-1] == "1 of 2"


def test_a_failed_run_is_shown_with_its_error_and_counted_nowhere(page: Page, built: Built) -> None:
    name = "audio+video+text.scratch.labels-100.seed-1"
    assert f"{name} failed: {ERROR}" in page.words
    assert "1 of 6 runs have no figures" in page.words
    rows = [row for row in page.table("workspace, or why not").rows[1:] if row[3] == "failed"]
    assert [(row[2], row[-1]) for row in rows] == [("1", ERROR)]
    assert "<full>" not in built.html
    scratch = next(row for row in page.table("the paper's own runs").rows if row[0].endswith("from scratch"))
    assert scratch[-1] == "1 of 2, 1 without figures"
    assert built.summary["failed"] == {name: ERROR}
    assert built.summary["runs"] == {"planned": 6, "done": 5}
    assert json.loads(json.dumps(built.summary)) == built.summary


def test_nothing_comes_from_elsewhere(page: Page, built: Built) -> None:
    assert page.sources
    assert all(value.startswith("data:image/svg+xml;base64,") for _, value in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in built.html
    assert "@import" not in built.html


def test_every_picture_is_whole_and_names_no_other_file(page: Page) -> None:
    pictures = [base64.b64decode(value.split(",")[1]) for _, value in page.sources]
    # results, gain, scores, losses, confusions, modalities
    assert len(pictures) == 6
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.tag.endswith("svg")
        assert float(root.attrib["width"].removesuffix("pt")) > 100
        links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


def test_it_says_how_each_number_was_obtained(page: Page) -> None:
    for words in (
        "one division by speaker, not cross-validated",
        "seeds 0, 1",
        "abc123def456+",
        "feedc0de",
        "0123abcd.dir",
        "4567cdef.dir",
        "speaker-004, speaker-005",
        "validation speakers, who are not tested; when all is chosen a linear part learns from them too",
        "synthetic: no figure here says anything about people",
        "2000 resamples of speakers",
        f"emotion: {', '.join(LABELS)}",
    ):
        assert words in page.words, words
    assert page.headings == [
        "Results beside the paper's",
        "What pre-training adds",
        "Beside ridge on the same features",
        "Learning curves",
        "Label by label",
        "What each modality contributes",
        "Every run",
        "How each number was obtained",
    ]


def test_the_same_study_gives_the_same_page(built: Built, outcomes: list[tuple[StudyRun, RunRecord | None]]) -> None:
    about = Study(CHOICES, divide(CHOICES), "feedc0de", "abc123def456+", "2026-11-21T12:00:00+00:00")
    assert study_report.build(about, outcomes).html == built.html


def test_a_study_without_any_figure_has_a_report_all_the_same() -> None:
    runs = plan(CHOICES)
    failed = RunRecord(runs[0].name, "d0", "/nowhere", "failed", error=ERROR)
    gone = RunRecord(runs[1].name, "d1", "/nowhere/at/all", "done")
    about = Study(CHOICES, divide(CHOICES), "feedc0de", "", "2026-11-21T12:00:00+00:00")
    found = study_report.build(about, [(runs[0], failed), (runs[1], gone), *((run, None) for run in runs[2:])])
    page = Page(found.html)
    assert "6 of 6 runs have no figures" in page.words
    states = [row[3] for row in page.table("workspace, or why not").rows[1:]]
    assert states == ["failed", "failed", *["not run"] * 4]
    assert "its files cannot be read" in page.words
    assert found.summary["runs"]["done"] == 0


def test_own_numbers_stand_beside_their_condition_and_others_below(
    outcomes: list[tuple[StudyRun, RunRecord | None]],
) -> None:
    published = [
        _reference(system="Own system", recipes=("quick",), value=70.25, source="recalled"),
        _reference(system="Other modalities", recipes=("quick",), modalities="audio", value=11.11),
        _reference(system="Another", value=81.5, selection="test"),
        _reference(system="Foreign figure", metric="weighted_f1", value=76.3),
    ]
    page = Page(main_table(by_condition(read_results(outcomes), FIGURES), published, "quick", FIGURES))
    rows = {row[0]: row for row in page.tables[0].rows[1:]}
    pretrained = rows["audio+video+text, 100 % of labels, pre-trained"]
    assert "Own system: WA 70.25 recalled" in pretrained[4]
    assert all("70.25" not in cell for name, row in rows.items() for cell in row if row is not pretrained)
    another = next(row for name, row in rows.items() if name.startswith("Another"))
    assert another[1:4] == ["–", "81.50", "–"]
    assert "epoch chosen on test" in another[4]
    foreign = next(row for name, row in rows.items() if name.startswith("Foreign figure"))
    assert foreign[1:4] == ["–"] * 3
    assert "weighted_f1 76.30" in foreign[4]


def _reference(**values: object) -> Reference:
    return Reference.model_validate(
        {
            "dataset": "synthetic",
            "system": "",
            "metric": "wa",
            "modalities": "audio+video+text",
            "protocol": "folds",
            "selection": "unknown",
            "source": "found",
            "where": "somewhere",
            **values,
        }
    )


def test_published_numbers_name_their_source_and_say_how_they_are_known() -> None:
    found = {each.dataset: references(each.dataset) for each in _all_references()}
    assert {"cmu_mosei", "iemocap", "crema_d", "msp_improv"} <= set(found)
    krishna = next(each for each in found["iemocap"] if each.recipes == ("krishna2021",))
    assert (krishna.told, krishna.source, krishna.metric) == ("74.70", "derived", "ua")
    gains = [each for each in found["crema_d"] if each.quantity == "gain"]
    assert [(each.labels, each.told, each.source) for each in gains] == [
        (1.0, "5 to 7", "found"),
        (0.1, "at least 10", "found"),
    ]
    for each in _all_references():
        assert each.where
        if each.source == "found":
            assert "not checked" not in each.where
    with pytest.raises(ValueError, match="give value, low and high"):
        _reference(value=None)


def _all_references() -> list[Reference]:
    names = set(re.findall(r"dataset: (\w+)", REFERENCES.read_text(encoding="utf-8")))
    return [each for name in sorted(names) for each in references(name)]


def test_pooling_keeps_a_speaker_of_two_seeds_one_speaker(
    outcomes: list[tuple[StudyRun, RunRecord | None]],
) -> None:
    conditions = {each.condition: each for each in by_condition(read_results(outcomes), FIGURES)}
    both = conditions[Condition(("audio", "video", "text"), 1.0, "pretrained")]
    assert both.pooled is not None
    assert both.pooled.num_speakers == 2
    parts = [each.outcomes for each in both.done if each.outcomes]
    again = pool(parts)
    np.testing.assert_array_equal(again.actual, np.concatenate([part.actual for part in parts]))
    nothing = difference(both, both, FIGURES).figures["wa"]
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
