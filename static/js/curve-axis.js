// What all curves of a run are drawn along: steps, minutes since the first point, or tokens seen.

export const TOKENS = "tokens";
const TITLES = { step: "step", time: "minutes since the start", tokens: "tokens seen" };
const HOVERS = { step: "step %{x:,d}", time: "%{x:,.2f} min", tokens: "%{x:,.4s} tokens" };

// The place of the first element that is not before `value`.
export function placeOf(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

export class Axis {
  constructor(curves) {
    this.curves = curves;
    this.kind = "step";
    this.total = null;
  }

  get title() { return TITLES[this.kind]; }
  get hover() { return HOVERS[this.kind]; }

  // Where each of the rows lies. A clock that was set back stands still until it has caught up.
  of(rows) {
    if (this.kind === "step") return rows.step.slice();
    if (this.kind === TOKENS) return rows.step.map((step) => this.tokens(step));
    let latest = -Infinity;
    return rows.time.map((time) => { latest = Math.max(latest, (time - this.curves.start) / 60); return latest; });
  }

  // Tokens seen at a step, between the steps at which they were told.
  tokens(step) {
    const { step: steps, value } = this.curves.get(TOKENS);
    const place = placeOf(steps, step);
    if (place >= steps.length) return value.at(-1) ?? null;
    if (steps[place] === step || value[place] === null) return value[place];
    const [before, seen] = place ? [steps[place - 1], value[place - 1]] : [0, 0];
    return seen + ((value[place] - seen) * (step - before)) / (steps[place] - before);
  }

  // Where a step lies, by the rows of a curve; null where they don't reach so far.
  at(step, rows) {
    if (this.kind === "step") return step;
    if (this.kind === TOKENS) return this.tokens(step);
    const place = placeOf(rows.step, step);
    return place < rows.step.length ? this.of(rows)[place] : null;
  }

  // Whether rows reach over a part of the axis.
  covers(rows, [from, to]) {
    const places = this.of(rows);
    return places[0] <= from && places.at(-1) >= to;
  }

  // The steps between which a part of the axis lies, one point wider on each side, so that lines go on to the edges.
  steps(rows, [from, to]) {
    const places = this.of(rows), last = rows.step.length - 1;
    const begin = Math.max(0, placeOf(places, from) - 1), end = Math.min(last, placeOf(places, to));
    return [rows.step[begin], rows.step[end]];
  }
}
