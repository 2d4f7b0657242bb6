// Progress of fetches, validations and jobs, moved in place as it is announced: how much, how fast, how long still.
import { on } from "./live.js";
import { count, filesize } from "./format.js";
import { Rate } from "./rate.js";

const rates = new Map();

// What changes its unit or its total is another part of the job, with a pace of its own.
function pace(about, { done, total, unit }) {
  const part = `${unit} ${total}`, known = rates.get(about);
  const rate = known?.part === part ? known.rate : new Rate();
  rates.set(about, { part, rate });
  return rate.add(done);
}

function words({ done, total, unit, note }) {
  if (unit === "bytes" && note && !/row/i.test(note)) return `${note} ${filesize(done)}${total ? ` of ${filesize(total)}` : ""}`;
  return total ? `${note || ""} ${((100 * done) / total).toFixed(1)} %`.trim() : note || "";
}

function amount({ done, total, unit, note }) {
  if (!total && unit !== "bytes") return note;
  const [some, all] = unit === "bytes" ? [filesize(done), total ? filesize(total) : "?"] : [count(done), `${total ? count(total) : "?"} ${unit}`];
  return `${some} of ${all}${note ? `, ${note}` : ""}`;
}

const joined = (...texts) => texts.filter(Boolean).join(" · ");

for (const topic of ["models", "datasets"]) {
  if (!document.querySelector(`[data-fragment]`)) break;
  on(topic, ({ kind, data }) => {
    if (kind !== "progress") return;
    const how = pace(`${topic} ${data.id}`, data).words(data.unit, data.total);
    for (const place of document.querySelectorAll(`[data-progress="${topic}"]`)) {
      if (place.dataset.id !== String(data.id)) continue;
      const bar = place.querySelector("progress");
      if (data.total) { bar.max = data.total; bar.value = data.done; } else bar.removeAttribute("value");
      place.querySelector("[data-words]").textContent = joined(words(data), how);
    }
  });
}

on("jobs", ({ kind, data }) => {
  if (kind === "status") {
    const phase = data.status === "running" && data.phase !== "active" ? data.phase : "";
    for (const place of document.querySelectorAll(`[data-job-phase="${Number(data.id)}"]`)) place.textContent = phase;
  }
  if (kind !== "progress" || !data.progress) return;
  const { done, total, unit } = data.progress, rate = pace(`job ${data.id}`, data.progress), how = rate.words(unit, total);
  for (const place of document.querySelectorAll(`[data-job-bar="${Number(data.id)}"]`)) {
    const bar = place.querySelector("progress");
    if (total) { bar.max = 100; bar.value = (100 * done) / total; } else bar.removeAttribute("value");
    place.querySelector("[data-words]").textContent = joined(amount(data.progress), how);
  }
  if (!total) return;
  for (const place of document.querySelectorAll(`[data-job-percent="${Number(data.id)}"]`)) {
    const left = unit === "steps" ? "" : rate.left(total); // a run reckons by itself how long it still takes
    place.textContent = joined(`${((100 * done) / total).toFixed(1)} %`, left);
    place.title = how;
  }
});
