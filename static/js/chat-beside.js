// Two models on one prompt: who stands where, what each goes on from, and whose names are hidden until there is a vote.
import { SIDES } from "./chat-tree.js";

export const CHOICES = [["left", "Left is better"], ["tie", "Tie"], ["both_bad", "Both bad"], ["right", "Right is better"]];

const pairOf = (round) => (round?.sides.left && round.sides.right ? [round.sides.left.answer, round.sides.right.answer] : null);

export function choiceOf(round, votes) {
  const pair = pairOf(round);
  return pair ? votes.get(`${pair[0].id} ${pair[1].id}`) ?? "" : "";
}

// Whether the names of an exchange wait for a vote.
export const isHidden = (round) => SIDES.some((side) => round?.sides[side]?.answer.blind);

// Who is asked next: [{side, model, blind}]. A model that isn't named is the one that answered there before.
export function line(wanted, before) {
  const { model, beside, blind } = wanted;
  if (!beside) return [{ side: "", model, blind: false }];
  if (blind && isHidden(before)) return SIDES.map((side) => ({ side, model: "", blind }));
  const models = blind && Math.random() < 0.5 ? [beside, model] : [model, beside];
  return SIDES.map((side, place) => ({ side, model: models[place], blind }));
}

// What the next question stands on, {parent, beside}: each side goes on from what its own model said before.
export function standing(asked, before, votes) {
  const answers = Object.values(before?.sides ?? {}).map((side) => side.answer);
  if (!answers.length) return { parent: before?.question.parent ?? null, beside: before?.question.beside ?? null };
  if (asked.length === 1) return { parent: better(asked[0], before, votes, answers).id, beside: null };
  const pair = pairOf(before);
  if (!pair) return { parent: answers[0].id, beside: null };
  const isTurned = !isHidden(before) && pair[0].model !== asked[0].model && pair[1].model === asked[0].model;
  const [parent, beside] = isTurned ? [pair[1], pair[0]] : pair;
  return { parent: parent.id, beside: beside.id };
}

// Which of two answers one model alone goes on from: the one that was voted for, else its own, else the left one.
function better(alone, before, votes, answers) {
  const choice = choiceOf(before, votes);
  if (choice === "left" || choice === "right") return before.sides[choice].answer;
  return answers.find((answer) => answer.model === alone.model) ?? answers[0];
}
