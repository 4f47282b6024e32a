// The model's card: what is served, what it takes, and where it comes from.

import { make } from "./elements.js";
import { size } from "./endpoint.js";
import { readMarkdown } from "./markdown.js";
import { PARTS, listed } from "./words.js";

/** Draw what `GET /v1/model` says into `root`, and below it the bundle's own card, which is Markdown. */
export function showCard(root, card, written) {
  root.replaceChildren(
    card.refused ? make("p", { class: "notice bad" }, `A newer model could not be loaded: ${card.refused}`) : "",
    make(
      "dl",
      {},
      row("Name", `${card.system}, version ${card.version}, ${card.release ? `release ${card.release}` : "outside of the release log"}`),
      row(...answers(card)),
      row("Looks at", listed(card.modalities.map((part) => PARTS[part].toLowerCase()))),
      row("Takes", limits(card.limits)),
      origin(card.provenance),
    ),
    make(
      "details",
      { class: "written", open: "" },
      make("summary", {}, "Its card: figures, intended use and limits"),
      readMarkdown(written, 3),
    ),
  );
}

function row(name, ...said) {
  return [make("dt", {}, name), make("dd", {}, ...said)];
}

function answers({ labels, task }) {
  if (!task) return ["Names one of", labels.join(", ")];
  const source = task.source ? ` (${task.source})` : "";
  if (task.kind === "multilabel") return ["Says of each", `${labels.join(", ")}${source}`];
  return ["Rates", `${labels.join(", ")}, from ${task.scale[0]} to ${task.scale[1]}${source}`];
}

function limits({ max_bytes, max_duration_s, max_analysed_s, max_characters }) {
  return (
    `recordings up to ${size(max_bytes)} and ${max_duration_s} s, of which it looks at the first ${max_analysed_s} s; ` +
    `up to ${max_characters.toLocaleString("en")} characters`
  );
}

function origin({ recipe, dataset, pretrained_on, seed, synthetic }) {
  if (!dataset) return [];
  const before = pretrained_on ? `pre-trained on ${pretrained_on} without labels, then fine-tuned on` : "trained on";
  const drawn = synthetic ? ", which is synthetic: drawn faces and synthesized voices" : "";
  return row("Made by", `recipe ${recipe}: ${before} ${dataset}${drawn}; seed ${seed}`);
}
