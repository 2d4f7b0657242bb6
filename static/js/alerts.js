// A new critical alert is said on whatever page one is; a click leads to all of them.
import { on } from "./live.js";
import { toast } from "./toasts.js";

const said = new Set();

on("alerts", ({ kind, data }) => {
  const isNew = kind === "alert" && data.severity === "critical" && !data.ended_at && !data.acknowledged_at;
  if (!isNew || said.has(data.id) || location.pathname.startsWith("/alerts/")) return;
  said.add(data.id);
  toast(`${data.title}: ${data.message}`, "error", { text: "Show the alerts", url: "/alerts/" });
});
