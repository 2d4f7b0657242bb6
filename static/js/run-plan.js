// The learning rate of the run that is being put together, drawn anew whenever the server has counted its steps.
import { Plot, layout, palette } from "./chart.js";

const element = document.getElementById("rate-chart"), beside = document.getElementById("run-plan");
const plot = new Plot(element);

async function draw() {
  const found = document.getElementById("rate-data");
  element.classList.toggle("is-stale", !found); // what can't be counted now leaves the last curve, paler
  if (!found || !window.Plotly) return;
  const steps = JSON.parse(found.dataset.steps), rates = JSON.parse(found.dataset.rates);
  const colors = palette();
  const trace = { type: "scatter", mode: "lines", name: "learning_rate", x: steps, y: rates, hovertemplate: "step %{x}: %{y:.3g}<extra></extra>", line: { color: colors["series-3"], width: 1.7 } };
  await plot.draw([trace], { ...layout(colors, { xTitle: "step", total: steps.at(-1), log: false, powers: true }), uirevision: String(steps.at(-1)) });
  element.dataset.drawn = String(steps.at(-1));
}

beside.addEventListener("htmx:afterSwap", draw);
document.addEventListener("themechange", draw);
