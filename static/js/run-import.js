// Sends event files in parts, one after the other; then they become a run.
import { send } from "./csrf.js";
import { count, filesize } from "./format.js";
import { sendPart } from "./parts.js";
import { Rate } from "./rate.js";

const form = document.getElementById("run-import");
const part = (id) => document.getElementById(id);
const JSON_BODY = { "Content-Type": "application/json" };
const uploaded = new Map(); // what is here already, by file: a second try sends the rest alone
let files = [], running = false;

// --- Choosing ------------------------------------------------------------------------------------------------------

const folderOf = (file) => (file.webkitRelativePath || "").split("/").slice(0, -1).join("/");

function choose(chosen) {
  if (running) return;
  delete part("fault").dataset.of;
  files = [...chosen].filter((file) => file.name.includes(form.dataset.word));
  const folders = new Set(files.map(folderOf)), total = files.reduce((sum, file) => sum + file.size, 0);
  const large = files.find((file) => file.size > Number(form.dataset.max)), empty = files.find((file) => !file.size);
  if (!files.length) fault(`None of them is an event file of TensorBoard: these have ${form.dataset.word} in their names.`);
  else if (folders.size > 1) fault(`The folder holds event files in ${folders.size} folders, and each is a run of its own: choose one of them. ${[...folders].slice(0, 5).join(", ")}`);
  else if (files.length > Number(form.dataset.most)) fault(`${files.length} files are too many for one run: choose up to ${form.dataset.most}.`);
  else if (large) fault(`${large.name} has ${filesize(large.size)}; this server takes ${filesize(form.dataset.max)}.`);
  else if (empty) fault(`${empty.name} is empty: leave it out.`);
  else fault("");
  part("chosen").textContent = files.length ? `${files.length === 1 ? files[0].name : `${files.length} files`}, ${filesize(total)}` : "Nothing chosen yet.";
  if (files.length && !part("name").value) part("name").value = [...folders][0].split("/").pop() || files[0].name.replace(/^.*tfevents\.?/, "") || files[0].name;
}

function fault(text) {
  part("fault").textContent = text;
  part("fault").hidden = !text;
}

function isNamed() {
  const fine = Boolean(part("name").value.trim());
  part("name_fault").textContent = "Give it a name.";
  part("name_fault").hidden = fine;
  part("name").toggleAttribute("aria-invalid", !fine);
  if (!fine) part("name").focus();
  return fine;
}

// --- Sending -------------------------------------------------------------------------------------------------------

async function start() {
  if (running || !isNamed()) return;
  if (!files.length) return fault("Choose event files first.");
  if (!part("fault").hidden && part("fault").dataset.of !== "sending") return;
  running = true;
  part("start").disabled = true;
  fault("");
  try {
    await sendAll();
    await become();
  } catch (error) {
    part("fault").dataset.of = "sending";
    fault(error.message === "Failed to fetch" ? "The server can't be reached. What has arrived stays there: press Import to go on." : error.message);
  }
  running = false;
  part("start").disabled = false;
}

async function sendAll() {
  const total = files.reduce((sum, file) => sum + file.size, 0), rate = new Rate();
  let done = 0;
  const show = (bytes) => {
    done += bytes;
    part("going").hidden = false;
    part("bar").max = total;
    part("bar").value = done;
    part("amount").textContent = `${filesize(done)} of ${filesize(total)} (${count((100 * done) / total)} %)`;
    part("speed").textContent = rate.add(done).words("bytes", total);
  };
  for (const file of files) {
    if (uploaded.has(file)) show(file.size);
    else await sendOne(file, show);
  }
}

async function sendOne(file, show) {
  const body = JSON.stringify({ filename: file.name, bytes: file.size, purpose: "run" });
  const facts = await (await send(form.dataset.uploads, { method: "POST", body, headers: JSON_BODY })).json();
  const onBreak = () => { part("speed").textContent = "the connection broke, trying again"; };
  for (let begin = 0, number = 1; begin < file.size; begin += facts.part_bytes, number += 1) {
    const blob = file.slice(begin, begin + facts.part_bytes);
    await sendPart(`${form.dataset.uploads}/${facts.id}/parts/${number}`, blob, { onBreak });
    show(blob.size);
  }
  uploaded.set(file, facts.id);
}

async function become() {
  part("amount").textContent = "All here. They become a run…";
  part("speed").textContent = "";
  const tags = part("tags").value.split(",").map((tag) => tag.trim()).filter(Boolean);
  const words = { name: part("name").value.trim(), tags, group: part("group").value.trim(), notes: part("notes").value };
  const body = JSON.stringify({ uploads: files.map((file) => uploaded.get(file)), ...words });
  const run = await (await send(form.dataset.api, { method: "POST", body, headers: JSON_BODY })).json();
  location.assign(`${form.dataset.page}${run.id}/`);
}

// --- Controls ------------------------------------------------------------------------------------------------------

for (const id of ["files", "folder"]) part(id)?.addEventListener("change", (event) => choose(event.target.files));
form?.addEventListener("submit", (event) => { event.preventDefault(); start(); });
const drop = part("drop");
for (const kind of ["dragenter", "dragover"]) drop?.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("is-over"); });
for (const kind of ["dragleave", "drop"]) drop?.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("is-over"); });
drop?.addEventListener("drop", (event) => choose(event.dataTransfer.files));
addEventListener("beforeunload", (event) => { if (running && uploaded.size < files.length) event.preventDefault(); });
