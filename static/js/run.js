// A run that is watched: charts that grow, figures, progress, log. On its own page, and the loss alone on the bridge.
import { on } from "./live.js";
import { Curves, smoothed, TOO_MANY_POINTS } from "./curves.js";
import { Plot, layout, palette } from "./chart.js";
import { count, duration, figure, gib, number, sparkPath } from "./format.js";
import { showCheckpoint } from "./milestones.js";
import { showSample } from "./samples.js";
import { send } from "./csrf.js";

const LOSS = 0, EVAL = 1, FLAGS = 2, SMOOTH = 3;
const SPARK_POINTS = 120;
const RETRY_MS = 2000, MAX_RETRY_MS = 30000;
const MEMORY_KEYS = ["memory_allocated_bytes", "memory_rss_bytes"];

const lossElement = document.getElementById("chart-loss");
const rateElement = document.getElementById("chart-learning-rate");
const view = { axis: "step", smooth: false, log: false };
const lossPlot = new Plot(lossElement);
const ratePlot = rateElement ? new Plot(rateElement) : null;
const run = lossElement.dataset.run;
const curves = new Curves(lossElement.dataset.api);
let checkpoints = [], total = number(lossElement.dataset.total), waiting = [], loaded = false, reading = 0, failures = 0;

// --- Drawing -------------------------------------------------------------------------------------------------------

function xOf(step, time) {
  return view.axis === "step" ? step : (time - curves.start) / 60;
}

function xs(rows) {
  return view.axis === "step" ? [...rows.step] : rows.time.map((time) => xOf(0, time));
}

function flagX(step) {
  if (view.axis === "step") return step;
  const rows = curves.get("loss");
  const index = rows.step.findIndex((known) => known >= step);
  return index < 0 ? null : xOf(step, rows.time[index]);
}

function lossTraces(colors) {
  const loss = curves.get("loss"), evaluated = curves.get("eval_loss");
  const hover = "%{fullData.name} %{y:.4g}<extra></extra>";
  return [
    { type: "scatter", mode: "lines", name: "loss", x: xs(loss), y: [...loss.value], connectgaps: false, hovertemplate: hover, opacity: view.smooth ? 0.3 : 1, line: { color: colors["series-1"], width: 1.7 } },
    { type: "scatter", mode: "markers", name: "eval_loss", cliponaxis: false, x: xs(evaluated), y: [...evaluated.value], hovertemplate: hover, marker: { symbol: "circle", size: 9, color: colors.surface, line: { color: colors["series-2"], width: 2 } } },
    { type: "scatter", mode: "markers", name: "checkpoints", yaxis: "y2", x: checkpoints.map((row) => flagX(row.step)), y: checkpoints.map(() => 0.96), cliponaxis: false, hovertemplate: "checkpoint at step %{text}<extra></extra>", text: checkpoints.map((row) => count(row.step)), marker: { symbol: "triangle-right", size: 10, color: colors["series-3"] } },
    { type: "scatter", mode: "lines", name: "smoothed", visible: view.smooth, x: xs(loss), y: view.smooth ? smoothed(loss.value) : [...loss.value], hovertemplate: hover, line: { color: colors["series-1"], width: 2 } },
  ];
}

async function draw() {
  const colors = palette();
  const xTitle = view.axis === "step" ? "step" : "minutes since the start";
  const range = view.axis === "step" ? total : null;
  const jobs = [lossPlot.draw(lossTraces(colors), layout(colors, { xTitle, total: range, log: view.log, flags: true }))];
  if (ratePlot) {
    const rate = curves.get("learning_rate");
    const trace = { type: "scatter", mode: "lines", name: "learning_rate", x: xs(rate), y: [...rate.value], hovertemplate: "learning rate %{y:.3g}<extra></extra>", line: { color: colors["series-3"], width: 1.7 } };
    jobs.push(ratePlot.draw([trace], layout(colors, { xTitle, total: range, log: false, tickFormat: "~e" })));
  }
  await Promise.all(jobs);
}

function sparks() {
  for (const spark of document.querySelectorAll("[data-curve]")) {
    const key = spark.dataset.curve === "memory" ? memoryKey() : spark.dataset.curve;
    spark.firstElementChild.setAttribute("d", sparkPath(curves.get(key).value.slice(-SPARK_POINTS)));
  }
}

function memoryKey() {
  return MEMORY_KEYS.find((key) => curves.get(key).step.length) || MEMORY_KEYS[1];
}

function figures() {
  for (const key of ["loss", "eval_loss", "tokens_per_second", "grad_norm"]) {
    const rows = curves.get(key);
    if (!rows.step.length) continue;
    const text = figure(rows.raw[rows.raw.length - 1]);
    for (const place of document.querySelectorAll(`[data-last="${key}"]`)) place.textContent = text;
    for (const place of document.querySelectorAll(`[data-last-unit="${key}"]`)) place.textContent = `${count(rows.value[rows.value.length - 1])} tokens/s`;
  }
  const memory = curves.get(memoryKey());
  const place = document.querySelector('[data-last="memory"]');
  if (place && memory.step.length) place.textContent = gib(memory.value[memory.value.length - 1]);
}

// --- Reading -------------------------------------------------------------------------------------------------------

async function read() {
  const mine = (reading += 1);
  loaded = false;
  try {
    const [points, answer] = await Promise.all([curves.load(), send(`${lossElement.dataset.api}/checkpoints`)]);
    const rows = await answer.json();
    if (mine !== reading) return;
    curves.replace(points);
    checkpoints = Array.isArray(rows) ? rows : rows.checkpoints;
    await draw();
    if (mine !== reading) return;
    say(curves.get("loss").step.length ? "" : "The first point comes with the first step.");
  } catch (error) {
    if (mine === reading) readLater(mine, error);
    return;
  }
  failures = 0;
  loaded = true;
  const held = waiting;
  waiting = [];
  held.forEach(receive);
  sparks();
  figures();
}

// Only the newest reading is tried again: a later one (after a reset) has taken its place.
function readLater(mine, error) {
  say(`The curves can't be read: ${error.message} Trying again.`);
  setTimeout(() => { if (mine === reading) read(); }, Math.min(RETRY_MS * 2 ** failures, MAX_RETRY_MS));
  failures += 1;
}

function say(text) {
  const place = document.getElementById("chart-state");
  if (place) { place.textContent = text; place.hidden = !text; }
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
  const onlyNew = {};
  for (const [key, rows] of Object.entries(points)) onlyNew[key] = curves.add(key, rows);
  const toXY = (rows) => rows.map((row) => [xOf(row.step, row.time), row.value]);
  lossPlot.extend(LOSS, toXY(onlyNew.loss || []));
  lossPlot.extend(EVAL, toXY(onlyNew.eval_loss || []));
  if (view.smooth && onlyNew.loss?.length) {
    const all = smoothed(curves.get("loss").value);
    lossPlot.extend(SMOOTH, onlyNew.loss.map((row, index) => [xOf(row.step, row.time), all[all.length - onlyNew.loss.length + index]]));
  }
  ratePlot?.extend(0, toXY(onlyNew.learning_rate || []));
  if (onlyNew.loss?.length) say("");
  figures();
  sparks();
  if (how) progress(how);
  if (curves.get("loss").step.length > TOO_MANY_POINTS) read();
}

function flag(row) {
  if (row.gone) {
    checkpoints = checkpoints.filter((known) => known.step !== row.step);
    draw();
  } else if (!checkpoints.some((known) => known.step === row.step)) {
    checkpoints.push(row);
    draw();
  }
}

function progress({ step, total_steps: steps, epoch, eta_seconds: eta }) {
  if (steps && steps !== total) {
    total = steps;
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

// --- Controls ------------------------------------------------------------------------------------------------------

function press(button, group) {
  for (const other of document.querySelectorAll(group)) other.setAttribute("aria-pressed", String(other === button));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-axis], [data-smooth], [data-log], [data-export]");
  if (!button) return;
  if ("axis" in button.dataset) { view.axis = button.dataset.axis; press(button, "[data-axis]"); }
  if ("smooth" in button.dataset) { view.smooth = button.dataset.smooth === "yes"; press(button, "[data-smooth]"); }
  if ("log" in button.dataset) { view.log = !view.log; button.setAttribute("aria-pressed", String(view.log)); }
  if ("export" in button.dataset) return save();
  draw();
});

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([curves.csv()], { type: "text/csv" }));
  link.download = `run-${run}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

document.addEventListener("themechange", () => { if (loaded) draw(); });
on(`run:${run}`, receive);
const box = document.getElementById("log");
if (box) box.scrollTop = box.scrollHeight;
read();
