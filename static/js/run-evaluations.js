// What a run's checkpoints came to when they were evaluated, under its loss curve: accuracy by step with its interval.
// The points lie in the part that the server draws (data-rows); they are drawn anew whenever it is.
import { Plot, layout, palette } from "./chart.js";

let plot = null;

function hover({ step, value, low, high }) {
  return `step ${step}: ${value.toFixed(1)} %<br>95 % interval ${low.toFixed(1)} to ${high.toFixed(1)}`;
}

async function show() {
  const element = document.getElementById("chart-evaluations");
  if (!element || !window.Plotly) return;
  if (plot?.element !== element) plot = new Plot(element);
  const rows = JSON.parse(element.dataset.rows), colors = palette();
  const trace = {
    type: "scatter", mode: "lines+markers", x: rows.map(({ step }) => step), y: rows.map(({ value }) => value),
    hovertext: rows.map(hover), hoverinfo: "text", cliponaxis: false,
    line: { color: colors["series-2"], width: 1.4 }, marker: { size: 8, color: colors["series-2"] },
    error_y: { type: "data", symmetric: false, array: rows.map(({ value, high }) => high - value), arrayminus: rows.map(({ value, low }) => value - low), color: colors["series-2"], thickness: 1, width: 4 },
  };
  const total = Number(document.getElementById("chart-loss")?.dataset.total) || 0;
  const described = layout(colors, { xTitle: "step", total });
  described.yaxis = { ...described.yaxis, range: [0, 100], autorange: false, ticksuffix: " %" };
  await plot.draw([trace], described);
}

document.addEventListener("drawn", ({ detail }) => { if (detail.id === "evaluations") show(); });
document.addEventListener("themechange", show);
