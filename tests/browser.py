"""Chromium as tests drive it: with a camera and a microphone that are not there, and an eye on what it complains of."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

import pytest
from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Page, sync_playwright

from tests.conftest import REPOSITORY

CHROMIUM: Final = shutil.which("chromium")
needs_chromium: Final = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: `apt-get install chromium` lets the browser tests run"
)
PHONE: Final = (360, 740)
DESK: Final = (1200, 900)
# The last look of each test, for people.
PICTURES: Final = REPOSITORY / ".affect" / "pictures"
TIMEOUT_MS: Final = 120_000


@dataclass
class Visit:
    """One look at the page: what the browser complained of, and the addresses that it asked."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Keep what the browser complains of and asks for."""
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._keep)

    def _keep(self, message: ConsoleMessage) -> None:
        # Chromium tells of every answer that is a problem; what the page makes of those is what tests look at.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def record(self, modality: str, *, at_least_s: float = 1.0) -> None:
        """Record and stop, by script, for on a slow machine the longest recording may be over before the button."""
        self.page.click(f"#record-{modality}")
        self.wait(f"Number(document.querySelector('#recorded-s').textContent) >= {at_least_s}")
        self.page.evaluate("document.querySelector('#stop').click()")
        self.page.wait_for_selector(f"#player {modality}")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true; asked from outside, for the page's policy forbids it inside."""
        deadline_s = time.monotonic() + TIMEOUT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline_s, f"this did not become true: {expression}"
            self.page.wait_for_timeout(50)

    def answer(self) -> str:
        """Wait for an answer and return its headline."""
        self.page.wait_for_selector("#findings .headline")
        return self.page.inner_text("#findings .headline strong")

    def judge(self) -> str:
        """Press the button, and return the answer's headline."""
        self.page.click("#send")
        return self.answer()

    def problem(self) -> str:
        """Wait for a problem and return its words."""
        self.page.wait_for_selector("#problem .notice")
        return self.page.inner_text("#problem")

    def breaches(self) -> list[str]:
        """What axe-core finds against WCAG 2.2 A and AA and its own best practices: rule, and where."""
        script = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
        self.page.evaluate(script)
        found = self.page.evaluate("axe.run({resultTypes: ['violations']}).then((results) => JSON.stringify(results))")
        violations = json.loads(found)["violations"]
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}" for each in violations for node in each["nodes"]
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium whose camera shows a moving test picture and whose microphone beeps."""
    with sync_playwright() as driver, _launched(driver.chromium, "--use-fake-ui-for-media-stream") as browser:
        yield browser


@contextmanager
def refusing(browser: Browser) -> Iterator[Browser]:
    """Another one, in which a person refuses camera and microphone."""
    with _launched(browser.browser_type, "--deny-permission-prompts") as other:
        yield other


@contextmanager
def _launched(kind: BrowserType, answer: str) -> Iterator[Browser]:
    arguments = ["--use-fake-device-for-media-stream", answer]
    browser = kind.launch(executable_path=CHROMIUM, args=arguments, timeout=TIMEOUT_MS)
    yield browser
    browser.close()


@contextmanager
def visit(
    browser: Browser, url: str, *, size: tuple[int, int] = DESK, dark: bool = False, still: bool = False, name: str = ""
) -> Iterator[Visit]:
    """Open the page in a fresh profile, and see afterwards that nothing went wrong and no other host was asked.

    Args:
        size: of the window, in pixels.
        dark, still: the person prefers dark colours, or no motion.
        name: of the picture that is taken at the end.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if still else "no-preference",
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    seen = Visit(page)
    seen.watch()
    try:
        page.goto(url)
        page.wait_for_selector("#card-body :is(dl, .notice)")
        yield seen
        if name:
            PICTURES.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
        assert seen.complaints == []
        assert [asked for asked in seen.addresses if not asked.startswith((f"{url}/", "blob:"))] == []
    finally:
        context.close()
