// The clip to judge: recorded, chosen or dropped, and played back.

import { byId, make } from "./elements.js";
import { size } from "./endpoint.js";
import { cannotRecord, startRecording } from "./recorder.js";

const SOUND_NAMES = /\.(wav|flac|mp3|ogg|oga|opus|m4a|aac|aiff?|au|amr|caf|w64)$/i;
// Far behind any recording's end: a browser that seeks there finds out how long it is.
const FAR_S = 1e7;

export class Clip {
  /** `onChange` is called when there is another clip or none; `onProblem` gets words for the person. */
  constructor({ onChange, onProblem }) {
    Object.assign(this, { onChange, onProblem, maxRecordedS: 30, blob: null, player: null });
    this.recording = this.recorded = null;
    this.isStarting = false;
    const reason = cannotRecord();
    for (const modality of ["video", "audio"]) {
      const button = byId(`record-${modality}`);
      button.disabled = Boolean(reason);
      button.addEventListener("click", () => {
        // A second click while the browser asks for permission must not start a second recording.
        if (!this.isStarting && !this.recording) this.recorded = this.record(modality);
      });
    }
    byId("record-note").hidden = !reason;
    byId("record-note").textContent = reason;
    byId("stop").addEventListener("click", () => this.recording?.stop());
    byId("remove").addEventListener("click", () => {
      this.clear();
      byId("file").focus();
    });
    byId("file").addEventListener("change", ({ target }) => {
      if (target.files.length) this.take(target.files[0], target.files[0].name);
    });
    this.acceptDrops();
  }

  acceptDrops() {
    const zone = byId("drop");
    const holds = (event) => event.dataTransfer?.types.includes("Files");
    // A file that misses the zone must not replace the page.
    for (const name of ["dragover", "drop"]) {
      window.addEventListener(name, (event) => holds(event) && event.preventDefault());
    }
    window.addEventListener("dragover", () => zone.classList.add("over"));
    window.addEventListener("dragleave", (event) => event.relatedTarget || zone.classList.remove("over"));
    window.addEventListener("drop", (event) => {
      zone.classList.remove("over");
      const [file] = event.dataTransfer?.files ?? [];
      if (file && !this.recording) this.take(file, file.name);
    });
  }

  /** Record until the person stops it, or until it is as long as the model looks at. */
  async record(modality) {
    this.onProblem("");
    this.clear();
    this.showStarting(modality === "video" ? "camera and microphone" : "microphone");
    try {
      this.recording = await startRecording(modality);
    } catch (error) {
      this.onProblem(error.message);
      return;
    } finally {
      this.showStarting("");
    }
    const { stream, finished, stop } = this.recording;
    const preview = byId("preview");
    preview.hidden = modality === "audio";
    preview.srcObject = modality === "video" ? stream : null;
    this.showRecording(true);
    byId("stop").focus();
    const startMs = performance.now();
    const timer = setInterval(() => {
      const seconds = (performance.now() - startMs) / 1000;
      byId("recorded-s").textContent = Math.min(seconds, this.maxRecordedS).toFixed(1);
      byId("recorded-share").value = seconds / this.maxRecordedS;
      if (seconds >= this.maxRecordedS) stop();
    }, 100);
    const blob = await finished;
    clearInterval(timer);
    preview.srcObject = null;
    this.recording = null;
    this.showRecording(false);
    if (!blob.size) {
      this.onProblem("Nothing was recorded: try again and wait a moment before you stop.");
      return;
    }
    await this.take(blob, modality === "video" ? "Your recording" : "Your recording of sound", modality);
    byId("send").focus();
  }

  /** End a recording that runs, and wait until the clip is there as it is to be judged. */
  async finish() {
    if (this.recording) {
      this.recording.stop();
      await this.recorded;
    }
    await this.ready;
  }

  showStarting(devices) {
    this.isStarting = Boolean(devices);
    byId("record-note").hidden = !devices;
    byId("record-note").textContent = `Starting the ${devices}. Allow it if the browser asks.`;
  }

  showRecording(active) {
    byId("recording").hidden = !active;
    byId("record-buttons").hidden = active;
    byId("drop").hidden = active;
  }

  /** Make a file or recording the clip to judge. */
  async take(blob, name, modality = modalityOf(blob, name)) {
    this.clear();
    Object.assign(this, { blob, name, modality, url: URL.createObjectURL(blob) });
    byId("clip-name").textContent = `${name}, ${size(blob.size)}`;
    byId("clip").hidden = false;
    byId("drop").classList.add("small");
    this.onChange();
    this.ready = this.play();
    await this.ready;
  }

  /** Show the player; what it finds out tells sound from picture where the type did not. */
  async play() {
    const { url } = this;
    const player = await loaded(url, this.modality);
    if (this.url !== url) return;
    if (player && this.modality === "video" && !player.videoWidth) {
      this.modality = "audio";
      await this.play();
      return;
    }
    this.player = player;
    byId("player-note").hidden = Boolean(player);
    if (player) byId("player").replaceChildren(player);
    else byId("player-note").textContent = "This browser cannot play this file; the endpoint may well read it.";
  }

  clear() {
    if (this.url) URL.revokeObjectURL(this.url);
    Object.assign(this, { blob: null, url: null, player: null, name: "", ready: null });
    byId("player").replaceChildren();
    byId("player-note").hidden = true;
    byId("clip").hidden = true;
    byId("drop").classList.remove("small");
    byId("file").value = "";
    this.onChange();
  }
}

function modalityOf({ type }, name) {
  if (type.startsWith("audio/")) return "audio";
  if (type.startsWith("video/")) return "video";
  return SOUND_NAMES.test(name) ? "audio" : "video";
}

// A player that has read the file's header, or null where the browser cannot.
function loaded(url, modality) {
  const player = make(modality, { controls: "", preload: "metadata", playsinline: "", "aria-label": "Your clip" });
  return new Promise((resolve) => {
    player.addEventListener("error", () => resolve(null), { once: true });
    player.addEventListener("loadedmetadata", () => knowEnd(player, () => resolve(player)), { once: true });
    player.src = url;
  });
}

// Recordings of a browser do not say how long they are, and cannot be sought in before that is known.
function knowEnd(player, then) {
  if (player.duration !== Infinity) {
    then();
    return;
  }
  const check = () => {
    if (player.duration === Infinity) return;
    player.removeEventListener("durationchange", check);
    player.currentTime = 0;
    then();
  };
  player.addEventListener("durationchange", check);
  player.currentTime = FAR_S;
}
