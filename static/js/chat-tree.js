// A conversation as a tree of turns. A question stands on an answer, or on two that were given side by side: then
// `parent` is what the left side goes on from and `beside` what the right one does. Turns in one place are branches;
// one of them is shown.

export const SIDES = ["left", "right"];

export class Tree {
  constructor() {
    this.turns = new Map();
    this.chosen = new Map();
  }

  // The turns as the server has them now. At first the newest one is shown, then what was shown stays.
  take(turns) {
    const isFirst = !this.turns.size;
    this.turns = new Map(turns.map((turn) => [turn.id, turn]));
    if (isFirst && turns.length) this.show(turns.reduce((newest, turn) => (turn.id > newest.id ? turn : newest)));
  }

  get isBeingWritten() {
    return [...this.turns.values()].some((turn) => turn.finish === "writing");
  }

  add(turn) {
    this.turns.set(turn.id, turn);
    this.show(turn);
  }

  get(id) {
    return this.turns.get(id) ?? null;
  }

  // Makes this turn, and all that it stands on, what is shown.
  show(turn) {
    for (let at = turn; at; ) {
      if (at.role === "assistant") {
        this.chosen.set(`answer ${at.parent} ${at.side}`, at.id);
        at = this.get(at.parent);
        continue;
      }
      const behind = this.get(at.parent), other = this.get(at.beside);
      this.chosen.set(`question ${behind?.parent ?? 0}`, at.id);
      if (other) this.chosen.set(`answer ${other.parent} ${other.side}`, other.id);
      at = behind;
    }
  }

  // The exchanges that are shown, the first one first: {question, questions, sides: {side: {answer, answers}}}.
  rounds() {
    const found = [];
    let behind = { id: 0, answers: [] };
    for (;;) {
      const questions = this.#questions(behind.answers);
      const question = this.#pick(questions, `question ${behind.id}`);
      if (!question) return found;
      const sides = this.#sides(question);
      found.push({ question, questions, sides });
      if (!Object.keys(sides).length) return found; // nothing stands on a question that has no answer
      behind = { id: question.id, answers: Object.values(sides).map((side) => side.answer) };
    }
  }

  #questions(answers) {
    const ids = answers.map((answer) => answer.id);
    return [...this.turns.values()].filter((turn) => {
      if (turn.role !== "user") return false;
      if (!ids.length) return turn.parent === null;
      return ids.includes(turn.parent) && (turn.beside === null || ids.includes(turn.beside));
    });
  }

  #sides(question) {
    const answers = [...this.turns.values()].filter((turn) => turn.role === "assistant" && turn.parent === question.id);
    const isPair = answers.some((answer) => answer.side);
    const found = {};
    for (const side of isPair ? SIDES : [""]) {
      const here = answers.filter((answer) => answer.side === side);
      const answer = this.#pick(here, `answer ${question.id} ${side}`);
      if (answer) found[side] = { answer, answers: here };
    }
    return found;
  }

  #pick(turns, place) {
    return turns.find((turn) => turn.id === this.chosen.get(place)) ?? turns.at(-1) ?? null;
  }

  // What an answer was given to: the turns before it, the first one first.
  history(answer) {
    const found = [];
    let side = answer.side, question = this.get(answer.parent);
    while (question) {
      found.unshift(question);
      const before = this.get(side === "right" && question.beside !== null ? question.beside : question.parent);
      if (!before) break;
      found.unshift(before);
      side = before.side;
      question = this.get(before.parent);
    }
    return found;
  }
}
