// Where values lie on an axis, and what is written there: numbers, on a logarithmic scale where they are far apart, words
// and booleans at places of their own.
import { escaped } from "./curve-chart.js";

const FAR_APART = 50;

// As controlplane/pages/numbers.py writes them: 0.0002, 1e-5.
function plain(value, digits) {
  const found = Number(value.toPrecision(digits));
  return found !== 0 && Math.abs(found) < 1e-4 ? found.toExponential() : String(found);
}

export const text = (value, digits = 4) => (typeof value === "number" ? plain(value, digits) : shown(String(value)));

// What somebody has written, as Plotly draws it: its own little markup taken for what it is, and not too long.
export function shown(words, longest = 60) {
  const cut = words.length > longest ? `${words.slice(0, longest - 1)}…` : words;
  return escaped(cut);
}

function isLog(dimension) {
  if (dimension.log) return true;
  const numbers = (dimension.values || []).filter((value) => typeof value === "number" && value > 0);
  return numbers.length > 1 && numbers.length === dimension.values.length && Math.max(...numbers) / Math.min(...numbers) >= FAR_APART;
}

// Places with their values in as few digits as tell them apart.
function told(places, valueOf) {
  for (let digits = 2; digits < 7; digits += 1) {
    const words = places.map((place) => text(valueOf(place), digits));
    if (new Set(words).size === words.length) return places.map((place, index) => [place, words[index]]);
  }
  return places.map((place) => [place, text(valueOf(place), 7)]);
}

// `dimension` {values} or {low, high, log}. `from` turns a place into a value's words again.
export function scale(dimension) {
  const values = dimension.values;
  if (values && !values.every((value) => typeof value === "number")) {
    return { at: (value) => values.indexOf(value), from: (place) => text(values[Math.min(values.length - 1, Math.max(0, Math.round(place)))]), low: -0.4, high: values.length - 0.6, ticks: values.map((value, place) => [place, text(value)]) };
  }
  const ends = values ? [Math.min(...values), Math.max(...values)] : [dimension.low, dimension.high];
  const isFar = isLog(dimension), at = isFar ? Math.log10 : (value) => value;
  const from = (place) => text(isFar ? 10 ** place : place, 3);
  const [low, high] = ends.map(at);
  const room = (high - low || 1) * 0.06;
  const ticks = values ? values.map((value) => [at(value), text(value)]) : told([0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low)), (place) => (isFar ? 10 ** place : place));
  return { at, from, low: low - room, high: high + room, ticks };
}
