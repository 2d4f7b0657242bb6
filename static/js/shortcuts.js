// Single keys: g and a letter goes to a place, n makes something new, / searches, ? tells them all. None while one types
// or a dialog is open, and none at all where the settings say so (WCAG 2.1.4). A page's own keys come first.
import { prefer, preference } from "./preferences.js";

const SECOND_WITHIN_MS = 1500;
const TYPED_IN = "input:not([type=checkbox], [type=radio], [type=button], [type=submit]), textarea, select, [contenteditable]";
const SEARCHES = '[data-shortcut="/"], main input[type="search"], main [role="search"] input:not([type=hidden])';
let goneAt = -Infinity;

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
  return Boolean(link);
}

function search() {
  const field = document.querySelector(SEARCHES);
  if (field) { field.focus(); field.select?.(); } else document.dispatchEvent(new Event("palette"));
  return true;
}

function help() {
  const dialog = document.getElementById("help");
  if (!dialog) return false;
  dialog.showModal();
  return true;
}

function act(key) {
  if (key === "g") { goneAt = performance.now(); return true; }
  const afterG = performance.now() - goneAt < SECOND_WITHIN_MS;
  goneAt = -Infinity;
  if (afterG) return follow(`[data-place="${CSS.escape(key)}"]`);
  if (key === "n") return follow('main [data-shortcut="n"]') || follow('#palette [data-shortcut="n"]');
  if (key === "/") return search();
  return key === "?" && help();
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (event.target.closest?.(TYPED_IN) || document.querySelector("dialog[open]")) return;
  if (preference("shortcuts", "on") === "off") return;
  if (event.key.length === 1 && act(event.key.toLowerCase())) event.preventDefault();
});

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-preference] button");
  if (button) prefer(button.closest("[data-preference]").dataset.preference, button.value);
});
