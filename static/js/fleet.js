// The map of a large fleet: numbers and shades of its cells move in place, a message a second for all hosts.
import { on } from "./live.js";
import { DASH } from "./format.js";

const SHADES = 9; // as in controlplane/pages/fleet_map.py
const form = document.getElementById("fleet-filter");

function map() {
  return document.querySelector("[data-heat-place]");
}

function shade(value, low, high) {
  return value === null ? 0 : Math.max(0, Math.min(SHADES, Math.round((SHADES * (value - low)) / (high - low))));
}

function move(tile, [cpu, cards], { heatPlace, low, high }) {
  const cells = tile.querySelectorAll("[data-cell]");
  cards.forEach((figures, place) => {
    const cell = cells[place], value = figures[heatPlace];
    if (!cell) return;
    const text = value === null ? DASH : String(value);
    if (cell.textContent !== text) cell.textContent = text;
    const name = `heat shade-${shade(value, low, high)}${cell.dataset.closed ? " closed" : ""}`;
    if (cell.className !== name) cell.className = name;
    const [busy, heat, memory] = figures.map((figure) => figure ?? DASH);
    cell.title = `GPU ${cell.dataset.cell}: ${busy} % busy, ${heat} °C, ${memory} % of its memory${cell.dataset.closed ? `, ${cell.dataset.closed}` : ""}`;
  });
  const processor = tile.querySelector("[data-cpu]");
  if (processor) processor.textContent = cpu === null ? DASH : String(cpu);
}

on("fleet", ({ kind, data }) => {
  const shown = map();
  if (kind !== "figures" || !shown) return;
  const how = { heatPlace: Number(shown.dataset.heatPlace), low: Number(shown.dataset.low), high: Number(shown.dataset.high) };
  for (const tile of shown.querySelectorAll("[data-tile]")) {
    const figures = data.hosts[tile.dataset.tile];
    if (figures) move(tile, figures, how);
  }
});

form?.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") form.requestSubmit(); });
