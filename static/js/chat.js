// The chat page: asks, stops, asks again, and keeps the tree of what was said with what the server keeps.
import { line, isHidden, standing } from "./chat-beside.js";
import { copy, showCode } from "./chat-code.js";
import { collect } from "./chat-collect.js";
import * as composer from "./chat-composer.js";
import { allowAsking, drawLog, drawPending, textOf } from "./chat-log.js";
import { isLoadedWhenAsked, obstacle, setBlind, wanted } from "./chat-models.js";
import * as settings from "./chat-settings.js";
import { streamed } from "./chat-stream.js";
import { Tree } from "./chat-tree.js";
import { send } from "./csrf.js";
import { toast } from "./toasts.js";

const part = (id) => document.getElementById(id);
const page = part("chat");
const LOOK_AGAIN_MS = 1000;
const NO_ANSWER = { stopped: "Stopped before the first word.", failed: "The engine broke off before the first word." };

// `isRead`: all of the conversation is here; `asked` counts askings, `timer` waits to read it again.
const state = { id: Number(page.dataset.id) || null, isRead: false, tree: new Tree(), pending: new Map(), faults: new Map(), votes: new Map(), editing: null, isAsking: false, asked: 0, timer: 0, kept: "" };

// --- Speaking with the server --------------------------------------------------------------------------------------

const address = (rest = "") => `${page.dataset.url}/${state.id}${rest}`;

async function call(url, method, body) {
  const answer = await send(url, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  return answer.json();
}

// What the conversation keeps of the page's settings; told when they have changed.
async function keepSettings() {
  const { tree } = state, now = { ...wanted(), ...settings.typed() }, written = JSON.stringify(now);
  if (state.id === null) {
    const { id } = await call(page.dataset.url, "POST", { settings: now });
    if (state.tree !== tree) return; // another conversation has begun meanwhile
    state.id = id;
    history.replaceState(null, "", `${page.dataset.page}/${state.id}`);
  } else if (written !== state.kept) await call(address(), "PATCH", { settings: now });
  state.kept = written;
}

// Reads the conversation. What comes while something is asked here, or for one that was left, is too late.
async function load() {
  const { id, asked } = state;
  const found = await (await send(address())).json();
  if (state.id !== id || state.asked !== asked) return found;
  state.tree.take(found.turns);
  state.votes = new Map(found.votes.map((vote) => [`${vote.left} ${vote.right}`, vote.choice]));
  state.isRead = true;
  show();
  lookAgain();
  return found;
}

// While another tab, or one that has just gone, has an answer written: what becomes of it.
function lookAgain() {
  clearTimeout(state.timer);
  if (state.tree.isBeingWritten) state.timer = setTimeout(() => load().catch((error) => toast(error.message)), LOOK_AGAIN_MS);
}

// --- Asking --------------------------------------------------------------------------------------------------------

// Does `work(how)`, one at a time, once the settings are kept. Promises whether it was done.
async function asking(work) {
  const how = settings.read(), { tree } = state;
  if (!how || whyNot() || isBusy()) return false;
  state.isAsking = true;
  state.asked += 1;
  clearTimeout(state.timer);
  controls();
  try {
    await keepSettings();
    if (state.tree !== tree) return false;
    await work(how);
  } catch (error) {
    toast(error.message);
    return false;
  } finally {
    state.isAsking = false;
    controls();
    lookAgain();
  }
  return true;
}

// Asks a question behind the exchange `before` (null: at the beginning), of whoever is chosen.
function say(content, before) {
  const asked = line(wanted(), before), { tree } = state;
  return asking(async (how) => {
    if (!rounds().length) part("chat-title").textContent = content.split("\n", 1)[0].slice(0, 80);
    const question = await call(address("/turns"), "POST", { content, ...standing(asked, before, state.votes) });
    if (state.tree !== tree) return;
    tree.add(question);
    state.editing = null;
    await Promise.all(asked.map((one) => answer(question, one, how)));
  });
}

async function answer(question, { side, model, blind }, { system, parameters }) {
  const key = `${question.id} ${side}`, controller = new AbortController(), { tree } = state;
  const note = !blind && isLoadedWhenAsked(model) ? "its engine is loaded first" : "";
  const pending = { content: "", figures: {}, finish: "", model, blind, note, controller, box: null, meta: null };
  state.pending.set(key, pending);
  state.faults.delete(key);
  show();
  composer.follow(true);
  const body = { question: question.id, side, model, blind, system, ...parameters };
  const came = await streamed(address("/answers"), body, controller.signal, (now) => {
    const sticks = composer.atEnd();
    Object.assign(pending, { content: now.content, figures: now.figures, finish: now.finish });
    drawPending(pending);
    composer.follow(sticks);
  });
  if (state.tree !== tree) return; // another conversation has begun meanwhile
  state.pending.delete(key);
  take(question, side, came, { model, blind, system, parameters });
}

// Puts what came into the tree, as the server keeps it.
function take(question, side, came, { model, blind, system, parameters }) {
  if (came.content && came.id) {
    const asked = { ...(system ? { system } : {}), ...parameters };
    const name = blind ? null : model || modelBefore(question, side);
    state.tree.add({ id: came.id, parent: question.id, beside: null, role: "assistant", side, content: came.content, model: name, blind, finish: came.finish || "failed", asked, figures: came.figures });
  }
  const sentence = came.fault || (came.content ? "" : NO_ANSWER[came.finish] ?? "The model said nothing.");
  if (sentence) state.faults.set(`${question.id} ${side}`, { sentence, model, blind });
  part("chat-said").textContent = sentence || came.content;
  show();
}

function modelBefore(question, side) {
  return rounds().find((round) => round.question.id === question.id)?.sides[side]?.answer.model ?? "";
}

const rounds = () => state.tree.rounds();
const isBusy = () => state.isAsking || state.pending.size > 0;
const whyNot = () => (state.isRead ? obstacle() : "The conversation isn't read yet");

// Another answer to the question of an exchange: by the model that answered there, or by who is chosen now.
function again(place, side) {
  const round = rounds()[place];
  const told = round.sides[side]?.answer ?? state.faults.get(`${round.question.id} ${side}`);
  const one = side ? { side, model: told ? told.model ?? "" : otherThan(round, side), blind: told?.blind ?? false } : { side, model: wanted().model, blind: false };
  return asking((how) => answer(round.question, one, how));
}

// Of the two that are chosen, the one that isn't on the other side.
function otherThan(round, side) {
  const other = round.sides[side === "left" ? "right" : "left"]?.answer.model, { model, beside } = wanted();
  return (model === other ? beside : model) || model;
}

// A question without any answer is asked again of whoever is chosen now.
function retry(place, side) {
  const round = rounds()[place], all = line(wanted(), rounds()[place - 1] ?? null);
  if (side || Object.keys(round.sides).length) return again(place, side);
  return asking((how) => Promise.all(all.map((one) => answer(round.question, one, how))));
}

// --- What can be done with an exchange -----------------------------------------------------------------------------

async function vote(place, choice) {
  const round = rounds()[place], wasHidden = isHidden(round);
  const { left, right } = round.sides;
  await call(address("/votes"), "POST", { left: left.answer.id, right: right.answer.id, choice });
  state.votes.set(`${left.answer.id} ${right.answer.id}`, choice);
  if (wasHidden) await reveal();
  show();
}

// The names that have been hidden, without leaving the branches that are shown.
async function reveal() {
  for (const turn of (await (await send(address())).json()).turns) {
    const known = state.tree.get(turn.id);
    if (known) Object.assign(known, { model: turn.model, blind: turn.blind });
  }
}

const acts = {
  show: ({ turn }) => { state.tree.show(turn); show(); },
  edit: ({ turn }) => { state.editing = turn.id; show(); },
  leave: () => { state.editing = null; show(); },
  again: ({ place, side }) => again(place, side),
  retry: ({ place, side }) => retry(place, side),
  vote: ({ place, choice }) => vote(place, choice),
  code: ({ turn }) => showCode(turn, state.tree.history(turn)),
  copy: ({ turn, button }) => copy(textOf(turn), button),
  collect: ({ turn }) => collect(state.id, turn),
};

part("chat-log").addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-act]");
  if (!button) return;
  const { act, turn, place, side, choice } = button.dataset;
  try {
    await acts[act]({ turn: state.tree.get(Number(turn)), place: Number(place), side: side ?? "", choice, button });
  } catch (error) {
    toast(error.message);
  }
});

part("chat-log").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = event.target.querySelector("textarea").value.trim();
  if (content) say(content, rounds()[Number(event.submitter.dataset.place) - 1] ?? null);
});

// --- The page as a whole -------------------------------------------------------------------------------------------

const stop = () => { for (const pending of state.pending.values()) pending.controller.abort(); };

function begin() {
  stop();
  clearTimeout(state.timer);
  Object.assign(state, { id: null, isRead: true, tree: new Tree(), editing: null, kept: "" });
  for (const kept of [state.faults, state.votes, state.pending]) kept.clear();
  part("chat-title").textContent = "Chat";
  history.pushState(null, "", page.dataset.page);
  show();
  composer.focus();
}

function show() {
  drawLog(state);
  part("chat-empty").hidden = rounds().length > 0 || state.id !== null || !part("chat-model");
  controls();
}

function controls() {
  composer.show(whyNot(), isBusy());
  allowAsking(whyNot() || (isBusy() ? "An answer is being written: wait for it, or stop it" : ""));
}

composer.listen((typed) => say(typed, rounds().at(-1) ?? null), stop);
part("chat-new").addEventListener("click", (event) => { event.preventDefault(); begin(); });
document.addEventListener("drawn", controls);
addEventListener("popstate", () => location.reload());

async function start() {
  if (matchMedia("(max-width: 1080px)").matches) part("chat-options").open = false;
  state.isRead = state.id === null;
  show();
  if (!state.isRead) {
    try {
      const { settings: kept } = await load();
      settings.fill(kept);
      setBlind(Boolean(kept.blind));
      state.kept = JSON.stringify({ ...wanted(), ...settings.typed() });
      composer.follow(true);
    } catch (error) { toast(error.message); }
  }
  if (!matchMedia("(max-width: 760px)").matches) composer.focus();
}
start();
