// Figures of engines in place: [data-deployment] holds [data-stat]s, which the topic deployment:ID moves.
import { on } from "./live.js";
import { count, figure } from "./format.js";

const followed = new Map(); // an engine to what ends following it

function follow() {
  const shown = new Set([...document.querySelectorAll("[data-deployment]")].map(({ dataset }) => dataset.deployment));
  for (const [id, end] of followed) if (!shown.has(id)) { end(); followed.delete(id); }
  for (const id of shown) {
    if (followed.has(id)) continue;
    followed.set(id, on(`deployment:${id}`, ({ kind, data }) => {
      if (kind !== "telemetry") return;
      for (const place of document.querySelectorAll(`[data-deployment="${id}"] [data-stat]`)) {
        const value = data.statistics[place.dataset.stat];
        place.textContent = place.dataset.stat === "tokens_per_second" ? figure(value, 3) : count(value);
      }
    }));
  }
}

document.addEventListener("drawn", follow);
follow();
