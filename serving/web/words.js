// What codes and numbers mean, in plain words.

export const PARTS = { audio: "Voice", video: "Face", text: "Words" };

const WARNINGS = {
  "no-face": () => "No face was found in the picture, so the picture did not count.",
  silence: () => "The recording is silent, or nearly so, and counts as one without sound. Check the microphone.",
  truncated: (card) =>
    "The recording or the words are longer than the model looks at: " +
    (card ? `only the first ${card.limits.max_analysed_s} s, and not all words, counted.` : "only the first part counted."),
  "no-features": () =>
    "This model reads something from sound or picture that is computed elsewhere and not here; that part did not count.",
};

/** A warning of an answer; a code that this page does not know stays as it is. */
export function warning(code, card) {
  return WARNINGS[code]?.(card) ?? `The endpoint warns: ${code}.`;
}

/** A probability as a person says it. */
export function percent(share) {
  // A space that does not break: "%" must not stand alone on a line.
  if (share > 0 && share < 0.01) return "under 1\u00a0%";
  if (share < 1 && share > 0.99) return "over 99\u00a0%";
  return `${Math.round(share * 100)}\u00a0%`;
}

/** A change with its sign, which a minus shows as wide as a plus. */
export function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return `${value < 0 ? "\u2212" : "+"}${text}`;
}

/** A number with a minus as wide as a plus. */
export function number(value, digits) {
  return value.toFixed(digits).replace("-", "\u2212");
}

/** What the endpoint says in one line, as a sentence: from "run `affect up`" to "Run `affect up`." */
export function sentence(line) {
  const whole = line.charAt(0).toUpperCase() + line.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** Names in a row: "a, b and c". */
export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
