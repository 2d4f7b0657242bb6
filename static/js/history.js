// The charts of a host's page: read from the server for the span that is shown, anew (and finer) for each zoom, and
// grown by telemetry while they reach to the present at a point a second.
import { on } from "./live.js";
import { send } from "./csrf.js";
import { CONFIG, layout, palette } from "./chart.js";

const section = document.getElementById("history");
const state = document.getElementById("history-state");
const whole = document.getElementById("history-whole");
const COLORS = ["series-1", "series-2", "series-3", "series-4"];
const RELOAD_AFTER_SECONDS = 60;
const RETRY_MS = 4000;
const DRAW_EVERY_MS = { 15: 1000, 60: 4000 };
const BANDS_UP_TO = 4;
const GAP_SECONDS = 5;

const charts = [...document.querySelectorAll(".history-chart")].map((element) => ({
  element, scale: Number(element.dataset.scale), top: element.dataset.top ? Number(element.dataset.top) : null,
  series: JSON.parse(element.dataset.series).map(([name, label, isLimit]) => ({ name, label, isLimit })),
  isSeen: false, isStale: true, isReady: false,
}));
let minutes = 15, zoom = null, lines = new Map(), resolution = 1, gaps = [], span = [0, 1], loadedAt = 0, reading = 0, drawnAt = 0, isDragging = false;

// --- Times: Plotly draws every time as if it were UTC, so local times are handed to it shifted -------------------------

function shown(seconds) {
  const date = new Date(seconds * 1000);
  return date.getTime() - date.getTimezoneOffset() * 60000;
}

function meant(text) {
  return typeof text === "number" ? new Date(text).getTime() / 1000 + new Date(text).getTimezoneOffset() * 60
    : new Date(String(text).replace(" ", "T")).getTime() / 1000;
}

// --- Reading -----------------------------------------------------------------------------------------------------------

async function load() {
  const mine = (reading += 1);
  section.classList.add("is-loading");
  const names = [...new Set(charts.flatMap((chart) => chart.series.map((one) => one.name)))];
  const query = new URLSearchParams({ names: names.join(","), max_points: 600 });
  if (zoom) { query.set("from", zoom[0]); query.set("to", zoom[1]); } else query.set("minutes", minutes);
  try {
    const answer = await (await send(`${section.dataset.api}?${query}`)).json();
    if (mine !== reading) return;
    take(answer);
  } catch (error) {
    if (mine !== reading) return;
    state.textContent = `It can't be read: ${error.message} Trying again.`;
    setTimeout(() => { if (mine === reading) load(); }, RETRY_MS);
  }
}

function take(answer) {
  resolution = answer.resolution_seconds;
  lines = new Map(Object.entries(answer.series));
  gaps = answer.gaps;
  loadedAt = Date.now() / 1000;
  const newest = Math.max(0, ...answer.gaps.map(([, to]) => to), ...[...lines.values()].map((line) => line.time.at(-1) ?? 0));
  span = zoom ?? [newest - minutes * 60, newest];
  whole.hidden = !zoom;
  section.dataset.resolution = resolution;
  section.classList.remove("is-loading");
  tell();
  for (const chart of charts) chart.isStale = true;
  drawSeen();
}

const short = (value) => String(Number(value.toPrecision(3)));

function tell() {
  const each = resolution === 1 ? "every second" : resolution < 60 ? `every ${resolution} s` : resolution < 3600 ? `every ${short(resolution / 60)} min` : `every ${short(resolution / 3600)} h`;
  const missing = gaps.length ? `, ${gaps.length} gap${gaps.length > 1 ? "s" : ""}` : "";
  state.textContent = [...lines.values()].some((line) => line.time.length) ? `a point ${each}${missing}` : "Nothing was measured in this time.";
}

// --- Drawing -----------------------------------------------------------------------------------------------------------

function faint(color, share = 0.18) {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  return `rgba(${red},${green},${blue},${share})`;
}

// The area between the least and the most: a closed outline for each stretch without a gap.
function band(times, low, high) {
  const x = [], y = [];
  for (let start = 0; start < times.length; start += 1) {
    if (low[start] === null) continue;
    let end = start;
    while (end < times.length && low[end] !== null) end += 1;
    const stretch = times.slice(start, end);
    x.push(...stretch, ...[...stretch].reverse(), null);
    y.push(...high.slice(start, end), ...low.slice(start, end).reverse(), null);
    start = end;
  }
  return { type: "scatter", mode: "lines", x, y, line: { width: 0 }, fill: "toself", hoverinfo: "skip" };
}

function traces(chart, colors) {
  const found = [];
  const hasBand = resolution > 1 && chart.series.length <= BANDS_UP_TO;
  const plain = chart.series.filter((one) => !one.isLimit);
  for (const one of chart.series) {
    const line = lines.get(one.name);
    if (!line) continue;
    const place = one.isLimit ? chart.series.filter((other) => other.isLimit).indexOf(one) : plain.indexOf(one);
    const color = colors[COLORS[place % COLORS.length]];
    const x = line.time.map(shown);
    const at = (values) => values.map((value) => (value === null ? null : value / chart.scale));
    if (hasBand && !one.isLimit) found.push({ ...band(x, at(line.min), at(line.max)), fillcolor: faint(color) });
    found.push({
      type: "scatter", mode: "lines", name: one.label, x, y: at(line.mean), connectgaps: false,
      hovertemplate: `${one.label} %{y:.4~g} ${chart.element.dataset.unit}<extra></extra>`,
      line: { color, width: one.isLimit ? 1 : 1.6, dash: one.isLimit ? "dash" : place >= COLORS.length ? "dot" : "solid" },
    });
  }
  return found;
}

async function draw(chart) {
  chart.isStale = false;
  const colors = palette();
  const described = layout(colors, { xTitle: "", total: null, log: false });
  const xaxis = { ...described.xaxis, type: "date", rangemode: "normal", autorange: false, range: span.map(shown), nticks: 6, title: undefined };
  const yaxis = { ...described.yaxis, fixedrange: true, nticks: 5, ...(chart.top ? { autorange: false, range: [0, chart.top] } : {}) };
  const shapes = gaps.map(([from, to]) => ({
    type: "rect", xref: "x", yref: "paper", x0: shown(from), x1: shown(to), y0: 0, y1: 1, layer: "below", line: { width: 0 }, fillcolor: faint(colors.muted, 0.08),
  }));
  await window.Plotly.react(chart.element, traces(chart, colors), { ...described, xaxis, yaxis, shapes, margin: { ...described.margin, b: 24 } }, { ...CONFIG, doubleClick: false });
  legend(chart, colors);
  if (chart.isReady) return;
  chart.isReady = true;
  chart.element.on("plotly_relayout", (change) => zoomed(change));
  chart.element.on("plotly_doubleclick", () => showAll());
  new ResizeObserver(() => { if (chart.element.clientWidth) window.Plotly.Plots.resize(chart.element); }).observe(chart.element);
}

function legend(chart, colors) {
  const box = chart.element.parentElement.querySelector("[data-legend]");
  if (!box || box.dataset.theme === colors["series-1"]) return;
  box.dataset.theme = colors["series-1"];
  box.replaceChildren(...chart.series.filter((one) => !one.isLimit).map((one, index) => {
    const entry = document.createElement("span"), sign = document.createElement("span");
    sign.className = `sign history-sign t${(index % COLORS.length) + 1}`;
    entry.append(sign, one.label);
    return entry;
  }));
}

function drawSeen() {
  if (document.visibilityState !== "visible" || isDragging) return;
  drawnAt = Date.now();
  for (const chart of charts) if (chart.isSeen && chart.isStale) draw(chart);
}

// --- Zoom, ranges, telemetry ---------------------------------------------------------------------------------------------

function zoomed(change) {
  const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
  if (from === undefined || to === undefined) return;
  const [start, end] = [meant(from), meant(to)];
  if (!(end - start >= 2)) return showAll();
  zoom = [start, end];
  load();
}

function showAll() {
  zoom = null;
  load();
}

section.addEventListener("click", (event) => {
  const button = event.target.closest("[data-minutes]");
  if (!button) return;
  minutes = Number(button.dataset.minutes);
  for (const other of section.querySelectorAll("[data-minutes]")) other.setAttribute("aria-pressed", String(other === button));
  showAll();
});
whole.addEventListener("click", showAll);

// A reading's figures by the names of the history.
function figures(read) {
  const found = new Map([["cpu_percent", read.cpu_percent], ["load_1m", read.load_1m], ["memory_used_bytes", read.memory_used_bytes]]);
  const sum = (name) => read.networks.reduce((total, one) => total + one[name], 0);
  if (read.networks.length) {
    found.set("network_received_bytes_per_second", sum("received_bytes_per_second"));
    found.set("network_sent_bytes_per_second", sum("sent_bytes_per_second"));
  }
  for (const gpu of read.gpus) for (const [name, value] of Object.entries(gpu)) if (typeof value === "number") found.set(`${gpu.uuid}/${name}`, value);
  return found;
}

function grow(read) {
  if (zoom || section.classList.contains("is-loading")) return;
  if (resolution > 1) {
    if (Date.now() / 1000 - loadedAt > Math.max(RELOAD_AFTER_SECONDS, resolution / 4)) load();
    return;
  }
  const time = Math.round(read.time), values = figures(read);
  if (time < span[1] - 60 || time > span[1] + 60) return load(); // a clock that was set, or a page that slept
  for (const [name, line] of lines) {
    const value = values.get(name);
    if (value === undefined || time <= (line.time.at(-1) ?? 0)) continue;
    const last = line.time.at(-1);
    if (last !== undefined && time - last > GAP_SECONDS) { // as the server marks a gap
      line.time.push((last + time) / 2);
      for (const kind of ["mean", "min", "max"]) line[kind].push(null);
    }
    line.time.push(time);
    for (const kind of ["mean", "min", "max"]) line[kind].push(value);
    while (line.time[0] < time - minutes * 60) for (const kind of ["time", "mean", "min", "max"]) line[kind].shift();
  }
  span = [time - minutes * 60, time];
  for (const chart of charts) chart.isStale = true;
  if (Date.now() - drawnAt >= (DRAW_EVERY_MS[minutes] ?? 4000) - 50) drawSeen();
}

on("hosts", ({ kind, data }) => {
  if (kind === "reset") load();
  if (kind === "telemetry" && data.host === section.dataset.host && data.reading) grow(data.reading);
});
// A chart that is drawn anew in the middle of a drag would let go of it.
section.addEventListener("pointerdown", (event) => { isDragging = Boolean(event.target.closest(".history-chart")); }, true);
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => { isDragging = false; }, true);
document.addEventListener("themechange", () => { for (const chart of charts) chart.isStale = true; drawSeen(); });
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") load(); });
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) charts.find((chart) => chart.element === target).isSeen = isIntersecting;
  if (lines.size) drawSeen();
}, { rootMargin: "200px" });
for (const chart of charts) watcher.observe(chart.element);
load();
