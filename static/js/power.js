// Figures of the page Power and heat, moved by telemetry. Buttons, drift and heat are drawn anew by fragments.js.
import { on } from "./live.js";
import { count, figure } from "./format.js";

const latest = new Map();
const WORDS = { power_limit_watts: count, power_draw_watts: count, temperature_celsius: (value) => figure(value, 3) };

function put(place, text) {
  if (place && place.textContent !== text) place.textContent = text;
}

function paint() {
  const shown = [];
  for (const row of document.querySelectorAll("[data-power-gpu]")) {
    const gpu = latest.get(row.dataset.powerGpu);
    if (!gpu) return;
    shown.push(gpu);
    for (const [name, words] of Object.entries(WORDS)) put(row.querySelector(`[data-figure="${name}"]`), words(gpu[name]));
  }
  const known = (name) => shown.map((gpu) => gpu[name]).filter((value) => typeof value === "number");
  for (const place of document.querySelectorAll("[data-sum]")) {
    const values = known(place.dataset.sum);
    if (values.length) put(place, count(values.reduce((sum, value) => sum + value, 0)));
  }
  for (const place of document.querySelectorAll("[data-most]")) {
    const values = known(place.dataset.most);
    if (values.length) put(place, figure(Math.max(...values), 3));
  }
}

on("hosts", ({ kind, data }) => {
  if (kind !== "telemetry" || !data.reading) return;
  for (const gpu of data.reading.gpus) latest.set(gpu.uuid, gpu);
  paint();
});
