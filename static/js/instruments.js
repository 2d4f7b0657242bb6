// Cards of hosts and GPUs, moved by telemetry. A card is drawn anew only when its power or who holds its memory changes,
// and the lower part of a host's page only when something that it says in words has changed.
import { on } from "./live.js";
import { draw } from "./draw.js";
import { send } from "./csrf.js";
import { DASH, count, figure, filesize, gib, skew, timePath } from "./format.js";

const KEPT_SECONDS = 5 * 60;
const RETRY_MS = 5000;
const SLOW_FIGURES = [
  "fault", "unsupported", "pcie_generation", "pcie_width", "ecc_enabled", "ecc_corrected_count",
  "ecc_uncorrected_count", "persistence_mode",
];
const lines = new Map(); // "HOST SERIES" to [[time, value]], by the host's clock
const clocks = new Map(); // host to the newest time known of it
const asked = new Set();
const away = new Set();
let known = cards();

function cards() {
  return new Set([...document.querySelectorAll("[data-gpu]")].map((card) => card.dataset.gpu));
}

// --- Sparklines: from the server's history at first, by telemetry from then on ----------------------------------------

function sparks() {
  return [...document.querySelectorAll("[data-history] [data-spark]")].map((spark) => {
    const card = spark.closest("[data-history]");
    return { spark, host: card.dataset.host, address: card.dataset.history, name: spark.dataset.spark };
  });
}

async function load(again = false) {
  if (again) asked.clear();
  const wanted = new Map();
  for (const { host, address, name } of sparks()) {
    if (asked.has(`${host} ${name}`)) continue;
    asked.add(`${host} ${name}`);
    if (!wanted.has(host)) wanted.set(host, { address, names: [] });
    wanted.get(host).names.push(name);
  }
  await Promise.all([...wanted].map(([host, { address, names }]) => loadHost(host, address, names)));
  paint();
}

async function loadHost(host, address, names) {
  const query = new URLSearchParams({ names: names.join(","), minutes: KEPT_SECONDS / 60, max_points: 300 });
  try {
    const { series } = await (await send(`${address}?${query}`)).json();
    for (const [name, line] of Object.entries(series)) {
      const live = (lines.get(`${host} ${name}`) || []).filter(([time]) => time > (line.time.at(-1) ?? 0));
      lines.set(`${host} ${name}`, [...line.time.map((time, index) => [time, line.mean[index]]), ...live]);
      clocks.set(host, Math.max(clocks.get(host) ?? 0, line.time.at(-1) ?? 0));
    }
  } catch (error) {
    console.info(`the history of ${host}: ${error.message}`);
    setTimeout(() => { for (const name of names) asked.delete(`${host} ${name}`); load(); }, RETRY_MS);
  }
}

function note(host, name, time, value) {
  const key = `${host} ${name}`;
  if (!lines.has(key)) lines.set(key, []);
  const rows = lines.get(key);
  while (rows.length && rows.at(-1)[0] >= time) rows.pop(); // the host's clock was set back
  rows.push([time, value ?? null]);
  while (rows[0][0] < time - KEPT_SECONDS) rows.shift();
}

function paint() {
  for (const { spark, host, name } of sparks()) {
    const now = clocks.get(host);
    if (now === undefined) continue;
    const { low, high } = spark.dataset;
    const range = { low: low ? Number(low) : null, high: high ? Number(high) : null };
    const points = (lines.get(`${host} ${name}`) || []).filter(([time]) => time >= now - KEPT_SECONDS);
    const path = timePath(points, now - KEPT_SECONDS, now, range);
    if (spark.firstElementChild.getAttribute("d") !== path) spark.firstElementChild.setAttribute("d", path);
  }
}

// --- Figures in place -------------------------------------------------------------------------------------------------

// As figure_text in controlplane/pages/gpu_details.py has it.
function words(name, value) {
  if (name === "temperature_celsius") return figure(value, 3);
  if (name === "load_1m") return figure(value, 2);
  if (name.endsWith("_bytes_per_second")) return `${filesize(value)}/s`;
  return name.endsWith("_bytes") ? gib(value) : count(value);
}

function put(place, text) {
  if (place && place.textContent !== text) place.textContent = text;
}

function putFigures(card, reading) {
  for (const place of card.querySelectorAll("[data-figure]")) {
    if (place.dataset.figure in reading) put(place, words(place.dataset.figure, reading[place.dataset.figure]));
  }
  const held = card.querySelector("[data-reasons]");
  if (held && reading.throttle_reasons) {
    const names = JSON.parse(held.dataset.reasons);
    put(held, reading.throttle_reasons.map((reason) => names[reason] ?? reason).join(", ") || "nothing");
  }
}

function updateHost(card, reading) {
  putFigures(card, reading);
  for (const disk of reading.disks) {
    const name = CSS.escape(disk.mount);
    const bar = card.querySelector(`[data-disk="${name}"]`);
    if (!bar) continue;
    bar.value = disk.total_bytes ? (100 * disk.used_bytes) / disk.total_bytes : 0;
    put(card.querySelector(`[data-disk-text="${name}"]`), `${filesize(disk.used_bytes)} of ${filesize(disk.total_bytes)}`);
  }
  for (const network of reading.networks) {
    const text = `${filesize(network.received_bytes_per_second)}/s in, ${filesize(network.sent_bytes_per_second)}/s out`;
    put(card.querySelector(`[data-network="${CSS.escape(network.name)}"]`), text);
  }
  reading.temperatures.forEach((sensor, index) => put(card.querySelector(`[data-temperature="${index}"]`), count(sensor.celsius)));
}

function updateProcesses(gpu) {
  for (const item of gpu.processes) {
    for (const place of document.querySelectorAll(`[data-process="${CSS.escape(`${gpu.uuid} ${item.pid}`)}"]`)) {
      const { of: name, unit } = place.dataset;
      put(place, item[name] == null ? DASH : `${(name.endsWith("_bytes") ? gib : count)(item[name])} ${unit}`);
    }
  }
}

function updateClock(host, seconds) {
  for (const place of document.querySelectorAll("[data-skew]")) {
    if (place.closest("[data-host]").dataset.host === host) put(place, skew(seconds));
  }
  for (const notice of document.querySelectorAll("[data-skew-notice]")) {
    if (notice.dataset.host === host) notice.hidden = !(Math.abs(seconds ?? 0) > Number(notice.dataset.limit));
  }
}

// --- What is drawn anew -----------------------------------------------------------------------------------------------

function holders(gpu) {
  return gpu.processes.map((item) => `${item.pid}:${item.job_id ?? ""}`).sort().join(" ");
}

// As `signature` in controlplane/pages/instruments.py has it.
function signature(reading) {
  const gpus = reading.gpus.map((gpu) => [gpu.uuid, holders(gpu), ...SLOW_FIGURES.map((name) => gpu[name] ?? null)]);
  const names = [["disks", "mount"], ["networks", "name"], ["temperatures", "label"]];
  const rest = names.map(([kind, name]) => (reading[kind] || []).map((item) => item[name]));
  return JSON.stringify([gpus, [reading.gpu_fault ?? null, reading.gpu_fault_since !== null, reading.clock_synchronized ?? null, ...rest]]);
}

function redraw(card) {
  if (card.dataset.drawing) return;
  card.dataset.drawing = "yes";
  draw(card, card.dataset.card, { whole: true }).catch((error) => { delete card.dataset.drawing; console.warn(error.message); });
}

function refreshAll() {
  for (const box of document.querySelectorAll('[data-refresh~="hosts:hosts-changed"]')) box.dispatchEvent(new Event("refresh"));
}

// --- Telemetry --------------------------------------------------------------------------------------------------------

function telemetry({ host, reading, online, clock_skew_seconds: seconds }) {
  if (!online || !reading) { away.add(host); return refreshAll(); }
  const time = Math.round(reading.time);
  clocks.set(host, time);
  for (const name of ["cpu_percent", "memory_used_bytes", "load_1m"]) note(host, name, time, reading[name]);
  for (const gpu of reading.gpus) {
    for (const name of ["temperature_celsius", "power_draw_watts", "utilization_gpu_percent"]) note(host, `${gpu.uuid}/${name}`, time, gpu[name]);
  }
  const now = signature(reading);
  for (const card of document.querySelectorAll("[data-host]")) if (card.dataset.host === host) update(card, reading, now);
  updateClock(host, seconds);
  const isUnread = [...document.querySelectorAll("[data-unread]")].some((card) => card.dataset.host === host);
  const isNew = away.delete(host) || isUnread || reading.gpus.some((gpu) => !known.has(gpu.uuid)) || !document.querySelector("[data-host]");
  for (const gpu of reading.gpus) { known.add(gpu.uuid); updateProcesses(gpu); }
  if (isNew) refreshAll();
  paint();
}

function update(card, reading, now) {
  const uuid = card.dataset.gpu || card.dataset.gpuDetails;
  if (uuid) {
    const gpu = reading.gpus.find((item) => item.uuid === uuid);
    if (!gpu) return;
    putFigures(card, gpu);
    if (card.dataset.card && card.dataset.holders !== `${holders(gpu)}|${gpu.fault ?? ""}`) redraw(card);
  } else if (card.dataset.signature !== undefined) {
    if (card.dataset.signature !== now) card.closest("[data-fragment]").dispatchEvent(new Event("refresh"));
  } else if (card.dataset.history || "hostDetails" in card.dataset) {
    updateHost(card, reading);
  }
}

on("hosts", ({ kind, data }) => {
  if (kind === "telemetry") telemetry(data);
  if (kind === "reset") {
    for (const card of document.querySelectorAll("[data-gpu]")) redraw(card);
    load(true);
  }
  if (kind === "status") {
    for (const card of document.querySelectorAll("[data-gpu]")) if (card.dataset.gpu === data.gpu) redraw(card);
  }
});
document.addEventListener("drawn", () => { known = new Set([...known, ...cards()]); load(); });
load();
