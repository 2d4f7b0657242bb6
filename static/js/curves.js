// The points of a run as the page holds them: read once through the API, then fed by the socket. A step comes once.
import { number } from "./format.js";
import { send } from "./csrf.js";

const MAX_POINTS = 2000;
export const TOO_MANY_POINTS = 8000;

export class Curves {
  constructor(api) {
    this.api = api;
    this.series = new Map();
    this.lastStep = 0;
  }

  // What the server has now; `replace` takes it, once the caller still wants it.
  async load() {
    return (await send(`${this.api}/metrics?max_points=${MAX_POINTS}`)).json();
  }

  replace(answer) {
    this.series = new Map();
    for (const [key, rows] of Object.entries(answer.series)) {
      this.series.set(key, { step: [...rows.step], value: rows.value.map(number), raw: [...rows.value], time: [...rows.time] });
    }
    this.lastStep = answer.last_step;
  }

  get(key) {
    return this.series.get(key) || { step: [], value: [], raw: [], time: [] };
  }

  // Takes [[step, value, time]] of a key; returns those that are new.
  add(key, points) {
    if (!this.series.has(key)) this.series.set(key, { step: [], value: [], raw: [], time: [] });
    const rows = this.series.get(key);
    const fresh = [];
    for (const [step, raw, time] of points) {
      if (rows.step.length && step <= rows.step[rows.step.length - 1]) continue;
      const value = number(raw);
      rows.step.push(step); rows.value.push(value); rows.raw.push(raw); rows.time.push(time);
      fresh.push({ step, value, time });
      this.lastStep = Math.max(this.lastStep, step);
    }
    return fresh;
  }

  get start() {
    let first = Infinity;
    for (const rows of this.series.values()) if (rows.time.length) first = Math.min(first, rows.time[0]);
    return Number.isFinite(first) ? first : 0;
  }

  csv() {
    const lines = ["key,step,value,time"];
    for (const [key, rows] of this.series) {
      rows.step.forEach((step, index) => lines.push(`${key},${step},${rows.raw[index]},${rows.time[index]}`));
    }
    return lines.join("\n") + "\n";
  }
}

export function smoothed(values, weight = 0.9) {
  let last = null, norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    last = (last ?? 0) * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return last / norm;
  });
}
