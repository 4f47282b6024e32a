// The timeline under the player: one curve a label, second by second. It follows playback, and seeks where it is asked.

import { draw, make } from "./elements.js";

const TICKS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300];
const MOST_TICKS = 6;
const LEAP_S = 5;
// Of a curve's height: what is nearly nothing is still seen.
const LEAST = 0.05;

export class Timeline {
  /** An empty timeline in `root`. */
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    this.stopFollowing?.();
    this.stopFollowing = null;
    this.found = null;
    this.root.hidden = true;
    this.root.replaceChildren();
  }

  /** Show an answer's moments beside what `player` plays; a player that cannot play the clip may be null. */
  show(found, player) {
    this.clear();
    if (!found.moments.length) return;
    Object.assign(this, { found, player, atS: 0, endS: found.moments.at(-1).endS });
    this.head = make("span", { class: "playhead" });
    this.slider = make(
      "div",
      {
        ...{ class: "plots", role: "slider", tabindex: "0", "aria-label": "Place in the clip, in seconds" },
        ...{ "aria-valuemin": "0", "aria-valuemax": this.endS.toFixed(1), "aria-describedby": "timeline-note" },
      },
      found.labels.map((label, number) => this.curve(label, number)),
      this.head,
    );
    this.readout = make("p", { class: "readout" });
    const names = found.labels.map((label, number) => make("span", { class: `name tone-${number % 8}` }, label.name));
    this.root.append(
      make("h3", {}, "Second by second"),
      make("div", { class: "timeline" }, make("div", { class: "names", "aria-hidden": "true" }, names), this.slider, this.axis()),
      this.readout,
      make("p", { class: "hint", id: "timeline-note" }, "Click, or use the arrow keys, to go to a second; the space bar plays."),
      this.table(),
    );
    this.root.hidden = false;
    this.listen();
    this.move(player?.currentTime ?? 0);
  }

  curve(label, number) {
    const [low, high] = this.found.range;
    const fall = (value) => 1 - Math.min(Math.max((value - low) / (high - low), 0), 1);
    // Values may lie on both sides of the scale's middle; a probability grows from nothing.
    const ground = this.found.kind === "values" ? 0.5 : 1;
    const steps = this.found.moments.map(({ startS, endS, values }) => {
      const top = fall(values[label.name]);
      const height = Math.max(Math.abs(top - ground), LEAST);
      return draw("rect", { x: startS, width: endS - startS, y: Math.min(top, ground - LEAST), height });
    });
    const line = draw("line", { x1: 0, x2: this.endS, y1: ground, y2: ground });
    return draw(
      "svg",
      { class: `tone-${number % 8}`, viewBox: `0 0 ${this.endS} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
      line,
      steps,
    );
  }

  axis() {
    const step = TICKS_S.find((seconds) => this.endS / seconds <= MOST_TICKS) ?? 600;
    const axis = make("div", { class: "axis", "aria-hidden": "true" });
    for (let second = 0; second <= this.endS; second += step) {
      const tick = make("span", {}, `${second} s`);
      tick.style.insetInlineStart = `${(100 * second) / this.endS}%`;
      axis.append(tick);
    }
    return axis;
  }

  table() {
    const { labels, moments, text } = this.found;
    const rows = moments.map((moment) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, span(moment)),
        labels.map(({ name }) => make("td", { class: "number" }, text(moment.values[name]))),
      ),
    );
    const head = labels.map(({ name }) => make("th", { scope: "col" }, name));
    return make(
      "details",
      {},
      make("summary", {}, "The same as a table"),
      make(
        "div",
        { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Second by second, as a table" },
        make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Seconds"), head)), make("tbody", {}, rows)),
      ),
    );
  }

  listen() {
    this.slider.addEventListener("pointerdown", (event) => {
      this.slider.setPointerCapture(event.pointerId);
      this.seekTo(event);
    });
    this.slider.addEventListener("pointermove", (event) => {
      if (this.slider.hasPointerCapture(event.pointerId)) this.seekTo(event);
    });
    this.slider.addEventListener("keydown", (event) => this.press(event));
    if (!this.player) return;
    let frame = 0;
    const follow = () => {
      this.move(this.player.currentTime);
      frame = this.player.paused ? 0 : requestAnimationFrame(follow);
    };
    const start = () => {
      frame ||= requestAnimationFrame(follow);
    };
    const events = ["play", "seeking", "timeupdate"];
    for (const name of events) this.player.addEventListener(name, start);
    const { player } = this;
    this.stopFollowing = () => {
      cancelAnimationFrame(frame);
      for (const name of events) player.removeEventListener(name, start);
    };
  }

  press(event) {
    const places = {
      ...{ ArrowLeft: this.atS - 1, ArrowDown: this.atS - 1, ArrowRight: this.atS + 1, ArrowUp: this.atS + 1 },
      ...{ PageDown: this.atS - LEAP_S, PageUp: this.atS + LEAP_S, Home: 0, End: this.endS },
    };
    if (event.key in places) this.seek(places[event.key]);
    else if (event.key === " " && this.player) {
      if (this.player.paused) this.player.play();
      else this.player.pause();
    } else return;
    event.preventDefault();
  }

  seekTo(event) {
    const box = this.slider.getBoundingClientRect();
    this.seek(((event.clientX - box.left) / box.width) * this.endS);
  }

  seek(seconds) {
    const place = Math.min(Math.max(seconds, 0), this.endS);
    if (this.player) this.player.currentTime = place;
    this.move(place);
  }

  move(seconds) {
    this.atS = Math.min(seconds, this.endS);
    this.head.style.insetInlineStart = `${(100 * this.atS) / this.endS}%`;
    const { moments, labels, text } = this.found;
    const moment = moments.find(({ endS }) => this.atS < endS) ?? moments.at(-1);
    const order = this.found.kind === "values" ? labels : labels.toSorted((one, other) => moment.values[other.name] - moment.values[one.name]);
    const told = order.map(({ name }) => `${name} ${text(moment.values[name])}`);
    const words = `${span(moment)} s: ${told.join(", ")}`;
    if (this.readout.textContent !== words) {
      this.readout.textContent = words;
      this.slider.setAttribute("aria-valuetext", `${span(moment)} seconds: ${told.slice(0, 3).join(", ")}`);
    }
    this.slider.setAttribute("aria-valuenow", this.atS.toFixed(1));
  }
}

function span({ startS, endS }) {
  return `${startS.toFixed(0)} to ${Number.isInteger(endS) ? endS : endS.toFixed(1)}`;
}
