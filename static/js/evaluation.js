// One evaluation: its rows are filtered in place.
import { draw } from "./draw.js";

const WAIT_MS = 250;
const form = document.getElementById("example-filter");
const rows = document.getElementById("example-rows");
let timer = 0, offset = 0;

async function show() {
  timer = 0;
  const wanted = new URLSearchParams(new FormData(form));
  wanted.set("offset", offset);
  try {
    await draw(rows, `${form.dataset.part}?${wanted}`);
  } catch (error) {
    console.warn(error.message);
  }
}

function ask(from) {
  offset = from;
  if (!timer) timer = setTimeout(show, WAIT_MS);
}

form.addEventListener("input", () => ask(0));
form.addEventListener("submit", (event) => { event.preventDefault(); ask(0); });
rows.addEventListener("click", (event) => {
  const door = event.target.closest("[data-offset]");
  if (!door || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  ask(Number(door.dataset.offset));
});

// The rows grow while it works, and are there when it is done.
document.addEventListener("drawn", ({ detail }) => { if (detail.dataset?.only) ask(offset); });
