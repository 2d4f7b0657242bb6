// Which models are asked: one, or two side by side, and whether their names are hidden. The server draws the choice.
import { draw } from "./draw.js";

const part = (id) => document.getElementById(id);
const box = part("chat-models");

export function wanted() {
  const model = part("chat-model")?.value ?? "", beside = part("chat-beside")?.value ?? "";
  return { model, beside, blind: Boolean(beside) && part("chat-blind").checked };
}

// Whether an engine is started for a model when somebody asks it: that takes a while.
export function isLoadedWhenAsked(name) {
  const option = [...(part("chat-model")?.options ?? [])].find(({ value }) => value === name);
  return Boolean(option?.closest("[data-on-demand]"));
}

// Why nobody can be asked; empty: they can.
export function obstacle() {
  const chat = part("chat");
  if (chat.dataset.mayUse !== "yes") return `Asking needs the role use; yours is ${chat.dataset.role}.`;
  if (!part("chat-model")) return "No model is being served yet";
  return part("chat-choice").dataset.served === "yes" ? "" : "Not all models that you chose are served";
}

function show() {
  part("chat-blind-field").hidden = !wanted().beside;
}

// A choice is part of the address, so that whoever serves a model from here comes back to it.
async function choose() {
  const { model, beside } = wanted();
  const query = `?${new URLSearchParams({ model, beside })}`;
  history.replaceState(null, "", location.pathname + query);
  box.dataset.fragment = part("chat").dataset.page + query;
  show();
  await draw(box, box.dataset.fragment);
}

export function setBlind(isBlind) {
  part("chat-blind").checked = isBlind;
}

document.addEventListener("change", ({ target }) => { if (target.id === "chat-model" || target.id === "chat-beside") choose(); });
document.addEventListener("drawn", show);
show();
