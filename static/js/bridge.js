// The bridge follows the run that is going (another one's chart is read anew) and the active engine's figures.
import { on } from "./live.js";
import "./run-sparks.js";
import "./served.js";

const shown = document.getElementById("chart-loss")?.dataset.run || "";

on("jobs", ({ kind, data }) => {
  const starts = kind === "status" && data.kind === "train" && data.status === "running" && data.phase !== "stopping";
  if (!starts || String(data.run_id) === shown) return;
  if (!document.querySelector("#running .dot.run")) location.reload();
});
