// The Markdown of a model's card, as elements: headings, paragraphs, lists, tables, quotes, code and bold.

import { make } from "./elements.js";

const BLOCK = /^(#{1,4} |> |- |\|)/;

/** Elements for a text whose highest heading becomes one of `level`. */
export function readMarkdown(text, level) {
  return blocks(text.split("\n"), level);
}

function blocks(lines, level) {
  const made = [];
  while (lines.length) {
    const line = lines[0];
    const hashes = /^#+(?= )/.exec(line)?.[0].length;
    if (!line.trim()) lines.shift();
    else if (hashes) made.push(make(`h${Math.min(level + hashes - 1, 6)}`, {}, inline(lines.shift().slice(hashes + 1))));
    else if (line.startsWith("> ")) {
      const said = take(lines, (next) => next.startsWith(">")).map((next) => next.replace(/^> ?/, ""));
      made.push(make("blockquote", { class: "notice caution" }, blocks(said, level)));
    } else if (line.startsWith("|")) made.push(table(take(lines, (next) => next.startsWith("|"))));
    else if (line.startsWith("- ")) made.push(list(take(lines, (next) => /^(- | {2}\S)/.test(next))));
    else {
      const said = [lines.shift(), ...take(lines, (next) => next.trim() && !BLOCK.test(next))];
      made.push(make("p", {}, inline(said.join(" "))));
    }
  }
  return made;
}

// Removes the lines at the front that belong together, and returns them.
function take(lines, belongs) {
  const end = lines.findIndex((line) => !belongs(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function list(lines) {
  const items = [];
  for (const line of lines) {
    if (line.startsWith("- ")) items.push(line.slice(2));
    else items.push(`${items.pop()} ${line.trim()}`);
  }
  return make("ul", {}, items.map((item) => make("li", {}, inline(item))));
}

function table(lines) {
  const [head, , ...rows] = lines.map((line) => line.replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim()));
  const names = head.map((name) => make("th", { scope: "col" }, inline(name)));
  const drawn = rows.map(([first, ...others]) =>
    make("tr", {}, make("th", { scope: "row" }, inline(first)), others.map((cell) => make("td", {}, inline(cell)))),
  );
  return make(
    "div",
    { class: "scrolls", tabindex: "0", role: "region", "aria-label": `Table: ${head.join(", ")}` },
    make("table", {}, make("thead", {}, make("tr", {}, names)), make("tbody", {}, drawn)),
  );
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((piece) => {
    if (piece.length > 2 && piece.startsWith("`") && piece.endsWith("`")) return make("code", {}, piece.slice(1, -1));
    if (piece.length > 4 && piece.startsWith("**") && piece.endsWith("**")) return make("strong", {}, piece.slice(2, -2));
    return piece;
  });
}
