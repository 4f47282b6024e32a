// The endpoint over HTTP: questions out, answers or problems in. It knows nothing of the page.

const KEY_NAME = "affect-api-key";
const MEBIBYTE = 1024 * 1024;

/** Why there is no answer, in words for a person: an RFC 9457 problem, or what the browser could not do. */
export class Problem extends Error {
  constructor(title, detail, { status = 0, requestId = "", retryAfterS = null } = {}) {
    super(detail);
    Object.assign(this, { title, detail, status, requestId, retryAfterS });
  }

  /** Whether the same question may be answered a little later. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status === 503;
  }
}

let keptKey = readKey();

function readKey() {
  try {
    return sessionStorage.getItem(KEY_NAME) ?? "";
  } catch {
    return ""; // storage is switched off: the key lives as long as the page
  }
}

/** Send this key from now on, until the tab is closed; an empty one forgets it. */
export function setKey(value) {
  keptKey = value;
  try {
    if (value) sessionStorage.setItem(KEY_NAME, value);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // As above.
  }
}

/** What `GET /v1/model` says, and the bundle's own card in Markdown. */
export async function askModel() {
  const [card, written] = await Promise.all([send("GET", "v1/model"), send("GET", "v1/model/card")]);
  return { card: JSON.parse(card), written };
}

/** Judge a clip and words; `onUpload` gets the share that is sent, 1 when the endpoint has it all. */
export async function askEmotion({ clip, modality, name, words }, { onUpload, signal }) {
  const form = new FormData();
  if (clip) form.append(modality, clip, name);
  if (words) form.append("text", words);
  return JSON.parse(await send("POST", "v1/emotion", { body: form, onUpload, signal }));
}

/** A size as a person says it. */
export function size(bytes) {
  if (bytes < MEBIBYTE / 10) return `${Math.ceil(bytes / 1024)} KB`;
  return `${(bytes / MEBIBYTE).toFixed(1).replace(/\.0$/, "")} MB`;
}

// XMLHttpRequest, for `fetch` does not tell how much of a request is sent.
function send(method, path, { body = null, onUpload = null, signal = null } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, new URL(path, document.baseURI));
    if (keptKey) request.setRequestHeader("Authorization", `Bearer ${keptKey}`);
    if (onUpload) {
      request.upload.addEventListener("progress", (event) => onUpload(event.total ? event.loaded / event.total : 0));
      request.upload.addEventListener("load", () => onUpload(1));
    }
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(request.responseText);
      else reject(problemOf(request));
    });
    request.addEventListener("error", () => reject(noAnswer()));
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

function noAnswer() {
  return new Problem(
    "The endpoint does not answer",
    "It is not running, or the connection was cut while sending: check it (`affect status`) and try again.",
  );
}

function problemOf(request) {
  const retryAfterS = Number(request.getResponseHeader("Retry-After") ?? NaN);
  const about = { status: request.status, retryAfterS: Number.isFinite(retryAfterS) ? retryAfterS : null };
  if ((request.getResponseHeader("Content-Type") ?? "").startsWith("application/problem+json")) {
    const said = JSON.parse(request.responseText);
    return new Problem(said.title, said.detail, { ...about, requestId: said.instance?.split(":").pop() });
  }
  return new Problem(
    `The server in front of the endpoint answered ${request.status}`,
    "The endpoint itself said nothing: it may be starting or overloaded; wait a little and try again.",
    about,
  );
}
