// Rows of a table that are chosen, and the forms around it: filters, and what is done to those chosen. What is chosen
// stays so when rows are drawn anew.
const bar = document.getElementById("chosen");
export const chosen = new Set();
let last = null; // the box that was ticked last: Shift goes from there

const boxes = () => [...document.querySelectorAll("main [data-choose]")];

export function tell() {
  if (!bar) return;
  const all = boxes(), count = chosen.size, { one, several } = bar.dataset;
  for (const box of all) box.checked = chosen.has(box.dataset.choose);
  const whole = document.querySelector("[data-choose-all]");
  if (whole) {
    whole.checked = count > 0 && count === all.length;
    whole.indeterminate = count > 0 && count < all.length;
  }
  bar.hidden = !count;
  bar.querySelector("[data-chosen-count]").textContent = count;
  for (const place of document.querySelectorAll("[data-chosen-words]")) place.textContent = count === 1 ? `${one} ${[...chosen][0]}` : `${count} ${several}`;
  for (const button of bar.querySelectorAll("[data-few]")) {
    button.disabled = count < Number(button.dataset.few) || count > Number(button.dataset.many);
    button.title = button.disabled ? `${button.dataset.few} to ${button.dataset.many} ${several} can be compared.` : "";
  }
}

function choose(box, isOn) {
  if (isOn) chosen.add(box.dataset.choose);
  else chosen.delete(box.dataset.choose);
}

document.addEventListener("click", (event) => {
  const box = event.target.closest?.("[data-choose]");
  if (!box) return;
  const all = boxes(), from = all.indexOf(last), to = all.indexOf(box);
  const meant = event.shiftKey && from >= 0 ? all.slice(Math.min(from, to), Math.max(from, to) + 1) : [box];
  for (const other of meant) choose(other, box.checked);
  last = box;
  tell();
});
document.addEventListener("change", ({ target }) => {
  if (!target.matches?.("[data-choose-all]")) return;
  for (const box of boxes()) choose(box, target.checked);
  tell();
});
document.querySelector("[data-choose-none]")?.addEventListener("click", () => { chosen.clear(); tell(); });
document.addEventListener("drawn", tell);
addEventListener("pageshow", () => { // the browser may bring ticks back that nobody sees the count of
  for (const box of boxes()) choose(box, box.checked);
  tell();
});

// --- Forms ---------------------------------------------------------------------------------------------------------

for (const form of document.querySelectorAll("[data-of-chosen]")) {
  form.addEventListener("formdata", ({ formData }) => {
    if (form.method === "get") formData.set("runs", [...chosen].join(","));
    else for (const key of chosen) formData.append(bar.dataset.field, key);
  });
}
for (const form of document.querySelectorAll("[data-leaves-out-empty]")) {
  form.addEventListener("formdata", ({ formData }) => {
    for (const name of new Set(formData.keys())) {
      const filled = formData.getAll(name).filter((value) => value !== "");
      formData.delete(name);
      for (const value of filled) formData.append(name, value);
    }
  });
}
document.getElementById("table-filters")?.addEventListener("change", ({ target, currentTarget }) => {
  if (target.matches("[type=checkbox], select")) currentTarget.requestSubmit();
});
