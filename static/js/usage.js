// Tokens by day and model, as bars on top of each other. The figures come with the page.
import { CONFIG, layout, palette } from "./chart.js";
import { say } from "./chart-state.js";

const DAY_MS = 86400000;
const COLORS = ["series-1", "series-2", "series-3", "series-4", "muted"];
const element = document.getElementById("chart-usage");
const usage = JSON.parse(element.dataset.usage);

function days() {
  const found = [];
  for (let time = Date.parse(usage.first); time <= Date.parse(usage.last); time += DAY_MS) found.push(new Date(time).toISOString().slice(0, 10));
  return found;
}

async function draw() {
  const names = Object.keys(usage.models), colors = palette(), x = days();
  if (!names.length) { say("No tokens in this time."); element.hidden = true; return; }
  const traces = names.map((name, index) => ({
    type: "bar", name, x, y: x.map((day) => usage.models[name][day] ?? 0), marker: { color: colors[COLORS[index]] },
    hovertemplate: "%{y:,.0f}<extra>%{fullData.name}</extra>",
  }));
  const whole = layout(colors, { xTitle: "", total: null, log: false, tickFormat: "~s" });
  whole.xaxis = { ...whole.xaxis, type: "date", title: undefined, nticks: 6, fixedrange: true, rangemode: "normal" };
  whole.yaxis = { ...whole.yaxis, fixedrange: true, nticks: 5 };
  await window.Plotly.react(element, traces, { ...whole, barmode: "stack", bargap: 0.25, hovermode: "x unified" }, CONFIG);
  legend(names);
}

function legend(names) {
  document.getElementById("usage-legend").replaceChildren(...names.map((name, index) => {
    const entry = document.createElement("span"), sign = document.createElement("span");
    sign.className = `sign history-sign t${Math.min(index, 3) + 1}`;
    entry.append(sign, name);
    return entry;
  }));
}

new ResizeObserver(() => { if (element.clientWidth && element.data) window.Plotly.Plots.resize(element); }).observe(element);
document.addEventListener("themechange", () => draw());
draw();
