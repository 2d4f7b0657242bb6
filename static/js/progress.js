// Progress of fetches, validations and jobs, moved in place as it is announced.
import { on } from "./live.js";
import { filesize } from "./format.js";

function words({ done, total, unit, note }) {
  if (unit === "bytes" && note && !/row/i.test(note)) return `${note} ${filesize(done)}${total ? ` of ${filesize(total)}` : ""}`;
  return total ? `${note || ""} ${((100 * done) / total).toFixed(1)} %`.trim() : note || "";
}

for (const topic of ["models", "datasets"]) {
  if (!document.querySelector(`[data-fragment]`)) break;
  on(topic, ({ kind, data }) => {
    if (kind !== "progress") return;
    for (const place of document.querySelectorAll(`[data-progress="${topic}"]`)) {
      if (place.dataset.id !== String(data.id)) continue;
      const bar = place.querySelector("progress");
      if (data.total) { bar.max = data.total; bar.value = data.done; } else bar.removeAttribute("value");
      place.querySelector("[data-words]").textContent = words(data);
    }
  });
}

on("jobs", ({ kind, data }) => {
  if (kind === "status") {
    const phase = data.status === "running" && data.phase !== "active" ? data.phase : "";
    for (const place of document.querySelectorAll(`[data-job-phase="${Number(data.id)}"]`)) place.textContent = phase;
  }
  if (kind !== "progress" || !data.progress?.total) return;
  for (const place of document.querySelectorAll(`[data-job-percent="${Number(data.id)}"]`)) {
    place.textContent = `${((100 * data.progress.done) / data.progress.total).toFixed(1)} %`;
  }
});
