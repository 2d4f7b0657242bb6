// An answer as a call that gives it again: curl, or Python with the openai client. The key is a placeholder.

const KEY = "YOUR_KEY";
const CLIENT_KNOWS = new Set(["model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop"]);

const part = (id) => document.getElementById(id);
let body = null, language = "curl";

export function asCurl(call, origin) {
  const quoted = JSON.stringify(call, null, 2).replaceAll("'", "'\\''");
  return `curl -s ${origin}/v1/chat/completions \\\n  -H "Authorization: Bearer ${KEY}" -H "Content-Type: application/json" \\\n  -d '${quoted}'`;
}

export function asPython(call, origin) {
  const known = Object.entries(call).filter(([name]) => CLIENT_KNOWS.has(name));
  const own = Object.fromEntries(Object.entries(call).filter(([name]) => !CLIENT_KNOWS.has(name)));
  const options = known.map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  if (Object.keys(own).length) options.push(`    extra_body=${literal(own, 1)},`);
  return [
    "from openai import OpenAI", "", `client = OpenAI(base_url="${origin}/v1", api_key="${KEY}")`,
    "answer = client.chat.completions.create(", ...options, ")", "print(answer.choices[0].message.content)",
  ].join("\n");
}

// A value as Python writes it.
function literal(value, depth) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  const pad = "    ".repeat(depth);
  if (Array.isArray(value)) return value.every((item) => typeof item !== "object") ? `[${value.map((item) => literal(item, depth)).join(", ")}]` : `[\n${value.map((item) => `${pad}    ${literal(item, depth + 1)},`).join("\n")}\n${pad}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, depth)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function draw() {
  part("chat-code-text").textContent = language === "curl" ? asCurl(body, location.origin) : asPython(body, location.origin);
  for (const button of document.querySelectorAll("[data-code]")) button.setAttribute("aria-pressed", String(button.dataset.code === language));
}

// Shows the call that an answer was given to: behind `said`, the turns before it.
export function showCode(answer, said) {
  const { system, ...parameters } = answer.asked;
  const messages = said.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  body = { model: answer.model, messages, ...parameters };
  draw();
  part("chat-code-copy").textContent = "Copy";
  part("chat-code").showModal();
}

// Copies the text of an element. The clipboard is for secure pages alone; elsewhere the selection is copied as by hand.
export async function copy(element, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(element.textContent);
  else {
    getSelection().selectAllChildren(element);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

part("chat-code").addEventListener("click", ({ target }) => {
  const chosen = target.closest("[data-code]");
  if (!chosen) return;
  language = chosen.dataset.code;
  part("chat-code-copy").textContent = "Copy";
  draw();
});
part("chat-code-copy").addEventListener("click", ({ target }) => copy(part("chat-code-text"), target));
