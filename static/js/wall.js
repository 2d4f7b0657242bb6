// The wall: the time, losses of what runs, a screen that stays awake when asked to. Everything else is drawn by the
// server when something was announced. After an update of the product the page loads itself anew.
import { on } from "./live.js";
import { send } from "./csrf.js";
import { duration, figure, number, sparkPath } from "./format.js";
import "./served.js";

const POINTS = 300;
const box = document.getElementById("wall");
const losses = new Map(), followed = new Map(); // a run to its values, and to what ends following it

// --- Runs ---------------------------------------------------------------------------------------------------------

function paint(run) {
  const path = document.querySelector(`[data-wall-run="${run}"] path`);
  const values = losses.get(run);
  if (!path || !values?.length) return;
  path.setAttribute("d", sparkPath(values.map(number)));
  document.querySelector(`[data-wall-loss="${run}"]`).textContent = figure(values.at(-1));
}

function follow(run) {
  losses.set(run, []);
  followed.set(run, on(`run:${run}`, ({ kind, data }) => {
    if (kind === "reset") return read(run);
    const left = document.querySelector(`[data-wall-left="${run}"]`);
    const seconds = data.progress?.eta_seconds ?? data.eta_seconds;
    if (left && seconds != null) left.textContent = `${duration(seconds)} left`;
    if (kind !== "metrics") return undefined;
    losses.set(run, [...losses.get(run), ...(data.points.loss ?? []).map(([, value]) => value)].slice(-POINTS));
    return paint(run);
  }));
  return read(run);
}

function forget(run) {
  followed.get(run)();
  followed.delete(run);
  losses.delete(run);
}

async function read(run) {
  try {
    const { series } = await (await send(`/api/runs/${run}/metrics?keys=loss&max_points=${POINTS}`)).json();
    if (!losses.has(run)) return; // its tile has gone
    losses.set(run, series.loss?.value ?? []);
    paint(run);
  } catch (error) {
    console.info(error.message);
  }
}

function look() {
  const shown = new Set([...document.querySelectorAll("[data-wall-run]")].map(({ dataset }) => dataset.wallRun));
  for (const run of [...followed.keys()]) if (!shown.has(run)) forget(run);
  for (const run of shown) {
    if (losses.has(run)) paint(run);
    else follow(run);
  }
  const made = box.querySelector("[data-made-by]")?.dataset.madeBy;
  if (made && made !== box.dataset.version) location.reload();
}
document.addEventListener("drawn", look);
look();

// --- The clock ------------------------------------------------------------------------------------------------------

const clock = document.getElementById("wall-clock");
const tick = () => { clock.textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }); };
setInterval(tick, 5000);
tick();

// --- The screen -----------------------------------------------------------------------------------------------------

const awake = document.getElementById("wall-awake"), full = document.getElementById("wall-full");
const said = document.getElementById("wall-awake-state");
let wanted = false;

async function hold() {
  if (!wanted || document.visibilityState !== "visible") return;
  try {
    await navigator.wakeLock.request("screen");
    said.textContent = "The screen stays awake.";
  } catch {
    wanted = false;
    said.textContent = "The system lets the screen sleep: its battery is low, or it forbids it.";
  }
  awake.setAttribute("aria-pressed", String(wanted));
}

awake.hidden = !("wakeLock" in navigator);
awake.addEventListener("click", () => { wanted = true; hold(); });
document.addEventListener("visibilitychange", hold);
full.hidden = !document.fullscreenEnabled;
full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()));
