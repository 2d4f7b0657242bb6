// What the model answered to the sample prompts: the prompts side by side, one step at a time, chosen by a slider. It
// stays at the newest step while samples come, unless somebody has moved it back.
import { count } from "./format.js";

const GROUPS_KEPT = 200;

const groups = () => [...document.querySelectorAll("#samples .sample-group")];

function show(place) {
  const all = groups(), slider = document.getElementById("sample-step");
  if (!all.length || !slider) return;
  const chosen = Math.max(0, Math.min(place, all.length - 1));
  slider.max = all.length - 1;
  slider.value = chosen;
  slider.disabled = all.length < 2;
  all.forEach((group, index) => { group.hidden = index !== chosen; });
  const word = `step ${count(Number(all[chosen].dataset.step))}`;
  document.getElementById("sample-word").textContent = word;
  slider.setAttribute("aria-valuetext", word);
}

function groupOf(box, step) {
  const all = groups();
  const known = all.find((group) => Number(group.dataset.step) === step);
  if (known) return known;
  const made = document.createElement("div");
  made.className = "sample-group";
  made.dataset.step = step;
  made.hidden = true;
  box.insertBefore(made, all.find((group) => Number(group.dataset.step) > step) ?? null);
  return made;
}

// Adds one that has just come.
export function showSample({ step, prompt, text }) {
  const box = document.getElementById("samples"), slider = document.getElementById("sample-step");
  if (!box || !slider) return;
  const atNewest = Number(slider.value) >= groups().length - 1;
  const sample = document.createElement("div");
  sample.className = "sample";
  const head = document.createElement("span");
  head.className = "small";
  head.textContent = prompt;
  const answer = document.createElement("div");
  answer.className = "answer";
  answer.textContent = text;
  sample.append(head, answer);
  groupOf(box, Number(step)).append(sample);
  while (groups().length > GROUPS_KEPT) groups()[0].remove();
  box.hidden = slider.parentElement.hidden = false;
  if (box.nextElementSibling) box.nextElementSibling.hidden = true;
  show(atNewest ? Infinity : Number(slider.value));
}

document.addEventListener("input", ({ target }) => { if (target.id === "sample-step") show(Number(target.value)); });
document.addEventListener("drawn", ({ detail }) => { if (detail.querySelector?.("#samples")) show(Infinity); });
show(Infinity);
