// A run that is watched: curves that grow, figures, progress, log. On its own page, and the loss alone on the bridge.
import "./menus.js";
import { on } from "./live.js";
import { Axis, TOKENS } from "./curve-axis.js";
import { ChartGrid } from "./chart-grid.js";
import { CurveChart } from "./curve-chart.js";
import { Curves } from "./curves.js";
import { say } from "./chart-state.js";
import { controls } from "./curve-controls.js";
import { count, duration, figure, gib, number, sparkPath } from "./format.js";
import { showCheckpoint } from "./milestones.js";
import { showSample } from "./samples.js";
import { sketch } from "./sketch.js";
import { send } from "./csrf.js";

const SPARK_POINTS = 120;
const RETRY_MS = 2000, MAX_RETRY_MS = 30000;
const MEMORY_KEYS = ["memory_allocated_bytes", "memory_rss_bytes"];

const lossElement = document.getElementById("chart-loss");
const LOSS = lossElement.dataset.key || "loss", EVAL = "eval_loss"; // a run that was made elsewhere may call it otherwise
const groups = document.getElementById("curve-groups");
const run = lossElement.dataset.run, api = lossElement.dataset.api;
const curves = new Curves(api), axis = new Axis(curves), extras = { checkpoints: [] };
axis.total = number(lossElement.dataset.total);
const view = groups ? controls({ change, find, save }) : { axis: "step", smoothing: 0, log: false, link: false };
axis.kind = view.axis;
const shared = { curves, axis, view, onZoom: zoomed, onHover: pointed };
const lossChart = new CurveChart(lossElement, LOSS, { ...shared, companion: EVAL, extras });
const grid = groups ? new ChartGrid(groups, shared, { without: [LOSS], api, say }) : null;
if (grid) grid.wanted = view.keys;
let opening = document.getElementById("run-opening"); // what the server has written into the page, read once
let waiting = [], loaded = false, reading = 0, failures = 0, due = 0;

// --- All charts together -------------------------------------------------------------------------------------------

// Once a frame: a slider that is dragged tells of each place that it passes.
function change() {
  if (!due) due = requestAnimationFrame(() => { due = 0; drawOtherwise(); });
}

async function drawOtherwise() {
  if (view.axis === TOKENS && !curves.has(TOKENS)) await curves.load([TOKENS]).catch(() => {});
  if (axis.kind !== view.axis) { // a part of one axis is none of another
    lossChart.forgetZoom();
    grid.zoomTo(null);
  }
  axis.kind = view.axis;
  if (!loaded) return;
  await draw();
  grid.redraw();
}

function zoomed(chart, range) {
  if (!view.link) return tryTo(chart.zoomTo(range));
  grid.zoomTo(range);
  return tryTo(lossChart.zoomTo(range));
}

async function tryTo(work) {
  try { await work; say(""); } catch (error) { say(`The detail can't be read: ${error.message} Zoom once more.`); }
}

function pointed(chart, x) {
  if (!view.link) return;
  for (const other of [lossChart, ...grid.drawn.filter((card) => card.isSeen).map((card) => card.chart)]) if (other !== chart) other.point(x);
}

function draw() {
  return lossChart.draw();
}

function find(text) {
  const found = grid.search(text);
  const none = document.getElementById("curve-none");
  none.hidden = found > 0 || !text.trim() || !loaded;
  none.textContent = `No curve of this run is called like \u201c${text}\u201d.`;
}

function save(format) {
  lossChart.save(format, `run-${run}-loss`);
}

function sparks() {
  for (const spark of document.querySelectorAll("[data-curve]")) {
    const key = spark.dataset.curve === "memory" ? memoryKey() : spark.dataset.curve;
    spark.firstElementChild.setAttribute("d", sparkPath(curves.get(key).value.slice(-SPARK_POINTS)));
  }
}

function sparkKeys() {
  const names = [...document.querySelectorAll("[data-curve]")].map((spark) => spark.dataset.curve);
  return names.map((name) => (name === "memory" ? memoryKey() : name)).filter((key) => curves.metrics.has(key) && !curves.has(key));
}

function memoryKey() {
  return MEMORY_KEYS.find((key) => curves.metrics.has(key)) || MEMORY_KEYS[1];
}

function figures() {
  for (const place of document.querySelectorAll("[data-last], [data-last-unit]")) {
    const metric = curves.metrics.get(place.dataset.last || place.dataset.lastUnit);
    if (metric) place.textContent = place.dataset.last ? figure(metric.last) : `${count(metric.last)} tokens/s`;
  }
  const memory = curves.metrics.get(memoryKey());
  const place = document.querySelector('[data-last="memory"]');
  if (place && memory) place.textContent = gib(memory.last);
  const tokens = document.querySelector("[data-axis=tokens]");
  if (tokens) tokens.hidden = !curves.metrics.has(TOKENS);
}

// --- Reading -------------------------------------------------------------------------------------------------------

async function read() {
  const mine = (reading += 1);
  loaded = false;
  try {
    curves.clear();
    const { outline, checkpoints } = await readFirst();
    if (mine !== reading) return;
    extras.checkpoints = checkpoints;
    curves.takeOutline(outline);
    lossChart.forgetZoom();
    if (!window.Plotly && !view.log) sketchLoss();
    await draw();
    if (mine !== reading) return;
    say(curves.has(LOSS) || curves.metrics.size ? "" : "The first point comes with the first step.");
  } catch (error) {
    if (mine === reading) readLater(mine, error);
    return;
  }
  failures = 0;
  loaded = true;
  const held = waiting;
  waiting = [];
  held.forEach(receive);
  figures();
  showAll();
}

// What the first line is drawn from: out of the page, and through the API where all is read anew.
async function readFirst() {
  const axisKeys = view.axis === TOKENS ? [TOKENS] : [], given = opening && JSON.parse(opening.textContent);
  opening = null;
  if (!given) {
    const [outline, answer] = await Promise.all([curves.outline(), send(`${api}/checkpoints`), curves.load([LOSS, EVAL, ...axisKeys])]);
    return { outline, checkpoints: await answer.json() };
  }
  curves.take(given.series);
  if (axisKeys.length) await curves.load(axisKeys);
  return given;
}

function sketchLoss() {
  const rows = curves.get(LOSS), x = axis.of(rows), last = x.at(-1);
  sketch(lossElement, x, rows.value, axis.kind === "step" ? Math.max(axis.total ?? 0, last) : last);
}

// What isn't looked at first: the small lines beside the figures, and the charts of all keys.
async function showAll() {
  grid?.update();
  if (grid) find(view.keys);
  grid?.redraw();
  await curves.load(sparkKeys()).catch(() => {});
  sparks();
}

// Only the newest reading is tried again: a later one (after a reset) has taken its place.
function readLater(mine, error) {
  say(`The curves can't be read: ${error.message} Trying again.`);
  setTimeout(() => { if (mine === reading) read(); }, Math.min(RETRY_MS * 2 ** failures, MAX_RETRY_MS));
  failures += 1;
}

function receive(message) {
  if (message.kind === "reset") return read();
  if (!loaded) { waiting.push(message); return undefined; }
  if (message.kind === "metrics") take(message.data);
  else if (message.kind === "progress") progress(message.data);
  else if (message.kind === "checkpoint") { flag(message.data); showCheckpoint(message.data); }
  else if (message.kind === "sample") showSample(message.data);
  else if (message.kind === "log") log(message.data.lines);
  return undefined;
}

function take({ points, progress: how }) {
  const known = curves.metrics.size;
  const news = Object.entries(points).map(([key, rows]) => [key, curves.add(key, rows)]); // all first: tokens are an axis
  for (const [key, fresh] of news) {
    if (key === LOSS || key === EVAL) lossChart.extend(key, fresh);
    if (key === LOSS && fresh) say("");
    grid?.extend(key, fresh);
  }
  if (curves.metrics.size > known) grid?.update();
  figures();
  sparks();
  if (how) progress(how);
  if (curves.hasGrownTooLong(LOSS)) read();
}

function flag(row) {
  if (row.gone) {
    extras.checkpoints = extras.checkpoints.filter((known) => known.step !== row.step);
    draw();
  } else if (!extras.checkpoints.some((known) => known.step === row.step)) {
    extras.checkpoints.push(row);
    draw();
  }
}

function progress({ step, total_steps: steps, epoch, eta_seconds: eta }) {
  if (steps && steps !== axis.total) {
    axis.total = steps;
    if (view.axis === "step") draw();
  }
  const bar = document.getElementById("run-bar"), text = document.getElementById("run-words");
  if (bar && steps) { bar.max = steps; bar.value = step; }
  const words = [`step ${count(step)}${steps ? ` of ${count(steps)}` : ""}`];
  if (epoch !== null && epoch !== undefined && text) words.push(`epoch ${figure(epoch, 3)}${text.dataset.epochs ? ` of ${text.dataset.epochs}` : ""}`);
  if (eta !== null && eta !== undefined) words.push(`${duration(eta)} left`);
  if (text) text.textContent = words.join(" · ");
  const pill = document.querySelector("[data-run-progress]");
  if (pill) pill.textContent = words.join(" · ");
}

function log(lines) {
  const box = document.getElementById("log");
  if (!box) return;
  const sticks = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
  for (const { time, level, text } of lines) {
    const line = document.createElement("span");
    line.className = level;
    line.textContent = `${new Date(time * 1000).toLocaleTimeString()}  ${text}\n`;
    box.append(line);
  }
  while (box.childNodes.length > Number(box.dataset.limit)) box.firstChild.remove();
  document.getElementById("log-empty").hidden = true;
  if (sticks) box.scrollTop = box.scrollHeight;
}

document.addEventListener("themechange", () => { if (loaded) { draw(); grid?.redraw(); } });
on(`run:${run}`, receive);
const box = document.getElementById("log");
if (box) box.scrollTop = box.scrollHeight;
read();
