// How fast a model answers: seconds to the first token, and tokens a second, read through the API for the span chosen.
import { CONFIG, layout, palette } from "./chart.js";
import { say } from "./chart-state.js";
import { send } from "./csrf.js";

const section = document.getElementById("speed");
const first = document.getElementById("chart-first-token"), rate = document.getElementById("chart-rate");
const RELOAD_MS = 60000;
let hours = 24, answer = { points: [], resolution_seconds: 60 };

const local = (seconds) => seconds * 1000 - new Date(seconds * 1000).getTimezoneOffset() * 60000;

// A stretch without requests is a gap in the line.
function line(name, value, color, dash) {
  const x = [], y = [];
  let last = null;
  for (const point of answer.points) {
    if (last !== null && point.time - last > 1.5 * answer.resolution_seconds) { x.push(local(last + answer.resolution_seconds)); y.push(null); }
    x.push(local(point.time)); y.push(value(point));
    last = point.time;
  }
  return { type: "scatter", mode: "lines+markers", name, x, y, connectgaps: false, line: { color, width: 1.6, dash }, marker: { size: 4, color }, hovertemplate: `${name} %{y:.3~g}<extra></extra>` };
}

async function plot(element, traces, colors) {
  const now = Date.now() / 1000;
  const whole = layout(colors, { xTitle: "", total: null, log: false });
  whole.xaxis = { ...whole.xaxis, type: "date", title: undefined, nticks: 5, fixedrange: true, rangemode: "normal", autorange: false, range: [local(now - hours * 3600), local(now)] };
  whole.yaxis = { ...whole.yaxis, fixedrange: true, nticks: 5 };
  await window.Plotly.react(element, traces, { ...whole, margin: { ...whole.margin, b: 24 } }, CONFIG);
}

async function draw() {
  const colors = palette();
  const milliseconds = (key) => (point) => (point[key] === null ? null : point[key] * 1000);
  await plot(first, [line("median", milliseconds("first_token_median"), colors["series-1"], "solid"), line("95th percentile", milliseconds("first_token_p95"), colors["series-2"], "dot")], colors);
  await plot(rate, [line("median", (point) => point.tokens_per_second_median, colors["series-1"], "solid")], colors);
}

async function read() {
  try {
    const query = new URLSearchParams({ model: section.dataset.model, hours });
    answer = await (await send(`/api/usage/speed?${query}`)).json();
    const count = answer.points.reduce((sum, point) => sum + point.requests, 0);
    say(count ? `${count.toLocaleString("en")} request${count === 1 ? "" : "s"} in this time` : "Nobody has asked it in this time.");
    await draw();
  } catch (error) {
    say(`The figures can't be read: ${error.message}`);
  }
}

section.addEventListener("click", (event) => {
  const button = event.target.closest("[data-hours]");
  if (!button) return;
  hours = Number(button.dataset.hours);
  for (const other of section.querySelectorAll("[data-hours]")) other.setAttribute("aria-pressed", String(other === button));
  read();
});
for (const element of [first, rate]) new ResizeObserver(() => { if (element.clientWidth && element.data) window.Plotly.Plots.resize(element); }).observe(element);
document.addEventListener("themechange", () => draw());
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") read(); });
setInterval(() => { if (document.visibilityState === "visible" && hours <= 24) read(); }, RELOAD_MS);
read();
