// The page: a question is put together, sent, and what comes back is shown.

import { showAnswer, toldAnswer } from "./answer.js";
import { showCard } from "./card.js";
import { Clip } from "./clip.js";
import { byId, coded, make } from "./elements.js";
import { Problem, askEmotion, askModel, setKey, size } from "./endpoint.js";
import { readAnswer } from "./kinds.js";
import { Timeline } from "./timeline.js";
import { sentence } from "./words.js";

const page = { card: null, underway: null, wantsAnswer: false, hasSentKey: false };
const timeline = new Timeline(byId("timeline"));
const clip = new Clip({ onChange: forget, onProblem: (words) => complain(words && new Problem("Recording", words, { status: 400 })) });

byId("question").addEventListener("submit", (event) => {
  event.preventDefault();
  judge();
});
byId("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) judge();
});
byId("cancel").addEventListener("click", () => page.underway?.abort());
byId("key").addEventListener("submit", async (event) => {
  event.preventDefault();
  setKey(byId("key-field").value.trim());
  page.hasSentKey = true;
  byId("key-field").value = "";
  byId("key").hidden = true;
  if (!(await loadCard())) return;
  byId("words").focus();
  if (page.wantsAnswer) judge();
});
loadCard();

/** Ask for the model's card, show it, and take its limits over; tells whether there is one. */
async function loadCard() {
  let told;
  try {
    told = await askModel();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    page.card = null;
    if (error.status === 401) askForKey();
    byId("card-body").replaceChildren(described(error, loadCard));
    return false;
  }
  page.card = told.card;
  const { limits, provenance, modalities } = page.card;
  showCard(byId("card-body"), page.card, told.written);
  byId("synthetic").hidden = provenance.synthetic !== true;
  byId("words").maxLength = limits.max_characters;
  byId("file-note").textContent =
    `WAV, FLAC, MP3, OGG, M4A, MP4, WebM, MKV, AVI or FLV; up to ${size(limits.max_bytes)}. ` +
    `The first ${limits.max_analysed_s} s count.`;
  byId("record-video").hidden = !modalities.includes("video");
  byId("record-audio").hidden = !modalities.includes("audio");
  clip.maxRecordedS = limits.max_analysed_s;
  return true;
}

/** Send the question and show what comes back. */
async function judge() {
  if (page.underway) return;
  complain(null);
  await clip.finish();
  const words = byId("words").value.trim();
  const refusal = refused(words);
  if (refusal) {
    complain(refusal);
    return;
  }
  page.underway = new AbortController();
  page.wantsAnswer = true;
  showSending(true);
  try {
    const question = { clip: clip.blob, modality: clip.modality, name: clip.name, words };
    const answer = await askEmotion(question, { onUpload: showSent, signal: page.underway.signal });
    page.wantsAnswer = false;
    await present(answer);
  } catch (error) {
    if (error instanceof Problem) fail(error);
    else if (error.name === "AbortError") byId("status").textContent = "Cancelled.";
    else throw error;
  } finally {
    page.underway = null;
    showSending(false);
  }
}

// What the endpoint would refuse anyway is told before anything is sent.
function refused(words) {
  if (!clip.blob && !words) {
    return new Problem("There is nothing to judge yet", "Record something, choose a file, or type the words.", { status: 422 });
  }
  const most = page.card?.limits.max_bytes;
  if (clip.blob && most && clip.blob.size > most) {
    const detail = `It has ${size(clip.blob.size)}, more than the ${size(most)} that are taken: choose a shorter one.`;
    return new Problem("The recording is too large", detail, { status: 413 });
  }
  return null;
}

async function present(answer) {
  if (page.card?.version !== answer.model.version) await loadCard(); // the model was swapped meanwhile
  const found = readAnswer(answer);
  showAnswer(byId("findings"), answer, found, page.card);
  timeline.show(found, clip.player);
  byId("status").textContent = toldAnswer(found, page.card);
  const { top } = byId("answer").getBoundingClientRect();
  // On a phone it lies below the question: from its headline on it is what the person waits for.
  if (top < 0 || top > window.innerHeight / 2) byId("answer").scrollIntoView();
}

function fail(problem) {
  if (problem.status === 401) askForKey();
  else {
    page.wantsAnswer = false;
    complain(problem);
  }
}

function askForKey() {
  setKey("");
  const why = page.hasSentKey
    ? "The endpoint does not know this key: look whether it is whole, or ask for another."
    : "This endpoint answers who has a key. Ask those who run it for one; `affect keys add NAME` makes it.";
  byId("key-why").replaceChildren(...coded(why));
  byId("key").hidden = false;
  byId("key-field").focus();
}

function complain(problem) {
  byId("problem").replaceChildren(...(problem ? [described(problem, judge)] : []));
  if (problem) byId("problem").scrollIntoView({ block: "nearest" });
}

/** A problem as a person reads it, with a button to try again where that may help. */
function described(problem, again) {
  const button = make("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  const wait = problem.retryAfterS ? ` Wait ${problem.retryAfterS} s before.` : "";
  return make(
    "div",
    { class: "notice bad" },
    make("p", {}, make("strong", {}, problem.title)),
    make("p", {}, ...coded(sentence(problem.message)), wait),
    problem.requestId ? make("p", { class: "hint" }, `Request ${problem.requestId}`) : "",
    problem.passes ? button : "",
  );
}

function showSending(active) {
  byId("sending").hidden = !active;
  byId("cancel").hidden = !active;
  // Not `disabled`, which would take the focus away from who works by keyboard.
  byId("send").setAttribute("aria-disabled", String(active));
  byId("answer").setAttribute("aria-busy", String(active));
  if (active) {
    byId("status").textContent = "Sending.";
    showSent(0);
  }
}

function showSent(share) {
  const all = share >= 1;
  byId("sending-words").textContent = all ? "The model looks at it" : "Uploading";
  if (all) byId("sent").removeAttribute("value");
  else byId("sent").value = share;
}

// Another clip: what was found in the last one no longer fits, nor would an answer that is on its way.
function forget() {
  page.underway?.abort();
  page.wantsAnswer = false;
  timeline.clear();
  byId("findings").replaceChildren(make("p", { class: "hint" }, "It appears here."));
  byId("status").textContent = "";
}
