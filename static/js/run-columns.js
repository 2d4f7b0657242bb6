// The dialog of the run table's columns: what can be chosen is read when it is opened for the first time.
import { draw } from "./draw.js";

const dialog = document.getElementById("run-columns"), box = document.getElementById("run-column-choices");
const search = document.getElementById("column-search"), confirm = dialog.querySelector("button.primary");
let reading = null;

function find() {
  const wanted = search.value.trim().toLowerCase();
  for (const label of box.querySelectorAll("label")) label.hidden = !`${label.textContent} ${label.firstChild.value}`.toLowerCase().includes(wanted);
}

async function read() {
  try {
    await draw(box, box.dataset.choices);
    find();
    confirm.disabled = false;
  } catch {
    reading = null;
    box.textContent = "The columns can't be read just now: close this and open it again.";
  }
}

document.addEventListener("click", ({ target }) => {
  if (target.closest('[data-open="run-columns"]')) reading ??= read();
});
search.addEventListener("input", find);
