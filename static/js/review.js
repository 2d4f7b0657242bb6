// The review of generated rows: one at a time, by keys, buttons or thumb. What is decided is shown at once and sent
// behind it, in order; a refusal comes back with its sentence. Rows that were decided stay in the list until another
// one is asked for, so that going back finds them.
import { send } from "./csrf.js";
import { ask as askFirst } from "./dialogs.js";
import { closeForm, openForm, showFaults, showRow, typed } from "./review-card.js";
import { count } from "./format.js";
import { on } from "./live.js";
import { toast } from "./toasts.js";

const PAGE = 50, AHEAD = 10;
const KEYS = { a: "accept", r: "reject", e: "edit", u: "undo", arrowleft: "back", arrowright: "next" };
const ONCE_A_PRESS = new Set(["accept", "reject", "edit", "undo"]);
const part = (name) => document.getElementById(`review-${name}`);
const box = document.getElementById("review"), empty = document.querySelector("[data-review-job]");
const past = [];
let rows = [], counts = {}, filter = "pending", place = 0, last = 0, more = true, loading = null;
let sending = Promise.resolve(), waiting = 0, held = null, editing = false, saving = false;

async function ask(path, method = "GET", body = null) {
  const options = body ? { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : { method };
  return (await send(`${box.dataset.api}${path}`, options)).json();
}

// --- The list ----------------------------------------------------------------------------------------------------------

async function load() {
  const mine = rows;
  try {
    const page = await ask(`?${new URLSearchParams({ state: filter, after: last, limit: PAGE })}`);
    if (mine !== rows) return;
    rows.push(...page.rows.filter((row) => !rows.some((known) => known.number === row.number)));
    if (page.rows.length) last = page.rows[page.rows.length - 1].number;
    more = page.rows.length === PAGE;
    if (!waiting) counts = page.counts;
  } catch (error) {
    more = false;
    toast(error.message);
  }
}

function ahead() {
  if (!more || loading || place + AHEAD < rows.length) return;
  const mine = loading = load().then(() => { if (loading === mine) loading = null; show(); });
}

function choose(wanted) {
  filter = wanted;
  rows = [];
  place = last = 0;
  more = true;
  loading = null;
  show();
}

function go(to) {
  place = Math.max(0, Math.min(to, rows.length));
  show();
  scrollTo({ top: 0 });
}

// --- Showing -----------------------------------------------------------------------------------------------------------

function show() {
  ahead();
  const row = rows[place], decided = (counts.accepted ?? 0) + (counts.rejected ?? 0), total = decided + (counts.pending ?? 0);
  part("bar").max = total || 1;
  part("bar").value = decided;
  part("words").textContent = `${count(decided)} of ${count(total)} decided · ${count(counts.accepted)} accepted · ${count(counts.rejected)} rejected`;
  for (const button of box.querySelectorAll("[data-filter]")) button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
  for (const number of box.querySelectorAll("[data-count]")) number.textContent = count(counts[number.dataset.count]);
  part("card").hidden = !row;
  part("empty").hidden = Boolean(row) || Boolean(loading);
  if (row) showRow(row);
  else showEnd();
  controls(row);
}

function showEnd() {
  const [title, text] = part("empty").children;
  title.textContent = rows.length ? "That was the last one" : filter ? `No row is ${filter}` : "No row";
  text.textContent = counts.pending && filter === "pending" ? "Go back to those that you left open." : "What is accepted becomes a dataset when you make one of it.";
}

function controls(row) {
  const locked = "locked" in box.dataset;
  const may = { back: place > 0, next: Boolean(row), undo: past.length > 0 && !locked, accept: row && !locked, reject: row && !locked, edit: row && !locked };
  for (const button of box.querySelectorAll("[data-do]")) button.disabled = editing || !may[button.dataset.do];
  for (const button of box.querySelectorAll("[data-filter]")) button.disabled = saving;
  const all = document.getElementById("accept-all");
  if (all && !locked) all.disabled = saving || !counts.pending;
  part("foot").hidden = editing;
}

// --- Deciding ----------------------------------------------------------------------------------------------------------

// What a decision changes of a row, as it is now; `decided_by` is the server's to say.
function as({ state, messages, original, decided_by }) {
  return { state, messages, original, decided_by };
}

function tally(from, to) {
  counts = { ...counts, [from]: counts[from] - 1, [to]: counts[to] + 1 };
}

function post(row, body, before) {
  waiting += 1;
  sending = sending.then(async () => {
    try {
      const answer = await ask(`/${row.number}`, "PATCH", body);
      if (waiting === 1) counts = answer.counts;
    } catch (error) {
      tally(row.state, before.state);
      Object.assign(row, before);
      const undone = past.findIndex((step) => step.row === row);
      if (undone >= 0) past.splice(undone, 1);
      toast(`Row ${row.number} stays as it was: ${error.message}`);
    }
    waiting -= 1;
    show();
  });
}

function put(state) {
  const row = rows[place];
  if (row.state !== state) {
    const before = as(row);
    past.push({ row, before, isEdit: false });
    tally(row.state, state);
    Object.assign(row, { state, decided_by: "" });
    post(row, { state }, before);
  }
  go(place + 1);
}

function undo() {
  const { row, before, isEdit } = past.pop();
  const now = as(row);
  tally(row.state, before.state);
  Object.assign(row, before);
  if (!rows.includes(row)) rows.splice(place, 0, row);
  post(row, isEdit ? { state: before.state, messages: before.messages } : { state: before.state }, now);
  go(rows.indexOf(row));
}

function edit() {
  editing = true;
  openForm(rows[place], (messages) => ask("/check", "POST", { messages }));
  controls(rows[place]);
}

function leave() {
  editing = false;
  closeForm();
  controls(rows[place]);
}

function hasTyped() {
  return editing && typed().some(({ content }, index) => content !== rows[place].messages[index].content);
}

// Does what ends an edit: never while it is saved, and where something was typed only once that may go.
function unlessTyped(then = () => {}) {
  if (saving) return;
  const end = () => { if (editing) leave(); then(); };
  if (hasTyped()) askFirst("Throw away what you typed?", `Row ${count(rows[place].number)} stays as it was.`, "Throw it away", true, end);
  else end();
}

function hold(isSaving) {
  saving = isSaving;
  part("form").inert = isSaving;
  controls(rows[place]);
}

async function save() {
  const row = rows[place], messages = typed(), focused = document.activeElement;
  if (part("save").disabled || saving) return;
  hold(true);
  part("save").disabled = true;
  await sending;
  try {
    const answer = await ask(`/${row.number}`, "PATCH", { messages, state: "accepted" });
    past.push({ row, before: as(row), isEdit: true });
    Object.assign(row, answer.row);
    counts = answer.counts;
    leave();
    go(place + 1);
  } catch (error) {
    showFaults([{ message: error.message }], false);
  }
  hold(false);
  if (editing) focused.focus();
}

// What is still on its way comes before the rest is accepted.
function acceptAll(event) {
  if (!waiting) return;
  event.preventDefault();
  event.stopPropagation(); // else dialogs.js would ask now
  held ??= sending.then(() => { held = null; event.target.requestSubmit(); });
}

// --- Keys, mouse and thumb ---------------------------------------------------------------------------------------------

const DO = {
  accept: () => put("accepted"), reject: () => put("rejected"), edit, undo,
  back: () => go(place - 1), next: () => go(place + 1),
};

function act(what) {
  const button = box.querySelector(`[data-do="${what}"]`);
  if (!button.disabled) DO[what]();
}

function pressed(event) {
  if (document.querySelector("dialog[open]")) return;
  if (editing) {
    if (event.key === "Escape") { event.preventDefault(); unlessTyped(); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select")) return;
  const what = KEYS[event.key.toLowerCase()];
  if (!what || (event.repeat && ONCE_A_PRESS.has(what))) return;
  event.preventDefault();
  act(what);
}

function begin() {
  for (const number of box.querySelectorAll("[data-count]")) counts[number.dataset.count] = Number(number.textContent.replaceAll(",", ""));
  box.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-do], [data-filter]");
    if (button?.dataset.do) act(button.dataset.do);
    else if (button) unlessTyped(() => choose(button.dataset.filter));
  });
  part("form").addEventListener("submit", (event) => { event.preventDefault(); save(); });
  part("leave").addEventListener("click", () => unlessTyped());
  document.getElementById("accept-all")?.form.addEventListener("submit", acceptAll);
  document.addEventListener("keydown", pressed);
  addEventListener("beforeunload", (event) => { if (waiting || saving || hasTyped()) event.preventDefault(); });
  on("jobs", ({ kind, data }) => {
    if (kind !== "generated" || String(data.id) !== box.dataset.job) return;
    if (data.dataset) location.reload();
    more = true;
    show();
  });
  choose(counts.pending ? "pending" : "");
}

if (box) begin();
else if (empty) on("jobs", ({ kind, data }) => { if (kind === "generated" && String(data.id) === empty.dataset.reviewJob) location.reload(); });
