// Figures of the page Power and heat, moved by telemetry. Buttons, drift and heat are drawn anew by fragments.js.
import { on } from "./live.js";
import { DASH, count, figure } from "./format.js";

const latest = new Map();
const WORDS = { power_limit_watts: count, power_draw_watts: count, temperature_celsius: (value) => figure(value, 3) };

function put(place, text) {
  if (place && place.textContent !== text) place.textContent = text;
}

function paint() {
  const shown = [];
  for (const row of document.querySelectorAll("[data-power-gpu]")) {
    const gpu = latest.get(row.dataset.powerGpu);
    if (!gpu) continue; // of a host that is away
    shown.push(gpu);
    for (const [name, words] of Object.entries(WORDS)) put(row.querySelector(`[data-figure="${name}"]`), words(gpu[name]));
  }
  if (!shown.length) return;
  const known = (name) => shown.map((gpu) => gpu[name]).filter((value) => typeof value === "number");
  for (const place of document.querySelectorAll("[data-sum]")) {
    const values = known(place.dataset.sum);
    put(place, values.length ? count(values.reduce((sum, value) => sum + value, 0)) : DASH);
  }
  for (const place of document.querySelectorAll("[data-most]")) {
    const values = known(place.dataset.most);
    put(place, values.length ? figure(Math.max(...values), 3) : DASH);
  }
}

on("hosts", ({ kind, data }) => {
  if (kind !== "telemetry" || !data.reading) return;
  for (const gpu of data.reading.gpus) latest.set(gpu.uuid, gpu);
  paint();
});
