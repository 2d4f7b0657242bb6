// An answer that goes into a set of collected rows, from which a dataset is made.
import { send } from "./csrf.js";
import { toast } from "./toasts.js";

const part = (id) => document.getElementById(id);
const form = part("chat-collect-form");
let wanted = null;

export function collect(conversation, answer) {
  wanted = { conversation, answer: answer.id };
  part("chat-collect-set").value ||= part("chat-sets").options[0]?.value ?? "";
  part("chat-collect-system-field").hidden = !answer.asked.system;
  part("chat-collect-fault").hidden = true;
  part("chat-collect").showModal();
}

async function put(event) {
  event.preventDefault();
  const set = part("chat-collect-set").value.trim();
  const body = { ...wanted, set, with_system: part("chat-collect-system").checked };
  try {
    await send(form.dataset.url, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  } catch (error) {
    part("chat-collect-fault").textContent = error.message;
    part("chat-collect-fault").hidden = false;
    return;
  }
  part("chat-collect").close();
  toast(`Collected in ${set}.`, "success", { text: "See the set", url: `${form.dataset.page}?set=${encodeURIComponent(set)}` });
}

form.addEventListener("submit", put);
