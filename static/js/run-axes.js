// Runs side by side: any setting or metric against any metric, and all settings that differ as parallel axes, of which a
// part can be chosen.
import { scale, shown as written, text } from "./axes.js";
import { Plot, layout, palette } from "./chart.js";
import { figure } from "./format.js";
import { drawParallel, height } from "./parallel.js";
import { lines, look, remember, state } from "./run-lines.js";

const STEPS = 1000, MOST_AXES = 10;
const box = document.getElementById("compare-axes");
const axes = JSON.parse(box.dataset.plotted).axes.map((axis) => ({ ...axis, written: written(axis.title, 40) }));
const known = new Map(axes.map((axis) => [axis.key, axis]));
const scatter = new Plot(document.getElementById("chart-scatter")), parallel = new Plot(document.getElementById("chart-parallel"));
const brushes = new Map(new URLSearchParams(location.search).getAll("within").map((word) => {
  const [from, to, ...key] = word.split(":");
  return [key.join(":"), [Number(from) || 0, Number.isFinite(Number(to)) ? Number(to) : STEPS]];
}));

const chosen = (name) => box.querySelector(`[name=${name}]`).value;

// The values as an axis takes them: what is no number on an axis of numbers has no place.
function placed(axis) {
  const isOfNumbers = axis.kind === "metric" || axis.values.every((value) => value === null || typeof value === "number");
  const values = axis.values.map((value) => (isOfNumbers && typeof value !== "number" ? null : value));
  const there = values.filter((value) => value !== null);
  if (!there.length) return { title: axis.written, at: (value) => value, from: text, low: 0, high: 1, ticks: [], values };
  if (!isOfNumbers) return { title: axis.written, ...scale({ values: [...new Set(there)] }), values };
  const low = Math.min(...there), high = Math.max(...there);
  const isLog = low > 0 && high / low >= 50;
  return { title: axis.written, ...scale({ low, high: high === low ? low + (Math.abs(low) || 1) * 1e-6 : high, log: isLog }), values };
}

function words(axis, place) {
  const value = axis.values[place];
  return value === null ? "–" : typeof value === "number" ? (axis.kind === "metric" ? figure(value) : text(value)) : text(value);
}

async function drawScatter() {
  const colors = palette(), across = known.get(chosen("px")), up = known.get(chosen("py"));
  if (!across || !up) return;
  const x = placed(across), y = placed(up);
  const shown = lines.map((line, place) => ({ line, place })).filter(({ line, place }) => !state.hidden.has(line.id) && x.values[place] !== null && y.values[place] !== null);
  const whole = layout(colors, { xTitle: across.written, total: null, log: false, low: "normal" });
  whole.hovermode = "closest";
  for (const [axis, name] of [[x, "xaxis"], [y, "yaxis"]]) {
    Object.assign(whole[name], { range: [axis.low, axis.high], autorange: false, tickvals: axis.ticks.map((tick) => tick[0]), ticktext: axis.ticks.map((tick) => tick[1]), type: "linear", rangemode: "normal" });
  }
  whole.yaxis.title = { ...whole.yaxis.title, text: up.written };
  await scatter.draw([{
    type: "scatter", mode: "markers+text", cliponaxis: false, x: shown.map(({ place }) => x.at(x.values[place])), y: shown.map(({ place }) => y.at(y.values[place])),
    text: shown.map(({ line }) => line.id), textposition: "top center", textfont: { size: 11, color: colors.muted },
    hovertext: shown.map(({ line, place }) => `${line.label}<br>${across.written} ${words(across, place)}<br>${up.written} ${words(up, place)}`), hoverinfo: "text",
    marker: { size: 11, color: shown.map(({ line }) => look(line, colors).color) },
  }], whole);
  document.getElementById("scatter-state").textContent = shown.length < lines.length ? `${shown.length} of ${lines.length} runs have both values and are shown.` : "";
}

function parallelAxes() {
  const settings = axes.filter((axis) => axis.kind === "setting").slice(0, MOST_AXES - 1);
  const metric = known.get(chosen("pm"));
  return (metric ? [...settings, metric] : settings).map((axis) => ({ key: axis.key, source: axis, ...placed(axis) }));
}

function isWithin(shown, place) {
  return shown.every((axis) => {
    const brush = brushes.get(axis.key);
    if (!brush) return true;
    const at = height(axis, axis.values[place]);
    return at !== null && at * STEPS >= brush[0] - 1 && at * STEPS <= brush[1] + 1;
  });
}

async function drawAxes() {
  const colors = palette(), shown = parallelAxes();
  let within = 0;
  const looks = lines.map((line, place) => {
    const isMeant = isWithin(shown, place) && !state.hidden.has(line.id);
    within += isMeant;
    const settings = shown.map((axis) => `${axis.title} ${words(axis.source, place)}`);
    return { hover: [line.label, ...settings].join("<br>"), ...look(line, colors), opacity: isMeant ? 0.9 : 0.08, width: isMeant ? 2 : 1 };
  });
  for (const axis of shown) tellBrush(axis);
  document.getElementById("parallel-state").textContent = `${within} of ${lines.length} runs lie within.`;
  await drawParallel(parallel, colors, shown, looks);
}

// --- The part of each axis that is meant ------------------------------------------------------------------------------

function slider(axis, end, value) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: 0, max: STEPS, step: 1, value });
  input.dataset.axis = axis.key;
  input.dataset.end = end;
  input.setAttribute("aria-label", `${axis.source.title}, ${end}`);
  return input;
}

function drawBrushes() {
  const place = document.getElementById("compare-brushes");
  place.replaceChildren(...parallelAxes().map((axis) => {
    const field = document.createElement("fieldset"), legend = document.createElement("legend"), told = document.createElement("span");
    const [from, to] = brushes.get(axis.key) || [0, STEPS];
    legend.textContent = axis.source.title;
    told.className = "small num";
    told.dataset.told = axis.key;
    field.className = "field";
    field.append(legend, slider(axis, "from", from), slider(axis, "to", to), told);
    return field;
  }));
}

function tellBrush(axis) {
  const place = [...document.querySelectorAll("[data-told]")].find((one) => one.dataset.told === axis.key);
  if (!place) return;
  const brush = brushes.get(axis.key);
  const word = (share) => axis.from(axis.low + (share / STEPS) * (axis.high - axis.low));
  const text = brush ? `${word(brush[0])} to ${word(brush[1])}` : "all";
  if (place.textContent !== text) place.textContent = text;
}

document.getElementById("compare-brushes").addEventListener("input", ({ target }) => {
  const [from, to] = ["from", "to"].map((end) => [...document.querySelectorAll(`[data-end=${end}]`)].find((one) => one.dataset.axis === target.dataset.axis));
  if (Number(from.value) > Number(to.value)) (target === from ? to : from).value = target.value;
  const brush = [Number(from.value), Number(to.value)];
  if (brush[0] === 0 && brush[1] === STEPS) brushes.delete(target.dataset.axis);
  else brushes.set(target.dataset.axis, brush);
  remember("within", [...brushes].map(([key, [low, high]]) => `${low}:${high}:${key}`));
  drawAxes();
});
box.addEventListener("change", ({ target }) => {
  if (!target.matches("select")) return;
  remember(target.name, target.value);
  if (target.name === "pm") { drawBrushes(); drawAxes(); }
  else drawScatter();
});
function drawBoth() { drawScatter(); drawAxes(); }
document.addEventListener("themechange", drawBoth);
document.addEventListener("lineschange", drawBoth);
drawBrushes();
drawBoth();
