// The losses of runs that go on as small lines, [data-run-spark], with the last value, [data-run-loss], and the time that
// is left, [data-run-left]; each names its run. What the server draws anew is followed, what has gone no longer.
import { on } from "./live.js";
import { send } from "./csrf.js";
import { duration, figure, number, sparkPath } from "./format.js";

const POINTS = 300;
const losses = new Map(), followed = new Map(); // a run to its values, and to what ends following it

const places = (name, run) => document.querySelectorAll(`[data-run-${name}="${Number(run)}"]`);

function paint(run) {
  const values = losses.get(run);
  if (!values?.length) return;
  for (const spark of places("spark", run)) spark.firstElementChild.setAttribute("d", sparkPath(values.map(number)));
  for (const place of places("loss", run)) place.textContent = figure(values.at(-1));
}

function follow(run) {
  losses.set(run, []);
  followed.set(run, on(`run:${run}`, ({ kind, data }) => {
    if (kind === "reset") return read(run);
    const seconds = data.progress?.eta_seconds ?? data.eta_seconds;
    if (seconds != null) for (const place of places("left", run)) place.textContent = `${duration(seconds)} left`;
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
    if (!losses.has(run)) return; // its place has gone
    losses.set(run, series.loss?.value ?? []);
    paint(run);
  } catch (error) {
    console.info(error.message);
  }
}

function look() {
  const shown = new Set([...document.querySelectorAll("[data-run-spark]")].map(({ dataset }) => dataset.runSpark));
  for (const run of [...followed.keys()]) if (!shown.has(run)) forget(run);
  for (const run of shown) {
    if (losses.has(run)) paint(run);
    else follow(run);
  }
}

document.addEventListener("drawn", look);
look();
