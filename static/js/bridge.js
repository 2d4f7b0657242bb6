// The bridge follows the run that is going (another one's chart is read anew) and the active engine's figures.
import { on } from "./live.js";
import { count, figure } from "./format.js";

const shown = document.getElementById("chart-loss")?.dataset.run || "";
const followed = new Set();

on("jobs", ({ kind, data }) => {
  const starts = kind === "status" && data.kind === "train" && data.status === "running" && data.phase !== "stopping";
  if (!starts || String(data.run_id) === shown) return;
  if (!document.querySelector("#running .dot.run")) location.reload();
});

function follow() {
  const box = document.querySelector("[data-deployment]");
  if (!box || followed.has(box.dataset.deployment)) return;
  const id = box.dataset.deployment;
  followed.add(id);
  on(`deployment:${id}`, ({ kind, data }) => {
    const figures = document.querySelector(`[data-deployment="${id}"]`);
    if (kind !== "telemetry" || !figures) return;
    for (const place of figures.querySelectorAll("[data-stat]")) {
      const value = data.statistics[place.dataset.stat];
      place.textContent = place.dataset.stat === "tokens_per_second" ? figure(value, 3) : count(value);
    }
  });
}

document.addEventListener("drawn", follow);
follow();
