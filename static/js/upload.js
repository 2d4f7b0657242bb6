// Sends a dataset in parts. What the server holds is asked first, so an upload goes on after a break or a reload.
import { send } from "./csrf.js";
import { count, filesize } from "./format.js";
import { sendPart } from "./parts.js";
import { Rate } from "./rate.js";

const form = document.getElementById("upload");
const part = (id) => document.getElementById(id);
const fileInput = part("file"), nameInput = part("name"), fraction = part("eval_fraction");
let file = null, running = false, paused = false, controller = null, rate = new Rate();

const keyOf = (chosen) => `upload:${chosen.name}:${chosen.size}:${chosen.lastModified}`;
const remember = (key, value) => { try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* then it can't be resumed */ } };
const recall = (key) => { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } };
const forget = (key) => { try { localStorage.removeItem(key); } catch { /* nothing was kept */ } };

// --- Choosing ------------------------------------------------------------------------------------------------------

function choose(chosen) {
  if (!chosen || running) return;
  file = chosen;
  part("chosen").textContent = `${file.name}, ${filesize(file.size)}`;
  if (!nameInput.value) nameInput.value = recall(keyOf(file))?.name || file.name.replace(/\.[^.]+$/, "");
  fault("");
  const suffixes = form.dataset.suffixes.split(",");
  if (!suffixes.some((suffix) => file.name.toLowerCase().endsWith(suffix))) {
    fault(`${file.name} has none of the endings ${suffixes.join(", ")}. Give JSON lines, a JSON array, CSV or Parquet, plain or gzipped.`);
  } else if (file.size === 0) fault(`${file.name} is empty.`);
  else if (file.size > Number(form.dataset.max)) fault(`${file.name} has ${filesize(file.size)}; this server takes ${filesize(form.dataset.max)}.`);
}

function fault(text) {
  const place = part("fault");
  place.textContent = text;
  place.hidden = !text;
}

function fieldFault(id, input, text) {
  const place = part(id);
  place.textContent = text;
  place.hidden = !text;
  input.classList.toggle("is-invalid", Boolean(text));
  if (text) { input.setAttribute("aria-invalid", "true"); input.focus(); } else input.removeAttribute("aria-invalid");
  return !text;
}

function checked() {
  const share = Number(fraction.value.replace(",", "."));
  const fine = Number.isFinite(share) && fraction.value.trim() !== "" && share >= 0 && share <= 0.5;
  const fractionFine = fieldFault("fraction_fault", fraction, fine ? "" : "Give a number from 0 to 0.5.");
  const nameFine = fieldFault("name_fault", nameInput, nameInput.value.trim() ? "" : "Give it a name.");
  if (!file) fault("Choose a file first.");
  return file && fractionFine && nameFine ? share : null;
}

function unfinished() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith("upload:"));
  const place = part("unfinished");
  if (!keys.length) return;
  const { filename, done, bytes } = recall(keys[keys.length - 1]) || {};
  if (!filename) return;
  place.textContent = `The upload of ${filename} was broken off${bytes ? ` at ${Math.floor((100 * done) / bytes)} %` : ""}. Choose the same file again: it goes on from there.`;
  place.hidden = false;
}

// --- Sending -------------------------------------------------------------------------------------------------------

async function begin() {
  const kept = recall(keyOf(file));
  if (kept) {
    try { return await (await send(`${form.dataset.api}/${kept.id}`)).json(); } catch (error) {
      if (error.status !== 404) throw error;
      forget(keyOf(file));
    }
  }
  const body = JSON.stringify({ filename: file.name, bytes: file.size });
  const made = await (await send(form.dataset.api, { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
  return { parts: [], ...made };
}

async function upload() {
  const share = checked();
  if (share === null || running) return;
  running = true; paused = false; rate = new Rate();
  controls();
  fault("");
  const key = keyOf(file);
  try {
    const facts = await begin();
    const total = Math.max(1, Math.ceil(file.size / facts.part_bytes));
    const held = new Set(facts.parts);
    const sizeOf = (number) => Math.min(facts.part_bytes, file.size - (number - 1) * facts.part_bytes);
    let done = [...held].reduce((sum, number) => sum + sizeOf(number), 0);
    remember(key, { id: facts.id, name: nameInput.value, filename: file.name, bytes: file.size, done });
    show(done);
    for (let number = 1; number <= total && !paused; number += 1) {
      if (held.has(number)) continue;
      const start = (number - 1) * facts.part_bytes;
      controller = new AbortController();
      const onBreak = () => { part("speed").textContent = "the connection broke, trying again"; };
      await sendPart(`${form.dataset.api}/${facts.id}/parts/${number}`, file.slice(start, start + facts.part_bytes), { signal: controller.signal, onBreak });
      done += sizeOf(number);
      remember(key, { id: facts.id, name: nameInput.value, filename: file.name, bytes: file.size, done });
      show(done);
    }
    if (!paused) await complete(facts.id, key, share);
  } catch (error) {
    if (error.name !== "AbortError") fault(error.message === "Failed to fetch" ? "The server can't be reached. What has arrived stays there: press Upload to go on." : error.message);
  }
  running = false;
  controls();
}

async function complete(id, key, share) {
  part("amount").textContent = "All here. The server puts it together…";
  part("speed").textContent = "";
  const parents = [...part("parents").selectedOptions].map((option) => Number(option.value));
  const origin = { generator: part("generator").value, generator_version: part("generator_version").value, parents };
  const body = JSON.stringify({ name: nameInput.value.trim(), eval_fraction: share, ...origin });
  const dataset = await (await send(`${form.dataset.api}/${id}/complete`, { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
  forget(key);
  location.assign(`${form.dataset.page}${dataset.id}/`);
}

function show(done) {
  part("going").hidden = false;
  part("bar").max = file.size;
  part("bar").value = done;
  part("amount").textContent = `${filesize(done)} of ${filesize(file.size)} (${count((100 * done) / file.size)} %)`;
  part("speed").textContent = rate.add(done).words("bytes", file.size);
}

function controls() {
  part("start").hidden = running;
  part("start").textContent = paused || recall(file ? keyOf(file) : "") ? "Go on" : "Upload";
  part("pause").hidden = !running;
  part("abandon").hidden = running || !(file && recall(keyOf(file)));
}

// --- Controls ------------------------------------------------------------------------------------------------------

fileInput.addEventListener("change", () => { choose(fileInput.files[0]); controls(); });
form.addEventListener("submit", (event) => { event.preventDefault(); upload(); });
part("pause").addEventListener("click", () => { paused = true; controller?.abort(); });
part("abandon").addEventListener("click", async () => {
  const kept = recall(keyOf(file));
  forget(keyOf(file));
  part("going").hidden = true;
  paused = false;
  controls();
  try { await send(`${form.dataset.api}/${kept.id}`, { method: "DELETE" }); } catch { /* it is swept away after a day */ }
});
const drop = part("drop");
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("is-over"); });
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("is-over"); });
drop.addEventListener("drop", (event) => { choose(event.dataTransfer.files[0]); controls(); });
addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
unfinished();
