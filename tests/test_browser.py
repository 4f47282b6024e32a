"""The page in a real Chromium, before real endpoints with small real models: what a person does, and what they see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from components import bundle_files
from components.media import Limits, decode, write_mp4
from components.media_live import follow
from components.task import Kind
from serving.app import Live
from serving.keys import Keys, new_key, to_text
from serving.prediction import Request
from serving.runtime import Runtime
from serving.schema import ClassAnswer
from tests.browser import PHONE, chromium, needs_chromium, refusing, visit
from tests.bundles import LABELS, class_predictions, requests, write_bundle
from tests.endpoint import LIMITS, Endpoint, serve
from tests.kinds import TASKS

pytestmark = [pytest.mark.slow, needs_chromium]

KINDS: Final[tuple[Kind, ...]] = ("classes", "multilabel", "values")
WORDS = "we saw the door"
CARD = """# Emotion recognition (test)

> **SYNTHETIC DATA.** Drawn faces,
> and voices.

## Figures
On 48 clips of `synthetic`; <b>95 %</b> intervals.

| figure | value | low | high |
|---|---|---|---|
| macro-F1 | 0.622 | 0.571 | 0.670 |

- One answer a recording:
  a change is averaged.
- Words count.
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runtime]:
    folder = tmp_path_factory.mktemp("bundles")
    for kind in KINDS:
        write_bundle(folder / kind, seed=0, asked=TASKS.get(kind))
        (folder / kind / bundle_files.CARD).write_text(CARD)
    return {kind: Runtime(folder / kind, limits=LIMITS) for kind in KINDS}


@pytest.fixture(scope="module")
def urls(runtimes: dict[str, Runtime]) -> Iterator[dict[str, str]]:
    """Where each kind of model answers."""
    with (
        serve(Endpoint(Live(runtimes["classes"], release=3))) as classes,
        serve(Endpoint(Live(runtimes["multilabel"], release=3))) as labels,
        serve(Endpoint(Live(runtimes["values"], release=3))) as values,
    ):
        yield {"classes": classes.url, "multilabel": labels.url, "values": values.url}


@pytest.fixture(scope="module")
def url(urls: dict[str, str]) -> str:
    return urls["classes"]


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = requests()[1].video
    assert content is not None
    path = tmp_path_factory.mktemp("clips") / "face.mp4"
    path.write_bytes(content)
    return path


def test_a_clip_is_recorded_judged_and_played(browser: Browser, url: str) -> None:
    with visit(browser, url, name="recorded") as seen:
        page = seen.page
        seen.record("video", at_least_s=2)
        with page.expect_response("**/v1/emotion") as answered:
            assert seen.judge() in LABELS
        answer = ClassAnswer.model_validate(answered.value.json())
        # The camera's test picture shows no face, and its microphone is not silent.
        assert answer.warnings == ["no-face"]
        assert "No face was found" in page.inner_text("#findings .warnings")
        assert set(answer.contributions) == {"audio"}
        assert len(answer.timeline) >= 2
        page.focus("#timeline [role=slider]")
        page.keyboard.press("ArrowRight")
        seen.wait("Math.abs(document.querySelector('#player video').currentTime - 1) < 0.01")


def test_who_judges_while_it_records_gets_an_answer_for_what_was_recorded(browser: Browser, url: str) -> None:
    with visit(browser, url, size=PHONE, name="recording") as seen:
        page = seen.page
        # A person's second click, while the browser asks whether it may.
        page.evaluate("for (const _ of [1, 2]) document.querySelector('#record-video').click()")
        expect(page.locator("#record-note")).to_contain_text("Allow it if the browser asks")
        seen.wait("Number(document.querySelector('#recorded-s').textContent) >= 1")
        assert page.is_hidden("#record-note")
        page.evaluate("document.querySelector('#send').click()")
        assert seen.answer() in LABELS
        assert page.is_hidden("#recording")
        assert page.evaluate(_IS_SEEN, "#findings .headline")
        assert page.evaluate(_IS_SEEN, "#answer-title")


def test_a_camera_that_is_refused_is_told_where_it_is_seen(browser: Browser, url: str) -> None:
    with refusing(browser) as other, visit(other, url, size=PHONE, name="refused") as seen:
        seen.page.click("#record-video")
        assert "allow it in the browser's address bar" in seen.problem()
        assert seen.page.evaluate(_IS_SEEN, "#problem")
        assert seen.page.is_visible("#record-video")


_RECORDED: Final = """async () => {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
    const recorder = new MediaRecorder(stream);
    const parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data.arrayBuffer());
    recorder.start(250);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const stopped = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.stop();
    await stopped;
    return (await Promise.all(parts)).map((part) => [...new Uint8Array(part)]);
}"""


def test_what_a_browser_streams_is_understood_from_its_first_parts_on(browser: Browser, url: str) -> None:
    with visit(browser, url) as seen:
        parts = [bytes(part) for part in seen.page.evaluate(_RECORDED)]
    assert len(parts) > 3
    given, waiting = 0, b""

    class Camera:
        def read(self, size: int) -> bytes:
            nonlocal given, waiting
            if not waiting and given < len(parts):
                waiting, given = parts[given], given + 1
            content, waiting = waiting[:size], waiting[size:]
            return content

    first = next(follow(Camera(), sample_rate_hz=16_000, frame_rate_hz=12.5, limits=Limits()))
    assert first.has_video
    assert given <= 2


def test_recording_sound_alone_and_beginning_anew(browser: Browser, url: str) -> None:
    with visit(browser, url) as seen:
        page = seen.page
        seen.record("audio")
        with page.expect_response("**/v1/emotion") as answered:
            seen.judge()
        assert ClassAnswer.model_validate(answered.value.json()).warnings == []
        page.click("#remove")
        assert page.is_hidden("#timeline")
        assert page.locator("#findings .headline").count() == 0


def test_a_recording_ends_where_the_model_stops_looking(browser: Browser, url: str) -> None:
    limit_s = httpx.get(f"{url}/v1/model", timeout=60.0).json()["limits"]["max_analysed_s"]
    with visit(browser, url) as seen:
        seen.page.click("#record-audio")
        seen.page.wait_for_selector("#player audio")
        assert seen.page.evaluate("document.querySelector('#player audio').duration") < limit_s + 2


def test_the_timeline_follows_playback_and_seeks(browser: Browser, url: str, face: Path) -> None:
    with visit(browser, url, name="dropped") as seen:
        page = seen.page
        _drop(page, face)
        page.wait_for_selector("#player video")
        seen.judge()
        slider = page.locator("#timeline [role=slider]")
        box = slider.bounding_box()
        assert box is not None
        slider.click(position={"x": box["width"] / 2, "y": 5})
        end_s = float(slider.get_attribute("aria-valuemax") or "nan")
        at_s = page.evaluate("document.querySelector('#player video').currentTime")
        assert at_s == pytest.approx(end_s / 2, abs=0.1)
        slider.press("Home")
        assert float(slider.get_attribute("aria-valuenow") or "nan") == 0
        slider.press(" ")
        seen.wait("Number(document.querySelector('[role=slider]').getAttribute('aria-valuenow')) > 0.3")
        assert page.evaluate("document.querySelector('#player video').currentTime") > 0.3


def test_what_each_part_said_is_what_the_answer_without_it_is(
    browser: Browser, url: str, face: Path, runtimes: dict[str, Runtime]
) -> None:
    content = face.read_bytes()
    whole, wordless = class_predictions(
        runtimes["classes"], [Request(video=content, text=WORDS), Request(video=content)]
    )
    with visit(browser, url, name="classes") as seen:
        seen.page.set_input_files("#file", face)
        seen.page.fill("#words", WORDS)
        assert seen.judge() == whole.label
        for label, probability in whole.probabilities.items():
            row = seen.page.locator("#findings .bars tr", has_text=label)
            assert _percent(probability) in row.inner_text()
        said = seen.page.locator("#findings .parts li", has_text="Words").inner_text()
        without, held = wordless.probabilities[whole.label], whole.probabilities[whole.label]
        if abs(held - without) < 0.01:
            assert "hardly any difference" in said
        else:
            assert f"{whole.label} would be at {_percent(without)} instead of {_percent(held)}" in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dark", [False, True])
def test_an_answer_fits_a_phone_and_can_be_read_by_everyone(
    browser: Browser, urls: dict[str, str], long_clip: Path, kind: Kind, dark: bool
) -> None:
    look = f"{kind}-phone-{'dark' if dark else 'light'}"
    with visit(browser, urls[kind], size=PHONE, dark=dark, name=look) as seen:
        assert (seen.overflow(), seen.breaches()) == (0, [])
        seen.page.set_input_files("#file", long_clip)
        seen.page.fill("#words", WORDS)
        seen.judge()
        for summary in seen.page.locator("summary").all():
            summary.click()
        assert (seen.overflow(), seen.breaches()) == (0, [])


def test_many_labels_with_long_names_fit_a_phone(browser: Browser, tmp_path: Path, face: Path) -> None:
    names = ("happiness with excitement", "profound_disappointment", *(f"emotion {number}" for number in range(9)))
    asked = replace(TASKS["multilabel"], labels=names)
    runtime = Runtime(write_bundle(tmp_path / "bundle", seed=0, asked=asked), limits=LIMITS)
    with serve(Endpoint(Live(runtime))) as running, visit(browser, running.url, size=PHONE, name="names") as seen:
        seen.page.set_input_files("#file", face)
        seen.page.fill("#words", WORDS)
        seen.judge()
        assert (seen.overflow(), seen.breaches()) == (0, [])


def test_answers_of_labels_and_values_are_shown_as_they_are(
    browser: Browser, urls: dict[str, str], long_clip: Path
) -> None:
    for kind in ("multilabel", "values"):
        with visit(browser, urls[kind], name=kind) as seen:
            seen.page.set_input_files("#file", long_clip)
            seen.page.fill("#words", WORDS)
            with seen.page.expect_response("**/v1/emotion") as answered:
                headline = seen.judge()
            answer = answered.value.json()
            rows = {row.split("\t")[0].strip(): row for row in seen.page.locator(".bars tr").all_inner_texts()}
            if kind == "multilabel":
                there = [label for label, said in answer["labels"].items() if said["present"]]
                assert set(headline.split(", ")) == set(there or ["none of the labels"])
                for label, said in answer["labels"].items():
                    assert _percent(said["probability"]) in rows[label]
                    assert ("not there" in rows[label]) is not said["present"]
            else:
                for label, value in answer["values"].items():
                    assert f"{value:.2f}".replace("-", "\u2212") in rows[label]
                    [change] = [
                        row for row in seen.page.locator(".changes tbody tr").all() if label in row.inner_text()
                    ]
                    told = [
                        f"{answer['contributions'][part][label]:+.2f}".replace("-", "\u2212")
                        for part in ("audio", "text")
                    ]
                    assert all(each in change.inner_text() or each.endswith("0.00") for each in told)


def test_the_card_is_shown_with_its_figures(browser: Browser, url: str) -> None:
    with visit(browser, url) as seen:
        told = httpx.get(f"{url}/v1/model", timeout=60.0).json()
        card = seen.page.locator("#card-body")
        expect(card).to_contain_text(f"{told['system']}, version {told['version']}, release 3")
        expect(card).to_contain_text(", ".join(LABELS))
        expect(card.locator(".written h4")).to_have_text("Figures")
        expect(card.locator(".written blockquote")).to_have_text("SYNTHETIC DATA. Drawn faces, and voices.")
        expect(card.locator(".written tbody tr")).to_have_text("macro-F10.6220.5710.670")
        expect(card.locator(".written li").first).to_have_text("One answer a recording: a change is averaged.")
        # What a card says is text, whatever it looks like.
        expect(card.locator(".written p").nth(1)).to_have_text("On 48 clips of synthetic; <b>95 %</b> intervals.")


def test_an_endpoint_with_keys_asks_for_one_and_forgets_a_wrong_one(
    browser: Browser, runtimes: dict[str, Runtime]
) -> None:
    key, kept = new_key("anna")
    endpoint = Endpoint(Live(runtimes["classes"], release=1), keys=lambda: Keys(secret=to_text([kept])))
    with serve(endpoint) as running, visit(browser, running.url, name="key") as seen:
        page = seen.page
        expect(page.locator("#key")).to_be_visible()
        expect(page.locator("#key-why code")).to_have_text("affect keys add NAME")
        assert seen.breaches() == []
        page.fill("#key-field", "affect_not-the-key")
        page.press("#key-field", "Enter")
        expect(page.locator("#key-why")).to_contain_text("does not know this key")
        assert page.input_value("#key-field") == ""
        page.fill("#key-field", key)
        page.press("#key-field", "Enter")
        expect(page.locator("#key")).to_be_hidden()
        page.wait_for_selector("#card-body dl")
        page.fill("#words", WORDS)
        assert seen.judge() in LABELS
        page.reload()
        page.wait_for_selector("#card-body dl")
        assert page.is_hidden("#key"), "a tab keeps its key"
        assert not any(key in address for address in seen.addresses)


def test_a_person_with_a_keyboard_alone(browser: Browser, url: str) -> None:
    with visit(browser, url, still=True, name="keyboard") as seen:
        page = seen.page
        order = []
        for _ in range(6):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id"))
            assert _has_visible_focus(page), order[-1]
        assert order == ["record-video", "record-audio", "file", "words", "send", ""]
        page.focus("#words")
        page.keyboard.type(WORDS)
        page.keyboard.press("Control+Enter")
        headline = seen.answer()
        # Who does not see the page is told the answer, and the focus stays where it was.
        expect(page.locator("#status")).to_contain_text(f"The answer: {headline}")
        expect(page.locator("#words")).to_be_focused()
        assert page.is_hidden("#timeline")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        seen.wait("Number(document.querySelector('#recorded-s').textContent) >= 1")
        assert page.evaluate("document.getAnimations().length") == 0
        # The focus is on the button that stops it, and afterwards on the one that sends.
        page.keyboard.press("Enter")
        page.wait_for_selector("#player video")
        expect(page.locator("#send")).to_be_focused()


def test_what_cannot_be_judged_is_told_with_its_remedy(browser: Browser, url: str) -> None:
    with visit(browser, url, name="problem") as seen:
        page = seen.page
        page.click("#send")
        assert "Record something, choose a file, or type the words" in seen.problem()
        _choose(page, "notes.mp4", b"this is no recording" * 50)
        expect(page.locator("#player-note")).to_contain_text("cannot play this file")
        with page.expect_response("**/v1/emotion") as refused:
            page.click("#send")
        problem = refused.value.json()
        expect(page.locator("#problem")).to_contain_text(problem["detail"], ignore_case=True)
        assert page.evaluate(_IS_SEEN, "#problem")
        assert problem["title"] in seen.problem()
        assert problem["instance"].rpartition(":")[2] in seen.problem()
        assert seen.breaches() == []
        num_asked = len(seen.addresses)
        _choose(page, "long.wav", b"\0" * (LIMITS.max_bytes + 1))
        page.click("#send")
        expect(page.locator("#problem")).to_contain_text("The recording is too large")
        assert [asked for asked in seen.addresses[num_asked:] if not asked.startswith("blob:")] == []


def test_an_endpoint_without_a_model_says_what_to_do_and_answers_once_it_has_one(
    browser: Browser, runtimes: dict[str, Runtime]
) -> None:
    with serve(Endpoint()) as empty, visit(browser, empty.url, name="no-model") as seen:
        page = seen.page
        assert "affect retrain" in page.inner_text("#card-body")
        page.fill("#words", WORDS)
        page.click("#send")
        assert "affect retrain" in seen.problem()
        empty.live = Live(runtimes["classes"], release=7)
        page.click("#problem button")
        assert seen.answer() in LABELS
        assert "release 7" in page.inner_text("#card-body")
        expect(page.locator("#synthetic")).to_be_visible()


def test_an_endpoint_that_is_gone_is_told(browser: Browser, runtimes: dict[str, Runtime]) -> None:
    with serve(Endpoint(Live(runtimes["classes"]))) as short, visit(browser, short.url) as seen:
        seen.page.fill("#words", WORDS)
        seen.page.context.set_offline(True)
        seen.page.click("#send")
        assert "The endpoint does not answer" in seen.problem()
        seen.page.context.set_offline(False)
        seen.page.click("#problem button")
        assert seen.answer() in LABELS


def test_an_upload_shows_how_far_it_is_and_can_be_cancelled(browser: Browser, url: str) -> None:
    with visit(browser, url) as seen:
        page = seen.page
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
        _choose(page, "long.mp4", b"\0" * (LIMITS.max_bytes - 1))
        page.click("#send")
        seen.wait("document.querySelector('#sent').value > 0 && document.querySelector('#sent').value < 1")
        page.click("#cancel")
        expect(page.locator("#status")).to_have_text("Cancelled.")
        assert page.is_hidden("#sending")
        assert page.inner_text("#problem") == ""


@pytest.fixture(scope="module")
def long_clip(face: Path) -> Path:
    """The talking face again and again, longer than the model looks at."""
    recording = decode(face.read_bytes(), sample_rate_hz=16_000, frame_rate_hz=25.0)
    assert recording.frames_THW is not None
    assert recording.waveform_T is not None
    times = int(np.ceil(6.0 / recording.duration_s))
    frames_THW3 = np.repeat(np.tile(recording.frames_THW, (times, 1, 1))[..., None], 3, axis=3)
    path = face.with_name("long.mp4")
    write_mp4(path, frames_THW3, frame_rate_hz=25.0, waveform_T=np.tile(recording.waveform_T, times))
    return path


def _drop(page: Page, path: Path) -> None:
    """Drop a file onto the page as a file manager does."""
    drop = """([bytes, name, type]) => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(bytes)], name, { type }));
        for (const kind of ["dragenter", "dragover", "drop"]) {
            const event = new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
            document.querySelector("#drop").dispatchEvent(event);
        }
    }"""
    page.evaluate(drop, [list(path.read_bytes()), path.name, "video/mp4"])


def _choose(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})


def _has_visible_focus(page: Page) -> bool:
    """Whether the element with the focus, or the label that stands for it, is outlined."""
    outlined: bool = page.evaluate("""() => {
        const own = document.activeElement;
        return [own, ...(own.labels ?? [])].some((element) => {
            const { outlineStyle, outlineWidth } = getComputedStyle(element);
            return outlineStyle === "solid" && parseFloat(outlineWidth) >= 2;
        });
    }""")
    return outlined


# Whether all of an element is on the screen.
_IS_SEEN: Final = """(selector) => {
    const { top, bottom } = document.querySelector(selector).getBoundingClientRect();
    return top >= 0 && bottom <= window.innerHeight;
}"""


def _percent(share: float) -> str:
    """A share as the page says it."""
    if 0 < share < 0.01:
        return "under 1\u00a0%"
    if 0.99 < share < 1:
        return "over 99\u00a0%"
    return f"{int(share * 100 + 0.5)}\u00a0%"
