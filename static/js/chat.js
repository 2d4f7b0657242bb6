// A conversation with a served model. Answers stream in as text, never as HTML; the conversation stays in this tab.
import { csrfToken, refusal } from "./csrf.js";
import { figure } from "./format.js";

const KEPT = "chat";
const part = (id) => document.getElementById(id);
const log = part("chat-log"), text = part("chat-text"), composer = part("composer");
let messages = restore(), controller = null;

function restore() {
  try { return JSON.parse(sessionStorage.getItem(KEPT)) || []; } catch { return []; }
}

function keep() {
  try { sessionStorage.setItem(KEPT, JSON.stringify(messages)); } catch { /* it lives as long as the page */ }
}

// --- Showing -------------------------------------------------------------------------------------------------------

function bubble(role, content, meta = "") {
  const box = document.createElement("div");
  box.className = `bubble ${role}`;
  const body = document.createElement("div");
  body.className = "text";
  body.textContent = content;
  const foot = document.createElement("div");
  foot.className = "meta";
  foot.textContent = meta;
  foot.hidden = !meta;
  box.append(body, foot);
  log.append(box);
  return { box, body, foot };
}

function show() {
  log.replaceChildren();
  for (const message of messages) bubble(message.role, message.content, message.meta || "");
  part("chat-empty").hidden = messages.length > 0 || !part("chat-model");
}

function atEnd() {
  return document.documentElement.scrollHeight - innerHeight - scrollY < 120;
}

function follow(sticks) {
  if (sticks) scrollTo({ top: document.documentElement.scrollHeight });
}

// --- Asking --------------------------------------------------------------------------------------------------------

function request() {
  const system = part("chat-system").value.trim();
  const said = messages.filter((message) => !message.failed).map(({ role, content }) => ({ role, content }));
  const body = { model: part("chat-model").value, messages: system ? [{ role: "system", content: system }, ...said] : said, stream: true, stream_options: { include_usage: true } };
  const temperature = Number(part("chat-temperature").value), tokens = Number(part("chat-tokens").value);
  if (part("chat-temperature").value.trim() && Number.isFinite(temperature)) body.temperature = temperature;
  if (Number.isInteger(tokens) && tokens > 0) body.max_tokens = tokens;
  return body;
}

async function ask() {
  const typed = text.value.trim();
  if (!typed || controller) return;
  if (!part("chat-model")) return;
  messages.push({ role: "user", content: typed });
  keep();
  text.value = "";
  grow();
  show();
  follow(true);
  await answer();
}

async function answer() {
  const { box, body, foot } = bubble("assistant", "");
  box.classList.add("is-writing");
  controller = new AbortController();
  controls();
  const state = { content: "", started: performance.now(), first: null, pieces: 0, usage: null, finish: null };
  try {
    await stream(state, () => {
      const sticks = atEnd();
      body.textContent = state.content;
      foot.textContent = speed(state);
      foot.hidden = false;
      follow(sticks);
    });
  } catch (error) {
    if (error.name !== "AbortError") state.fault = error.message === "Failed to fetch" ? "The server can't be reached." : error.message;
    else state.finish = "stopped";
  }
  controller = null;
  box.classList.remove("is-writing");
  finish(state, box, body, foot);
  controls();
}

async function stream(state, changed) {
  const answered = await fetch(composer.dataset.url, {
    method: "POST", credentials: "same-origin", signal: controller.signal, body: JSON.stringify(request()),
    headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken(), Accept: "text/event-stream" },
  });
  if (!answered.ok) throw await refusal(answered);
  const reader = answered.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) piece(state, line.slice(5).trim());
    changed();
  }
}

function piece(state, data) {
  if (data === "[DONE]" || !data) return;
  const event = JSON.parse(data);
  if (event.error) throw new Error(event.error.message || "The engine broke off.");
  const choice = event.choices?.[0];
  if (event.usage) state.usage = event.usage;
  if (choice?.finish_reason) state.finish = choice.finish_reason;
  if (!choice?.delta?.content) return;
  state.first ??= performance.now();
  state.last = performance.now();
  state.pieces += 1;
  state.content += choice.delta.content;
}

function speed(state) {
  if (state.first === null) return "";
  const words = [`${Math.round(state.first - state.started)} ms to the first`];
  const tokens = state.usage?.completion_tokens ?? state.pieces;
  const seconds = (state.last - state.first) / 1000;
  if (tokens > 1 && seconds > 0) words.push(`${figure((tokens - 1) / seconds, 3)} tokens/s`);
  words.push(`${tokens} tokens`);
  if (state.finish === "length") words.push("cut off at the longest answer");
  if (state.finish === "stopped") words.push("stopped by you");
  return words.join(" · ");
}

function finish(state, box, body, foot) {
  if (state.content) {
    messages.push({ role: "assistant", content: state.content, meta: speed(state) });
    foot.textContent = speed(state);
    foot.hidden = !foot.textContent;
    part("chat-said").textContent = state.content;
  }
  if (state.fault) {
    const target = state.content ? bubble("assistant", "") : { box, body };
    target.box.classList.add("fault");
    target.body.textContent = state.fault;
    part("chat-said").textContent = state.fault;
  } else if (!state.content) {
    body.textContent = state.finish === "stopped" ? "Stopped before the first word." : "The model said nothing.";
    box.classList.add("fault");
  }
  keep();
}

// --- Controls ------------------------------------------------------------------------------------------------------

function controls() {
  const has = Boolean(part("chat-model"));
  part("chat-send").hidden = Boolean(controller);
  part("chat-send").disabled = !has;
  part("chat-send").title = has ? "" : "No model is being served.";
  part("chat-stop").hidden = !controller;
  text.disabled = !has;
  text.placeholder = has ? "Message" : "No model is being served yet";
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, 220)}px`;
}

composer.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") controller?.abort(); });
part("chat-stop").addEventListener("click", () => controller?.abort());
part("chat-new").addEventListener("click", () => { controller?.abort(); messages = []; keep(); show(); text.focus(); });
let chosenModel = "";
document.addEventListener("change", (event) => { if (event.target.id === "chat-model") chosenModel = event.target.value; });
document.addEventListener("drawn", () => {
  const select = part("chat-model");
  if (select && [...select.options].some((option) => option.value === chosenModel)) select.value = chosenModel;
  controls();
  part("chat-empty").hidden = messages.length > 0 || !select;
});
if (matchMedia("(max-width: 1080px)").matches) part("chat-options").open = false;
show();
controls();
if (!matchMedia("(max-width: 760px)").matches) text.focus();
follow(messages.length > 0);
