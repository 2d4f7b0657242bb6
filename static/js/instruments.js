// Cards of hosts and GPUs, moved by telemetry. A card is drawn anew only when its power or who holds its memory changes.
import { on } from "./live.js";
import { draw } from "./draw.js";
import { count, figure, filesize, gib, sparkPath } from "./format.js";

const KEPT_MS = 5 * 60 * 1000;
const history = load();
let known = cards();

function load() {
  try { return JSON.parse(sessionStorage.getItem("instruments") || "{}"); } catch { return {}; }
}

function save() {
  try { sessionStorage.setItem("instruments", JSON.stringify(history)); } catch { /* full or forbidden: the page has it */ }
}

function cards() {
  return new Set([...document.querySelectorAll("[data-gpu]")].map((card) => card.dataset.gpu));
}

function note(key, value) {
  const now = Date.now();
  const rows = (history[key] ||= []);
  rows.push([now, value]);
  while (rows.length && now - rows[0][0] > KEPT_MS) rows.shift();
}

function paint() {
  for (const spark of document.querySelectorAll("[data-spark]")) {
    const rows = (history[spark.dataset.spark] || []).filter(([time]) => Date.now() - time < KEPT_MS);
    spark.firstElementChild.setAttribute("d", sparkPath(rows.map(([, value]) => value), 240, 34, 0, 100));
  }
}

function set(card, name, text) {
  const place = card.querySelector(`[data-figure="${name}"]`);
  if (place && place.textContent !== text) place.textContent = text;
}

function updateHost(card, reading) {
  set(card, "cpu_percent", count(reading.cpu_percent));
  set(card, "memory_used_gib", gib(reading.memory_used_bytes));
  set(card, "load_1m", figure(reading.load_1m, 2));
  for (const disk of reading.disks) {
    const name = CSS.escape(disk.mount);
    const bar = card.querySelector(`[data-disk="${name}"]`);
    if (!bar) continue;
    bar.value = disk.total_bytes ? (100 * disk.used_bytes) / disk.total_bytes : 0;
    card.querySelector(`[data-disk-text="${name}"]`).textContent = `${filesize(disk.used_bytes)} of ${filesize(disk.total_bytes)}`;
  }
}

function holders(gpu) {
  return gpu.processes.map((item) => `${item.pid}:${item.job_id ?? ""}`).sort().join(" ");
}

function redraw(card) {
  if (card.dataset.drawing) return;
  card.dataset.drawing = "yes";
  draw(card, card.dataset.card, { whole: true }).catch((error) => { delete card.dataset.drawing; console.warn(error.message); });
}

function updateGpu(card, gpu) {
  set(card, "temperature_celsius", figure(gpu.temperature_celsius, 3));
  set(card, "power_draw_watts", count(gpu.power_draw_watts));
  set(card, "power_limit_watts", count(gpu.power_limit_watts));
  set(card, "utilization_gpu_percent", count(gpu.utilization_gpu_percent));
  set(card, "fan_speed_percent", count(gpu.fan_speed_percent));
  if (card.dataset.holders !== holders(gpu)) redraw(card);
}

function telemetry({ host, reading, online }) {
  if (!online || !reading) return refreshAll();
  note(`cpu.${host}`, reading.cpu_percent);
  for (const gpu of reading.gpus) note(`gpu.${gpu.uuid}`, gpu.utilization_gpu_percent);
  for (const card of document.querySelectorAll("[data-host]")) {
    if (card.dataset.host !== host) continue;
    const gpu = reading.gpus.find((item) => item.uuid === card.dataset.gpu);
    if (gpu) updateGpu(card, gpu);
    else if (!card.dataset.gpu) updateHost(card, reading);
  }
  const isNew = reading.gpus.some((gpu) => !known.has(gpu.uuid)) || !document.querySelector("[data-host]");
  if (isNew) refreshAll(reading);
  paint();
  save();
}

function refreshAll(reading = null) {
  for (const gpu of reading?.gpus || []) known.add(gpu.uuid);
  for (const box of document.querySelectorAll('[data-refresh~="hosts:hosts-changed"]')) box.dispatchEvent(new Event("refresh"));
}

on("hosts", ({ kind, data }) => {
  if (kind === "telemetry") telemetry(data);
  if (kind === "reset") for (const card of document.querySelectorAll("[data-gpu]")) redraw(card);
  if (kind === "status") {
    for (const card of document.querySelectorAll("[data-gpu]")) if (card.dataset.gpu === data.gpu) redraw(card);
  }
});
document.addEventListener("drawn", () => { known = new Set([...known, ...cards()]); paint(); });
paint();
