"""What a person does in the Prefect UI, in a real Chromium: fill a form, press Run, see it end, open the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from prefect.client.schemas.objects import FlowRun

from components.params import dataset_names, recipe_names
from flows import following
from tests.browser import DESK, PHONE, PICTURES, TIMEOUT_MS, Visit, chromium, needs_chromium
from tests.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.platform, needs_chromium]

# Some of them, in the order of the form, with units.
LABELS: Final = (
    *("Recipe", "Finetune on", "Dataset", "Pretrain on", "Seed", "Gates", "Least macro F1", "Largest latency (s)"),
    *("Largest memory (MiB)", "Trial", "Approval", "Approval timeout (hours)", "Overrides"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": DESK[0], "height": DESK[1]})
    context.set_default_timeout(TIMEOUT_MS)
    yield context.new_page()
    context.close()


def open_form(page: Page, platform: Platform, deployment: str) -> None:
    """From the list of deployments to the form, as a person goes."""
    page.goto(f"http://127.0.0.1:{platform.ports['prefect']}/deployments")
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_role("button", name="Submit").wait_for()


def control(page: Page, label: str) -> Locator:
    """What is typed into or chosen from under a label. The form's own labels name no control."""
    found = page.locator(".schema-form-property").filter(has=page.get_by_text(f"{label} (Optional)", exact=True)).last
    return found.locator("input, textarea, button.p-select-button__control").first


def keep(page: Page, name: str) -> None:
    """A picture of all that the page shows, for people."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def open_report(page: Page) -> Page:
    """From the page of a run to its report, which opens in a tab of its own."""
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_role("link", name="report").last.click()
    link = page.get_by_role("link", name="The report of this run")
    link.wait_for()
    keep(page, "prefect-artifact")
    with page.context.expect_page() as opened:
        link.click()
    opened.value.get_by_role("heading", name="What changed since the champion").wait_for()
    return opened.value


def runs(platform: Platform) -> dict[str, FlowRun]:
    """All runs there are, by their names."""
    with following.prefect_client(platform.settings) as client:
        return {run.name: run for run in client.read_flow_runs()}


def test_the_form_is_that_of_the_parameters_and_refuses_what_they_refuse(page: Page, platform: Platform) -> None:
    before = runs(platform)
    open_form(page, platform, "retrain")
    page.get_by_text("Overrides (Optional)").wait_for()
    shown = page.locator(".schema-form-property__label").all_inner_texts()
    titles = [title.strip().removesuffix(" (Optional)") for title in shown]
    assert [titles.index(label) for label in LABELS] == sorted(titles.index(label) for label in LABELS)
    for label, names in (("Recipe", recipe_names()), ("Dataset", dataset_names())):
        control(page, label).press("ArrowDown")
        expect(page.locator(".p-select-option")).to_have_text(names)
        page.keyboard.press("Escape")
    control(page, "Seed").fill("-1")
    keep(page, "prefect-form")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("-1 is less than the minimum of 0").first).to_be_visible()
    keep(page, "prefect-form-refused")
    assert runs(platform).keys() == before.keys()


def test_a_run_is_started_from_a_form_and_its_report_opened_by_a_click(
    browser: Browser, page: Page, platform: Platform, first_run: dict[str, Any]
) -> None:
    before = runs(platform)
    open_form(page, platform, "promote")
    control(page, "run").fill(first_run["digest"])
    page.get_by_role("button", name="Submit").click()
    while not (new := runs(platform).keys() - before.keys()):
        page.wait_for_timeout(200)
    [name] = new
    page.goto(f"http://127.0.0.1:{platform.ports['prefect']}/runs/flow-run/{runs(platform)[name].id}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=TIMEOUT_MS)
    report = open_report(page)
    run = runs(platform)[name]
    assert report.url.rpartition("/")[2] == str(run.id)
    assert run.parameters["run"] == first_run["digest"]
    _look(browser, report.url, first_run["digest"])


def _look(browser: Browser, url: str, digest: str) -> None:
    """At a desk and on a phone: all is there, nothing was fetched, nothing is too wide, and everyone can read it."""
    for name, (width, height) in (("desk", DESK), ("phone", PHONE)):
        context = browser.new_context(viewport={"width": width, "height": height}, bypass_csp=True)
        seen = Visit(context.new_page())
        seen.watch()
        seen.page.goto(url)
        assert digest in seen.page.inner_text("body")
        for section in ("gates", "changes", "figures", "curves", "answers", "reliability", "parameters"):
            assert seen.page.locator(f"section#{section}").is_visible()
        assert [asked for asked in seen.addresses if not asked.startswith("data:")] == [url]
        assert seen.complaints == []
        assert (seen.overflow(), seen.breaches()) == (0, [])
        keep(seen.page, f"report-{name}")
        context.close()
