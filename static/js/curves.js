// The points of a run as the page holds them: a key's are read once through the API when somebody looks at it, then fed
// by the socket. A step comes once. What is known of keys that nobody looks at is in `metrics`.
import { number } from "./format.js";
import { send } from "./csrf.js";

export const MAX_POINTS = 2000;
const KEYS_AT_ONCE = 12;
const TOO_MANY_POINTS = 4 * MAX_POINTS;
const NOTHING = { step: [], value: [], raw: [], time: [], count: 0 };

function rowsOf(series) {
  return { step: series.step, value: series.value.map(number), raw: series.value, time: series.time, count: series.count };
}

function put(series, found) {
  for (const [key, rows] of Object.entries(found)) series.set(key, rowsOf(rows));
}

export class Curves {
  constructor(api) {
    this.api = api;
    this.clear();
  }

  clear() {
    this.series = new Map();
    this.metrics = new Map();
    this.coming = new Map();
    this.resumed = [];
    this.start = null;
  }

  // Which keys there are, and what is known of them.
  async outline() {
    return (await send(`${this.api}/metrics/keys`)).json();
  }

  takeOutline({ keys, resumed, started }) {
    this.metrics = new Map(keys.map((metric) => [metric.key, metric]));
    this.resumed = resumed;
    this.start = started;
  }

  async ask(keys, span = {}) {
    const query = new URLSearchParams([...keys.map((key) => ["keys", key]), ["max_points", MAX_POINTS], ...Object.entries(span)]);
    return (await (await send(`${this.api}/metrics?${query}`)).json()).series;
  }

  // Takes series that came with the page.
  take(found) {
    put(this.series, found);
  }

  // Reads the keys. What the socket brings of them meanwhile is held and goes behind.
  async load(keys) {
    const others = keys.map((key) => this.coming.get(key)?.done).filter(Boolean);
    const wanted = keys.filter((key) => !this.coming.has(key)), held = new Map(wanted.map((key) => [key, []]));
    const done = this.read(wanted, held);
    for (const [key, points] of held) this.coming.set(key, { points, done });
    await Promise.all([done, ...others]);
  }

  async read(wanted, held) {
    const { series } = this; // another one, once everything is read anew
    try {
      for (let first = 0; first < wanted.length; first += KEYS_AT_ONCE) {
        const found = await this.ask(wanted.slice(first, first + KEYS_AT_ONCE));
        put(series, found);
      }
    } finally {
      for (const [key, points] of held) if (this.coming.get(key)?.points === points) this.coming.delete(key);
    }
    if (series === this.series) for (const [key, points] of held) this.append(key, points);
  }

  // The points of a key between two steps, as fine as they may be; nothing of it is kept.
  async detail(key, from, to) {
    const found = await this.ask([key], { from_step: from, to_step: to });
    return found[key] ? rowsOf(found[key]) : NOTHING;
  }

  has(key) {
    return this.series.has(key);
  }

  get(key) {
    return this.series.get(key) || NOTHING;
  }

  // Takes [[step, value, time]] of a key as they were announced; returns how many of them are new to its rows.
  add(key, points) {
    this.note(key, points);
    if (this.coming.has(key)) { this.coming.get(key).points.push(...points); return 0; }
    return this.append(key, points);
  }

  append(key, points) {
    const known = this.series.has(key) || (points.length && this.metrics.get(key)?.count === points.length);
    if (!known) return 0;
    if (!this.series.has(key)) this.series.set(key, { ...structuredClone(NOTHING) });
    const rows = this.series.get(key);
    let fresh = 0;
    for (const [step, raw, time] of points) {
      if (rows.step.length && step <= rows.step.at(-1)) continue;
      rows.step.push(step); rows.value.push(number(raw)); rows.raw.push(raw); rows.time.push(time);
      rows.count += 1;
      fresh += 1;
    }
    return fresh;
  }

  note(key, points) {
    const known = this.metrics.get(key) || { key, count: 0, broken: 0, first_step: points[0][0], last_step: -Infinity, last: null, min: null, max: null };
    this.metrics.set(key, known);
    for (const [step, raw, time] of points) {
      if (step <= known.last_step) continue;
      const value = number(raw);
      known.count += 1;
      known.last_step = step;
      known.last = raw;
      this.start ??= time;
      if (value === null) { known.broken += 1; continue; }
      known.min = Math.min(known.min ?? value, value);
      known.max = Math.max(known.max ?? value, value);
    }
  }

  hasGrownTooLong(key) {
    return this.get(key).step.length > TOO_MANY_POINTS;
  }
}

// An exponential moving average without the pull towards its beginning; what is no number is passed over.
export function smoothed(values, weight = 0.9) {
  let last = null, norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    last = (last ?? 0) * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return last / norm;
  });
}
