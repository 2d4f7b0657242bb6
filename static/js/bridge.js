// The bridge shows the run that is going: when another one starts, the page is read again for its chart.
import { on } from "./live.js";

const shown = document.getElementById("chart-loss")?.dataset.run || "";

on("jobs", ({ kind, data }) => {
  if (kind === "status" && data.kind === "train" && data.status === "running" && String(data.run_id) !== shown && data.phase !== "stopping") {
    if (!document.querySelector("#running .dot.run") || !shown) location.reload();
  }
});
