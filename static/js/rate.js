// How fast something goes and how long it still takes, by what was told of it in the last seconds.
import { count, duration, filesize } from "./format.js";

const SPAN_MS = 8000, LEAST_MS = 900;

export class Rate {
  constructor() { this.told = []; }

  add(done, now = performance.now()) {
    if (this.told.length && done < this.told[this.told.length - 1][1]) this.told = []; // it began anew
    this.told.push([now, done]);
    while (this.told.length > 2 && now - this.told[0][0] > SPAN_MS) this.told.shift();
    return this;
  }

  // In units a second; null where too little is known.
  perSecond() {
    if (this.told.length < 2) return null;
    const [then, before] = this.told[0], [now, done] = this.told[this.told.length - 1];
    return now - then >= LEAST_MS && done > before ? (1000 * (done - before)) / (now - then) : null;
  }

  // "12 s left"; nothing where too little is known.
  left(total) {
    const speed = this.perSecond(), done = this.told[this.told.length - 1]?.[1];
    return speed !== null && total && total > done ? `${duration((total - done) / speed)} left` : "";
  }

  // "3.2 MB/s · 12 s left"
  words(unit, total) {
    const speed = this.perSecond();
    if (speed === null) return "";
    const pace = unit === "bytes" ? `${filesize(speed)}/s` : speed >= 1 ? `${count(speed)} ${unit}/s` : "";
    return [pace, this.left(total)].filter(Boolean).join(" · ");
  }
}
