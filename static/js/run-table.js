// The table of runs: rows are drawn anew where they stand, and joined by new ones. What is chosen, scrolled to or
// filtered stays as it is: a row that no longer fits the filters stays until the page is loaded again.
import { chosen } from "./choosing.js";
import { on } from "./live.js";

const WAIT_MS = 200, PROGRESS_MS = 4000;
const PAGES_KEPT = 4; // so many pages of rows may gather before the lowest go
const box = document.getElementById("runs");

const rows = () => [...box.querySelectorAll("tr[data-run]")];

// --- Alive ---------------------------------------------------------------------------------------------------------

async function parsed(url) {
  const answer = await fetch(url, { credentials: "same-origin", headers: { "HX-Request": "true" } });
  if (!answer.ok || answer.redirected) throw new Error(`${url} answered ${answer.status}`);
  const template = document.createElement("template");
  template.innerHTML = await answer.text();
  return template.content;
}

// Puts a row in the place of the one that is there; who has the focus keeps it.
function replace(old, fresh) {
  if (old.innerHTML === fresh.innerHTML) return;
  const places = [...old.querySelectorAll("a, input")], focused = places.indexOf(document.activeElement);
  old.replaceWith(fresh);
  if (focused >= 0) fresh.querySelectorAll("a, input")[focused]?.focus({ preventScroll: true });
}

function settle() {
  document.dispatchEvent(new CustomEvent("drawn", { detail: box }));
}

async function drawRows(runs) {
  const wanted = new URLSearchParams(location.search);
  wanted.delete("run");
  for (const run of runs) wanted.append("run", run);
  const content = await parsed(`${box.dataset.rows}?${wanted}`);
  for (const fresh of content.querySelectorAll("tr[data-run]")) {
    const old = box.querySelector(`tr[data-run="${fresh.dataset.run}"]`);
    if (old) replace(old, fresh);
  }
  settle();
}

// The page as it is now: rows that are new take their place among those that are there.
async function drawAll() {
  const content = await parsed(location.pathname + location.search);
  const body = document.getElementById("run-rows");
  if (!body) {
    box.replaceChildren(content);
    return settle();
  }
  let behind = null;
  for (const fresh of content.querySelectorAll("tr[data-run]")) {
    const old = body.querySelector(`tr[data-run="${fresh.dataset.run}"]`);
    if (old) replace(old, fresh);
    else if (behind) behind.after(fresh);
    else body.prepend(fresh);
    behind = body.querySelector(`tr[data-run="${fresh.dataset.run}"]`);
  }
  letGo(body);
  settle();
}

// New rows push the lowest out of a table that has been open for long; what is chosen or has the focus stays.
function letGo(body) {
  const most = PAGES_KEPT * Number(box.dataset.pageRows);
  for (const row of [...body.rows].slice(most)) {
    if (!chosen.has(row.dataset.run) && !row.contains(document.activeElement)) row.remove();
  }
}

const due = new Set();
let timer = 0, isAllDue = false, busy = false;

async function drawDue() {
  timer = 0;
  if (busy) return wait(WAIT_MS);
  const runs = [...due], all = isAllDue;
  due.clear();
  isAllDue = false;
  busy = true;
  try {
    if (all) await drawAll();
    else if (runs.length) await drawRows(runs);
  } catch (error) {
    console.warn(error.message); // nobody answers: the banner says so, and what is missed comes with the next
  }
  busy = false;
}

function wait(milliseconds) {
  if (!timer) timer = setTimeout(drawDue, milliseconds);
}

on("jobs", ({ kind, data }) => {
  if (kind === "reset") {
    isAllDue = true;
    return wait(WAIT_MS);
  }
  const row = rows().find((one) => one.dataset.job === String(data.id));
  if (row) {
    due.add(row.dataset.run);
    if (kind === "status") { clearTimeout(timer); timer = 0; }
    wait(kind === "status" ? WAIT_MS : PROGRESS_MS);
  } else if (kind === "status" && data.run_id && box.dataset.isFirst === "yes") {
    isAllDue = true;
    wait(WAIT_MS);
  }
});
