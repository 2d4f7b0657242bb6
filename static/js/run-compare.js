// Runs side by side: the curves of one metric, laid over each other. What is chosen stands in the address.
import { on } from "./live.js";
import { Plot, layout, palette } from "./chart.js";
import { smoothed } from "./curves.js";
import { say } from "./chart-state.js";
import { figure, number } from "./format.js";
import { send } from "./csrf.js";
import { lines, look, remember, state } from "./run-lines.js";

const READ_AGAIN_MS = 4000;
const AXES = { step: "step", minutes: "minutes since each began", clock: "time" };
const element = document.getElementById("chart-compare"), form = document.getElementById("compare-view");
const plot = new Plot(element);
let series = {}, reading = 0, timer = 0, isLoaded = false;

function view() {
  const data = new FormData(form);
  return { key: data.get("key"), axis: data.get("axis"), smoothing: Number(data.get("smooth")), isLog: data.get("log") === "yes" };
}

// A clock that was set back stands still until it has caught up.
function xs({ step, time }, axis) {
  if (axis === "step") return step;
  let latest = -Infinity;
  const rising = time.map((one) => (latest = Math.max(latest, one)));
  return axis === "clock" ? rising.map((one) => new Date(one * 1000)) : rising.map((one) => (one - rising[0]) / 60);
}

function traces(colors, { axis, smoothing }) {
  return lines.flatMap((line) => {
    const rows = series[line.id];
    if (!rows || state.hidden.has(line.id)) return [];
    const values = rows.value.map(number), { color, dash } = look(line, colors);
    const drawn = { type: "scatter", mode: values.length > 1 ? "lines" : "markers", x: xs(rows, axis), connectgaps: false, name: line.label, line: { color, dash, width: 1.8 }, marker: { color, size: 7 } };
    const shown = { ...drawn, y: smoothing ? smoothed(values, smoothing) : values, hovertemplate: "%{fullData.name} %{y:.4~g}<extra></extra>" };
    return smoothing ? [{ ...drawn, y: values, opacity: 0.2, hoverinfo: "skip" }, shown] : [shown];
  });
}

async function draw() {
  const now = view(), colors = palette();
  for (const line of lines) {
    const values = series[line.id]?.value;
    line.button.querySelector("[data-value]").textContent = values?.length ? figure(values.at(-1)) : "–";
    line.button.setAttribute("aria-pressed", String(!state.hidden.has(line.id)));
  }
  const whole = layout(colors, { xTitle: AXES[now.axis], total: null, log: now.isLog, low: "normal" });
  whole.hovermode = "x";
  if (now.axis === "clock") whole.xaxis.type = "date";
  document.getElementById("compare-title").textContent = now.key;
  const found = Object.keys(series).length;
  say(!isLoaded ? "" : found ? (found < lines.length ? `${found} of ${lines.length} runs have points of it.` : "") : "None of these runs has points of it.");
  await plot.draw(traces(colors, now), whole);
}

async function read() {
  const mine = (reading += 1);
  timer = 0;
  try {
    const query = new URLSearchParams({ runs: element.dataset.runs, key: view().key, max_points: 2000 });
    const answer = await (await send(`${element.dataset.api}?${query}`)).json();
    if (mine !== reading) return;
    series = answer.series;
    isLoaded = true;
    await draw();
  } catch (error) {
    if (mine === reading) say(`The curves can't be read: ${error.message}`);
  }
}

form.addEventListener("input", ({ target }) => {
  remember(target.name, target.type === "checkbox" && !target.checked ? "" : target.value);
  if (target.name === "key") read();
  else draw();
});
form.addEventListener("submit", (event) => event.preventDefault());
for (const line of lines) {
  line.button.addEventListener("click", () => {
    if (state.hidden.has(line.id)) state.hidden.delete(line.id);
    else state.hidden.add(line.id);
    remember("hide", [...state.hidden].join(","));
    draw();
    document.dispatchEvent(new CustomEvent("lineschange"));
  });
}
for (const id of element.dataset.growing.split(",").filter(Boolean)) {
  on(`run:${id}`, ({ kind, data }) => {
    if (kind !== "reset" && !(kind === "metrics" && view().key in data.points)) return;
    if (!timer) timer = setTimeout(read, READ_AGAIN_MS);
  });
}
document.addEventListener("themechange", () => draw());
read();
