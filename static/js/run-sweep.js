// One sweep of runs: a point a run against its number or one of its settings, and a line a run through all of them.
// Read through the API, anew for each change that is announced. Plotly's own kinds of such plots want eval: these are
// lines and points.
import { on } from "./live.js";
import { Plot, layout, palette } from "./chart.js";
import { figure } from "./format.js";
import { send } from "./csrf.js";

const WAIT_MS = 200;
const element = document.getElementById("chart-run-sweep");
const parallelElement = document.getElementById("chart-parallel");
const number = Number(element.dataset.sweep);
const plot = new Plot(element);
const parallelPlot = parallelElement ? new Plot(parallelElement) : null;
let shown = { trials: [], space: [], metric: "" }, against = "", timer = 0, reading = 0;

const titles = Object.fromEntries([...document.querySelectorAll("[data-against]")].map((button) => [button.dataset.against, button.textContent]));
const done = () => shown.trials.filter((trial) => trial.state === "done");
const short = (value) => String(Number(value.toPrecision(2)));
const text = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));

function say(words) {
  const place = document.getElementById("chart-state");
  place.textContent = words;
  place.hidden = !words;
}

function isLog(dimension) {
  if (dimension.log) return true;
  const numbers = (dimension.values || []).filter((value) => typeof value === "number" && value > 0);
  return numbers.length > 1 && numbers.length === dimension.values.length && Math.max(...numbers) / Math.min(...numbers) >= 50;
}

// Where a value lies on its axis, and what is written there. Words and booleans have places of their own.
function scale(dimension) {
  const values = dimension.values;
  if (values && !values.every((value) => typeof value === "number")) {
    return { at: (value) => values.indexOf(value), low: -0.4, high: values.length - 0.6, ticks: values.map((value, place) => [place, text(value)]) };
  }
  const ends = values ? [Math.min(...values), Math.max(...values)] : [dimension.low, dimension.high];
  const at = isLog(dimension) ? Math.log10 : (value) => value;
  const [low, high] = ends.map(at);
  const room = (high - low || 1) * 0.06;
  const ticks = values ? values.map((value) => [at(value), text(value)]) : [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low)).map((place) => [place, short(isLog(dimension) ? 10 ** place : place)]);
  return { at, low: low - room, high: high + room, ticks };
}

function hover(trial) {
  const settings = Object.entries(trial.params).map(([path, value]) => `${titles[path] || path} ${text(value)}`);
  return [`run ${trial.number}: ${shown.metric} ${figure(trial.value)}`, ...settings].join("<br>");
}

function points(colors, xOf) {
  const trials = done(), best = trials.filter((trial) => trial.is_best);
  const traces = [
    { type: "scatter", mode: "markers", x: best.map(xOf), y: best.map((trial) => trial.value), hoverinfo: "skip", cliponaxis: false, marker: { symbol: "circle", size: 18, color: colors.surface, line: { color: colors["series-2"], width: 2 } } },
    { type: "scatter", mode: "markers", x: trials.map(xOf), y: trials.map((trial) => trial.value), hovertext: trials.map(hover), hoverinfo: "text", cliponaxis: false, marker: { size: 9, color: colors["series-1"] } },
  ];
  if (against) return traces;
  let smallest = Infinity;
  const line = trials.map((trial) => (smallest = Math.min(smallest, trial.value)));
  return [{ type: "scatter", mode: "lines", x: trials.map(xOf), y: line, hoverinfo: "skip", line: { color: colors["series-1"], width: 1.4, shape: "hv" }, opacity: 0.55 }, ...traces];
}

async function drawPoints(colors) {
  const dimension = shown.space.find((item) => item.field === against);
  const axis = dimension ? scale(dimension) : null;
  const whole = layout(colors, { xTitle: axis ? titles[against] : "run", total: null, log: false, low: "normal" });
  whole.hovermode = "closest";
  whole.yaxis.title = { ...whole.yaxis.title, text: shown.metric };
  if (axis) Object.assign(whole.xaxis, { range: [axis.low, axis.high], autorange: false, tickvals: axis.ticks.map((tick) => tick[0]), ticktext: axis.ticks.map((tick) => tick[1]) });
  else Object.assign(whole.xaxis, { range: [0.5, Math.max(shown.max_trials || 1, shown.trials.length) + 0.5], autorange: false, tickformat: "d" });
  if (!done().length) Object.assign(whole.yaxis, { showticklabels: false, showgrid: false });
  await plot.draw(points(colors, (trial) => (axis ? axis.at(trial.params[against]) : trial.number)), whole);
}

// Each setting is an upright line; a run crosses it at its value's height. The last one is the metric.
async function drawParallel(colors) {
  const trials = [...done()].sort((one, other) => other.value - one.value);
  const values = trials.map((trial) => trial.value);
  const axes = shown.space.map((dimension) => ({ title: titles[dimension.field], ...scale(dimension), of: (trial) => trial.params[dimension.field] }));
  if (values.length) axes.push({ title: shown.metric, ...scale({ low: Math.min(...values), high: Math.max(...values) + 1e-12 }), of: (trial) => trial.value });
  const height = (axis, trial) => (axis.at(axis.of(trial)) - axis.low) / (axis.high - axis.low);
  const traces = trials.map((trial, place) => ({
    type: "scatter", mode: "lines+markers", x: axes.map((_axis, index) => index), y: axes.map((axis) => height(axis, trial)), hovertext: hover(trial), hoverinfo: "text",
    opacity: trial.is_best ? 1 : 0.25 + 0.5 * (place / Math.max(1, trials.length - 1)), line: { color: colors[trial.is_best ? "series-2" : "series-1"], width: trial.is_best ? 2.5 : 1.4 }, marker: { size: 5 },
  }));
  const isNarrow = parallelElement.clientWidth < 600;
  const whole = layout(colors, { xTitle: "", total: null, log: false });
  whole.hovermode = "closest";
  Object.assign(whole.xaxis, { range: [-0.3, axes.length - 0.5], autorange: false, tickvals: axes.map((_axis, index) => index), ticktext: axes.map((axis) => (isNarrow ? axis.title.replaceAll(" ", "<br>") : axis.title)), tickangle: 0, side: "top", showline: false });
  Object.assign(whole.yaxis, { range: [0, 1], autorange: false, visible: false });
  whole.margin = { ...whole.margin, t: isNarrow ? 60 : 30, b: 10, l: 12 };
  whole.shapes = axes.map((_axis, index) => ({ type: "line", x0: index, x1: index, y0: 0, y1: 1, line: { color: colors.line, width: 1 } }));
  whole.annotations = axes.flatMap((axis, index) => axis.ticks.map(([place, words]) => ({ x: index, y: (place - axis.low) / (axis.high - axis.low), text: words, showarrow: false, xanchor: "left", xshift: 6, font: { size: 11, color: colors.muted } })));
  await parallelPlot.draw(traces, whole);
}

async function draw() {
  const colors = palette();
  say(done().length ? "" : "The first point comes when a run is done.");
  document.getElementById("chart-title").textContent = against ? `${shown.metric} by ${titles[against].toLowerCase()}` : `${shown.metric} by run`;
  await drawPoints(colors);
  if (parallelPlot) await drawParallel(colors);
}

async function read() {
  const mine = (reading += 1);
  timer = 0;
  try {
    const answer = await (await send(element.dataset.api)).json();
    if (mine !== reading) return;
    shown = answer;
    await draw();
  } catch (error) {
    if (mine === reading) say(`The figures can't be read: ${error.message}`);
  }
}

on("run-sweeps", ({ kind, data }) => {
  if (kind !== "reset" && data.id !== number) return;
  if (!timer) timer = setTimeout(read, WAIT_MS);
});
document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-against]");
  if (!button) return;
  against = button.dataset.against;
  for (const other of document.querySelectorAll("[data-against]")) other.setAttribute("aria-pressed", String(other === button));
  draw();
});
document.addEventListener("themechange", () => draw());
read();
