// One sweep of runs: a point a run against its number or one of its settings, and a line a run through all of them.
// Read through the API, anew for each change that is announced.
import { on } from "./live.js";
import { scale, text } from "./axes.js";
import { Plot, layout, palette } from "./chart.js";
import { drawParallel } from "./parallel.js";
import { say } from "./chart-state.js";
import { figure } from "./format.js";
import { send } from "./csrf.js";

const WAIT_MS = 200;
const element = document.getElementById("chart-run-sweep");
const parallelElement = document.getElementById("chart-parallel");
const number = Number(element.dataset.sweep), metric = element.dataset.metric;
const plot = new Plot(element);
const parallelPlot = parallelElement ? new Plot(parallelElement) : null;
let shown = { trials: [], space: [] }, against = "", timer = 0, reading = 0;

const titles = Object.fromEntries([...document.querySelectorAll("[data-against]")].map((button) => [button.dataset.against, button.textContent]));
const done = () => shown.trials.filter((trial) => trial.state === "done");

function hover(trial) {
  const settings = Object.entries(trial.params).map(([path, value]) => `${titles[path] || path} ${text(value)}`);
  return [`run ${trial.number}: ${metric} ${figure(trial.value)}`, ...settings].join("<br>");
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
  whole.yaxis.title = { ...whole.yaxis.title, text: metric };
  if (axis) Object.assign(whole.xaxis, { range: [axis.low, axis.high], autorange: false, tickvals: axis.ticks.map((tick) => tick[0]), ticktext: axis.ticks.map((tick) => tick[1]) });
  else Object.assign(whole.xaxis, { range: [0.5, Math.max(shown.max_trials || 1, shown.trials.length) + 0.5], autorange: false, tickformat: "d" });
  if (!done().length) Object.assign(whole.yaxis, { showticklabels: false, showgrid: false });
  await plot.draw(points(colors, (trial) => (axis ? axis.at(trial.params[against]) : trial.number)), whole);
}

// The last axis is the metric; the best run is drawn last.
async function drawAxes(colors) {
  const trials = [...done()].sort((one, other) => other.value - one.value);
  const values = trials.map((trial) => trial.value);
  const axes = shown.space.map((dimension) => ({ title: titles[dimension.field], ...scale(dimension), values: trials.map((trial) => trial.params[dimension.field]) }));
  if (values.length) axes.push({ title: metric, ...scale({ low: Math.min(...values), high: Math.max(...values) + 1e-12 }), values });
  await drawParallel(parallelPlot, colors, axes, trials.map((trial, place) => ({
    hover: hover(trial), opacity: trial.is_best ? 1 : 0.25 + 0.5 * (place / Math.max(1, trials.length - 1)), color: colors[trial.is_best ? "series-2" : "series-1"], width: trial.is_best ? 2.5 : 1.4,
  })));
}

async function draw() {
  const colors = palette();
  say(done().length ? "" : "The first point comes when a run is done.");
  document.getElementById("chart-title").textContent = against ? `${metric} by ${titles[against].toLowerCase()}` : `${metric} by run`;
  await drawPoints(colors);
  if (parallelPlot) await drawAxes(colors);
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
