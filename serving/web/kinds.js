// The kinds of answers, brought to one form: labels with a value each, on a range, over time and by part.

import { number, percent } from "./words.js";

/**
 * One form for an answer of classes, of several labels or of values.
 *
 * labels: [{name, value, threshold, present}], in the model's order; value lies on `range`.
 * text(value): the value as a person says it. headline: the answer in a few words.
 * moments: [{startS, endS, values: {name: value}}].
 * without(part, label): what the value would be if a part of the clip were left out.
 */
export function readAnswer(answer) {
  const kind = answer.kind ?? "classes";
  const read = { classes: readClasses, multilabel: readLabels, values: readValues }[kind];
  const found = read(answer);
  const moments = answer.timeline.map((moment) => ({
    startS: moment.start_s,
    endS: moment.end_s,
    values: moment.probabilities ?? moment.values,
  }));
  return { kind, ...found, moments, parts: Object.keys(answer.contributions), warnings: answer.warnings };
}

function readClasses({ label, probabilities, contributions }) {
  const labels = Object.entries(probabilities).map(([name, value]) => ({ name, value, present: name === label }));
  return {
    labels,
    range: [0, 1],
    text: percent,
    headline: label,
    detail: percent(probabilities[label]),
    // A contribution is the fall of the logarithm of the label's probability.
    without: (part) => probabilities[label] * Math.exp(-contributions[part]),
  };
}

function readLabels({ labels: said, contributions }) {
  const labels = Object.entries(said).map(([name, { probability, threshold, present }]) => ({
    name,
    value: probability,
    threshold,
    present,
  }));
  const there = labels.filter((label) => label.present).sort((one, other) => other.value - one.value);
  return {
    labels,
    range: [0, 1],
    text: percent,
    headline: there.length ? there.map((label) => label.name).join(", ") : "none of the labels",
    detail: there.map((label) => percent(label.value)).join(", "),
    // A contribution is the fall of the label's log-odds.
    without: (part, label) => {
      const kept = Math.min(Math.max(said[label].probability, 1e-12), 1 - 1e-12);
      return 1 / (1 + Math.exp(contributions[part][label] - Math.log(kept / (1 - kept))));
    },
  };
}

function readValues({ values, scale, contributions }) {
  const labels = Object.entries(values).map(([name, value]) => ({ name, value, present: true }));
  return {
    labels,
    range: scale,
    text: (value) => number(value, 2),
    headline: labels.map(({ name, value }) => `${name} ${number(value, 1)}`).join(", "),
    detail: `from ${scale[0]} to ${scale[1]}`,
    without: (part, label) => values[label] - contributions[part][label],
  };
}
