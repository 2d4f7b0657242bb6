// One power sweep: a point a profile, read once through the API and then brought by the socket; the bar of its phase.
import { on } from "./live.js";
import { Plot, layout, palette } from "./chart.js";
import { say } from "./chart-state.js";
import { figure } from "./format.js";
import { send } from "./csrf.js";

const MIN_SHARE = 0.9;
const element = document.getElementById("chart-sweep");
const number = Number(element.dataset.sweep);
const plot = new Plot(element);
let shown = { results: [], recommended: null };

const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

function points() {
  return shown.results
    .filter((row) => row.tokens_per_second && row.joules_per_token)
    .map((row) => ({ ...row, x: 1 / row.joules_per_token, y: row.tokens_per_second }));
}

// Room around the points, so that their labels fit.
function range(values, room) {
  const low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low || high * 0.2) * room;
  return [Math.max(0, low - margin), high + margin];
}

function traces(rows, colors) {
  const fastest = Math.max(...rows.map((row) => row.y));
  const [left, right] = range(rows.map((row) => row.x), 0.35);
  const best = rows.filter((row) => row.profile === shown.recommended);
  const hover = rows.map((row) => `${capital(row.profile)}, limit ${figure(row.watts)} W<br>${figure(row.y)} tokens/s at ${figure(row.mean_draw_watts, 3)} W<br>${figure(row.joules_per_token, 3)} J a token`);
  return [
    { type: "scatter", mode: "lines", name: "limit", x: [left, right], y: [MIN_SHARE * fastest, MIN_SHARE * fastest], hoverinfo: "skip", line: { color: colors.muted, width: 1, dash: "dash" } },
    { type: "scatter", mode: "markers", name: "recommended", x: best.map((row) => row.x), y: best.map((row) => row.y), hoverinfo: "skip", marker: { symbol: "circle", size: 20, color: colors.surface, line: { color: colors["series-2"], width: 2 } } },
    { type: "scatter", mode: "lines+markers+text", name: "profiles", x: rows.map((row) => row.x), y: rows.map((row) => row.y), text: rows.map((row) => `${capital(row.profile)} ${figure(row.watts)} W<br> `), textposition: "top center", cliponaxis: false, textfont: { color: colors.ink, size: 12 }, hovertext: hover, hoverinfo: "text", line: { color: colors.line, width: 1.5 }, marker: { size: 10, color: colors["series-1"] } },
  ];
}

async function draw() {
  const rows = points();
  say(rows.length ? "" : "The first point comes when a profile is measured.");
  const colors = palette();
  const whole = layout(colors, { xTitle: "tokens a joule", total: null, log: false });
  whole.hovermode = "closest";
  whole.yaxis.title = { ...whole.yaxis.title, text: "tokens/s" };
  if (rows.length) {
    const limit = MIN_SHARE * Math.max(...rows.map((row) => row.y));
    Object.assign(whole.xaxis, { range: range(rows.map((row) => row.x), 0.35), autorange: false, nticks: 6 });
    Object.assign(whole.yaxis, { range: range([limit, ...rows.map((row) => row.y)], 0.25), autorange: false });
  } else {
    Object.assign(whole.xaxis, { range: [0, 1], autorange: false, showticklabels: false });
    Object.assign(whole.yaxis, { range: [0, 1], autorange: false, showticklabels: false, showgrid: false });
  }
  await plot.draw(rows.length ? traces(rows, colors) : [], whole);
}

async function read() {
  try {
    shown = await (await send(element.dataset.api)).json();
    await draw();
  } catch (error) {
    say(`The figures can't be read: ${error.message}`);
  }
}

function progress({ profile, phase, done, total }) {
  const bar = document.getElementById("sweep-bar"), words = document.getElementById("sweep-words");
  if (!bar || !words) return;
  bar.max = total;
  bar.value = done;
  words.textContent = `${capital(profile)}: ${phase}, ${Math.round(done)} of ${Math.round(total)} s`;
}

on("sweeps", ({ kind, data }) => {
  if (kind === "reset") { read(); return; }
  if (data.id !== number) return;
  if (kind === "progress") progress(data);
  if (kind === "status") { shown = data; draw(); }
});
document.addEventListener("themechange", () => draw());
read();
