// The exchanges as they are shown: bubbles, their branches, what can be done with each. All text goes in as text.
import { CHOICES, choiceOf, isHidden } from "./chat-beside.js";
import { SIDES } from "./chat-tree.js";
import { figure } from "./format.js";

const log = document.getElementById("chat-log");

function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// `act` names what chat.js does; `data` says with what.
function button(word, act, data = {}, title = "") {
  const made = make("button", "linkish", word);
  made.type = "button";
  made.title = title;
  Object.assign(made.dataset, { act, ...data });
  return made;
}

// A button that asks a model something: `allowAsking` says whether it can.
function asks(made) {
  made.dataset.asks = made.title;
  return made;
}

// The words below an answer: how fast it came, and how it ended.
export function speed({ figures, finish }) {
  const words = [], { tokens, first_token_seconds: first, seconds } = figures;
  if (first !== undefined) words.push(`${Math.round(1000 * first)} ms to the first`);
  if (tokens > 1 && seconds > 0) words.push(`${figure((tokens - 1) / seconds, 3)} tokens/s`);
  if (tokens) words.push(`${tokens} tokens`);
  if (finish === "length") words.push("cut off at the longest answer");
  if (finish === "stopped") words.push("stopped by you");
  if (finish === "failed") words.push("broken off");
  return words.join(" · ");
}

// A line of `< 2/3 >` where there is more than one branch.
function branches(turn, turns) {
  if (turns.length < 2) return [];
  const at = turns.indexOf(turn), box = make("span", "branches");
  const [back, on] = [["‹", at - 1, "Branch before"], ["›", at + 1, "Next branch"]].map(([sign, place, words]) => {
    const made = button(sign, "show", { turn: turns[place]?.id ?? "" });
    made.setAttribute("aria-label", words);
    made.disabled = !turns[place];
    return made;
  });
  box.append(back, make("span", "num", `${at + 1}/${turns.length}`), on);
  return [box];
}

function bubble(className, content) {
  const box = make("div", `bubble ${className}`);
  box.append(make("div", "text", content));
  return box;
}

function foot(...parts) {
  const made = make("div", "turn-actions small");
  made.append(...parts);
  return made;
}

// `open`: the edit box that is on the page; what was typed there stays.
function questionBox(round, place, editing, open) {
  const { question, questions } = round;
  if (editing === question.id) return open?.dataset.turn === String(question.id) ? open : editBox(question, place);
  const box = bubble("user", question.content);
  box.dataset.turn = question.id;
  const group = make("div", "said user");
  group.append(box, foot(...branches(question, questions), button("Edit", "edit", { turn: question.id, place })));
  return group;
}

function editBox(question, place) {
  const form = make("form", "said user edit");
  form.dataset.turn = question.id;
  const text = make("textarea", "form-control");
  text.value = question.content;
  text.rows = Math.min(12, question.content.split("\n").length + 1);
  text.setAttribute("aria-label", "Your message");
  const send = make("button", "button primary tiny", "Send as a branch");
  send.dataset.place = place;
  const leave = button("Leave it", "leave");
  form.append(text, foot(asks(send), leave));
  return form;
}

// `sides` tells which answers have a head with their model's name.
function answerBox(round, side, place, state) {
  const key = `${round.question.id} ${side}`, pending = state.pending.get(key), fault = state.faults.get(key);
  const group = make("div", "said assistant");
  const shown = round.sides[side];
  if (side) group.append(headOf(round, side, shown?.answer, pending));
  if (pending) {
    pending.box = bubble("assistant is-writing", pending.content);
    pending.meta = make("div", "meta", speed(pending) || pending.note);
    pending.box.append(pending.meta);
    group.append(pending.box);
    return group;
  }
  if (shown) group.append(wholeAnswer(shown, side, place));
  if (fault) group.append(bubble("assistant fault", fault.sentence));
  if (!shown) group.append(foot(asks(button(fault ? "Try again" : "Ask for an answer", "retry", { place, side }))));
  return group;
}

function headOf(round, side, answer, pending) {
  const isBlind = pending ? pending.blind : isHidden(round);
  const name = isBlind ? "name hidden" : (pending?.model || answer?.model || "");
  return make("div", "small breaks answer-name", `${side} · ${name}`);
}

function wholeAnswer({ answer, answers }, side, place) {
  const box = bubble("assistant", answer.content);
  box.dataset.turn = answer.id;
  box.append(make("div", "meta", [side ? "" : answer.model, speed(answer)].filter(Boolean).join(" · ")));
  const acts = [asks(button("Regenerate", "again", { place, side }, "Another answer, as a branch beside this one"))];
  if (!answer.blind) acts.push(button("Code", "code", { turn: answer.id }, "This answer as a call: curl, Python"));
  acts.push(button("Copy", "copy", { turn: answer.id }), button("Collect", "collect", { turn: answer.id }, "Put it into a set that becomes a dataset"));
  const whole = make("div", "said assistant");
  whole.append(box, foot(...branches(answer, answers), ...acts));
  return whole;
}

function votesOf(round, place, state) {
  const chosen = choiceOf(round, state.votes), box = make("div", "votes");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Which answer is better");
  for (const [choice, word] of CHOICES) {
    const made = button(word, "vote", { place, choice });
    made.className = "button tiny";
    made.setAttribute("aria-pressed", String(choice === chosen));
    box.append(made);
  }
  return box;
}

// Draws everything. `state`: {tree, pending, faults, votes, editing}; a pending answer gets its `box` and its `meta`.
export function drawLog(state) {
  const parts = [], open = log.querySelector(".edit"), isTypedIn = open?.contains(document.activeElement);
  state.tree.rounds().forEach((round, place) => {
    const id = round.question.id;
    parts.push(questionBox(round, place, state.editing, open));
    const isPair = SIDES.some((side) => round.sides[side] || state.pending.has(`${id} ${side}`) || state.faults.has(`${id} ${side}`));
    if (!isPair) return parts.push(answerBox(round, "", place, state));
    const pair = make("div", "pair");
    pair.append(...SIDES.map((side) => answerBox(round, side, place, state)));
    parts.push(pair);
    const isWhole = SIDES.every((side) => round.sides[side] && !state.pending.has(`${id} ${side}`));
    if (isWhole) parts.push(votesOf(round, place, state));
  });
  log.replaceChildren(...parts);
  const edit = log.querySelector(".edit");
  if (edit !== open || isTypedIn) edit?.querySelector("textarea").focus({ preventScroll: edit === open });
}

// `why` nobody can be asked now; empty: they can.
export function allowAsking(why) {
  for (const made of log.querySelectorAll("[data-asks]")) {
    made.disabled = Boolean(why);
    made.title = why || made.dataset.asks;
  }
}

// The element that holds the text of a turn that is shown.
export const textOf = (turn) => log.querySelector(`.bubble[data-turn="${turn.id}"] .text`);

// Writes on in an answer that is coming.
export function drawPending(pending) {
  if (!pending.box) return;
  pending.box.firstElementChild.textContent = pending.content;
  pending.meta.textContent = speed(pending);
}
