// Ctrl-K: go anywhere and do things by typing. What every page knows stands in it; runs, models and datasets are searched
// for on the server while one types.
import { csrfToken, send } from "./csrf.js";
import { ask } from "./dialogs.js";

const SEARCH_AFTER_MS = 120;
const dialog = document.getElementById("palette");
const input = document.getElementById("palette-text");
const list = document.getElementById("palette-list");
const none = document.getElementById("palette-none");
const NOTHING = none?.textContent;
let chosen = 0, timer = 0, asked = null;

const shown = () => [...list.children].filter((line) => !line.hidden);

function choose(index) {
  const lines = shown();
  chosen = Math.max(0, Math.min(index, lines.length - 1));
  for (const line of list.children) line.firstElementChild.setAttribute("aria-selected", "false");
  const option = lines[chosen]?.firstElementChild;
  option?.setAttribute("aria-selected", "true");
  option?.scrollIntoView({ block: "nearest" });
  if (option) input.setAttribute("aria-activedescendant", option.id);
  else input.removeAttribute("aria-activedescendant");
  none.hidden = lines.length > 0;
}

function open() {
  if (document.querySelector("dialog[open]")) return;
  input.value = "";
  typed();
  dialog.showModal();
  input.focus();
}

function typed() {
  const words = input.value.toLowerCase().split(/\s+/);
  for (const line of list.querySelectorAll("[data-found]")) line.remove();
  for (const line of list.children) line.hidden = !words.every((word) => line.textContent.toLowerCase().includes(word));
  choose(0);
  none.textContent = NOTHING;
  clearTimeout(timer);
  asked?.abort();
  if (input.value.trim()) timer = setTimeout(search, SEARCH_AFTER_MS);
}

async function search() {
  asked = new AbortController();
  const words = input.value.trim();
  try {
    const url = `${dialog.dataset.search}?${new URLSearchParams({ q: words })}`;
    const { results } = await (await send(url, { signal: asked.signal })).json();
    if (input.value.trim() !== words) return;
    for (const line of list.querySelectorAll("[data-found]")) line.remove();
    for (const result of results) list.append(...lines(result));
  } catch (error) {
    if (error.name === "AbortError") return;
    none.textContent = error.message;
  }
  choose(chosen);
}

function lines(result) {
  const id = String(result.id).split("/").map(encodeURIComponent).join("/");
  const found = [line(result.name, `${result.kind} · ${result.detail}`, dialog.dataset[result.kind].replace("ID", id))];
  if (result.can_activate) found.push(line(`Activate ${result.name}`, "model", "", () => activate(result.name)));
  return found;
}

function line(name, what, url, then) {
  const item = document.createElement("li"), option = document.createElement(url ? "a" : "button");
  item.dataset.found = "";
  item.role = "none";
  option.role = "option";
  option.tabIndex = -1;
  option.id = `palette-found-${list.children.length}-${what}-${name}`.replace(/\s+/g, "-");
  if (url) option.href = url;
  else { option.type = "button"; option.addEventListener("click", () => { dialog.close(); then(); }); }
  for (const [text, className] of [[name, "breaks"], [what, "small"]]) {
    const part = document.createElement("span");
    part.className = className;
    part.textContent = text;
    part.dir = "auto";
    option.append(part);
  }
  item.append(option);
  return item;
}

function activate(name) {
  ask(`Activate ${name}?`, "It loads beside the one that answers now, and takes over when it has answered a test question.", "Activate it", false, () => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = dialog.dataset.activate;
    for (const [key, value] of [["csrfmiddlewaretoken", csrfToken()], ["name", name]]) {
      const field = document.createElement("input");
      field.type = "hidden";
      field.name = key;
      field.value = value;
      form.append(field);
    }
    document.body.append(form);
    form.submit();
  });
}

function pressed(event) {
  if (event.isComposing) return; // these keys are the input method's
  if (event.key === "ArrowDown") choose(chosen + 1);
  else if (event.key === "ArrowUp") choose(chosen - 1);
  else if (event.key === "Home" && !input.value) choose(0);
  else if (event.key === "Enter") shown()[chosen]?.firstElementChild.click();
  else return;
  event.preventDefault();
}

if (dialog) {
  [...list.children].forEach((item, index) => { item.firstElementChild.id = `palette-${index}`; });
  input.addEventListener("input", typed);
  input.addEventListener("keydown", pressed);
  list.addEventListener("click", ({ target }) => { if (target.closest("button")) dialog.close(); });
  document.addEventListener("palette", open);
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.key.toLowerCase() !== "k") return;
    event.preventDefault();
    open();
  });
}
