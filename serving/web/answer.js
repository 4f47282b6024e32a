// The answer, drawn: what the model says, how sure it is, what each part of the clip said, and what to beware of.

import { make } from "./elements.js";
import { PARTS, listed, percent, signed, warning } from "./words.js";

// Below this change of a share, or of a value's range, a part made no difference worth a sentence.
const SLIGHT = 0.01;

/** Draw an answer into `root`. */
export function showAnswer(root, answer, found, card) {
  root.replaceChildren(
    make("p", { class: "headline" }, make("strong", {}, found.headline), " ", make("span", {}, found.detail)),
    warnings(found, card),
    bars(found),
    found.kind === "classes" ? sentences(found) : changes(found),
    particulars(answer),
  );
}

/** The answer in one sentence, for who hears the page. */
export function toldAnswer(found, card) {
  const beware = found.warnings.map((code) => warning(code, card)).join(" ");
  return `The answer: ${found.headline} ${found.detail}. ${beware}`.trim();
}

function warnings(found, card) {
  if (!found.warnings.length) return "";
  const items = found.warnings.map((code) => make("li", {}, warning(code, card)));
  return make("ul", { class: "notice caution warnings", "aria-label": "Warnings" }, items);
}

function bars(found) {
  const [low, high] = found.range;
  const share = (value) => Math.min(Math.max((value - low) / (high - low), 0), 1);
  const rows = found.labels.map((label, number) => ({ label, number }));
  if (found.kind !== "values") rows.sort((one, other) => other.label.value - one.label.value);
  return make(
    "table",
    { class: `bars ${found.kind}` },
    make("caption", {}, CAPTIONS[found.kind](found)),
    make(
      "tbody",
      {},
      rows.map(({ label, number }) => {
        const bar = make("span", { class: `bar tone-${number % 8}` });
        bar.style.inlineSize = `${100 * share(label.value)}%`;
        const track = make("span", { class: "track" }, bar);
        if (label.threshold !== undefined) {
          const mark = make("span", { class: "mark" });
          mark.style.insetInlineStart = `${100 * share(label.threshold)}%`;
          track.append(mark);
        }
        const says = found.kind === "multilabel" ? make("span", { class: "says" }, label.present ? "there" : "not there") : "";
        return make(
          "tr",
          { class: label.present ? "present" : null },
          make("th", { scope: "row" }, label.name),
          make("td", { "aria-hidden": "true" }, track),
          make("td", { class: "number" }, found.text(label.value), says ? " " : "", says),
        );
      }),
    ),
  );
}

const CAPTIONS = {
  classes: () => "How likely the model holds each label; together they make 100 %.",
  multilabel: () => "How likely the model holds each label, on its own. Past its mark a label counts as there.",
  values: ({ range: [low, high] }) => `Each value on the model's scale from ${low} to ${high}.`,
};

function sentences(found) {
  const { name, value } = found.labels.find((label) => label.present);
  const alone = found.parts.length === 1;
  const items = Object.entries(PARTS).map(([part, title]) => {
    if (!found.parts.includes(part)) return make("li", { class: "absent" }, make("strong", {}, title), ": nothing to judge.");
    const without = found.without(part);
    const change = value - without;
    const [verdict, remark] = alone
      ? ["spoke alone.", `By a blind guess, ${name} would be at ${percent(without)} instead of ${percent(value)}.`]
      : Math.abs(change) < SLIGHT
        ? ["made hardly any difference.", ""]
        : [
            change > 0 ? `spoke for ${name}.` : `spoke against ${name}.`,
            `Without it, ${name} would be at ${percent(without)} instead of ${percent(value)}.`,
          ];
    return make("li", {}, make("strong", {}, title), ` ${verdict} `, remark, arrow(without, value));
  });
  return make("section", { class: "parts" }, make("h3", {}, "What each part said"), make("ul", {}, items));
}

// From what the label's share would be without the part to what it is with it.
function arrow(without, value) {
  const span = make("span", { class: value >= without ? "change up" : "change down" });
  span.style.insetInlineStart = `${100 * Math.min(without, value)}%`;
  span.style.inlineSize = `${100 * Math.abs(value - without)}%`;
  return make("span", { class: "track thin", "aria-hidden": "true" }, span);
}

function changes(found) {
  const points = found.kind === "multilabel";
  const alone = found.parts.length === 1;
  const compared = alone ? (points ? "even odds" : "the middle of the scale") : "leaving it out";
  const told = points ? "probability, in percentage points," : "value";
  const [low, high] = found.range;
  const head = found.parts.map((part) => make("th", { scope: "col" }, PARTS[part]));
  const rows = found.labels.map((label) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, label.name),
      found.parts.map((part) => {
        const change = label.value - found.without(part, label.name);
        const says = Math.abs(change) < SLIGHT * (high - low) ? "slight" : change > 0 ? "up" : "down";
        return make("td", { class: `number ${says}` }, signed(points ? 100 * change : change, points ? 0 : 2));
      }),
    ),
  );
  const absent = Object.keys(PARTS).filter((part) => !found.parts.includes(part));
  return make(
    "section",
    { class: "parts" },
    make("h3", {}, "What each part said"),
    make(
      "table",
      { class: "changes" },
      make("caption", {}, `By how much each part raised (+) or lowered (\u2212) each ${told} compared with ${compared}.`),
      make("thead", {}, make("tr", {}, make("td", {}), head)),
      make("tbody", {}, rows),
    ),
    absent.length
      ? make("p", { class: "hint" }, `Nothing to judge: ${listed(absent.map((part) => PARTS[part]))}.`)
      : "",
  );
}

function particulars(answer) {
  const { system, version, release } = answer.model;
  return make(
    "details",
    {},
    make("summary", {}, "The answer as JSON"),
    make("p", {}, `Answered by ${system} ${version}, release ${release}; request ${answer.request_id}.`),
    make("pre", { tabindex: "0", "aria-label": "The answer as JSON" }, JSON.stringify(answer, null, 2)),
  );
}
