// One generated row, large: as it reads, and as a form while somebody edits it. Texts go in as text, never as HTML.
import { count } from "./format.js";

const TONES = { pending: "idle", accepted: "ok", rejected: "bad" };
const CHECK_AFTER_MS = 350;
const part = (name) => document.getElementById(`review-${name}`);
let timer = 0, asked = 0;

export function showRow(row) {
  part("title").textContent = `Row ${count(row.number)}`;
  const [dot, word] = part("state").children;
  dot.className = `dot ${TONES[row.state]}`;
  word.textContent = row.state;
  part("edited").hidden = !row.original;
  part("edited").title = row.edited_by ? `by ${row.edited_by}` : "";
  const origin = row.seed_row === null ? "" : `from row ${count(row.seed_row + 1)} of the seeds`;
  part("note").textContent = [row.decided_by && `by ${row.decided_by}`, origin].filter(Boolean).join(" · ");
  part("turns").replaceChildren(...row.messages.map(({ role, content }) => {
    const turn = document.createElement("div"), who = document.createElement("span");
    turn.className = `turn ${role}`;
    who.className = "role";
    who.textContent = role;
    turn.append(who, content);
    return turn;
  }));
}

export function openForm(row, check) {
  const boxes = row.messages.map(({ role, content }, index) => {
    const field = document.createElement("div"), label = document.createElement("label"), text = document.createElement("textarea");
    field.className = "field";
    label.textContent = role;
    label.htmlFor = text.id = `review-text-${index}`;
    text.className = "form-control";
    text.value = content;
    text.dataset.role = role;
    text.setAttribute("aria-describedby", "review-faults");
    text.addEventListener("input", () => { grow(text); soon(check); });
    field.append(label, text);
    return field;
  });
  part("fields").replaceChildren(...boxes);
  showFaults([], true);
  part("form").hidden = false;
  part("turns").hidden = true;
  const texts = part("fields").querySelectorAll("textarea");
  texts.forEach(grow);
  const last = texts[texts.length - 1];
  last.focus();
  last.setSelectionRange(last.value.length, last.value.length);
}

export function closeForm() {
  clearTimeout(timer);
  asked += 1;
  part("form").hidden = true;
  part("turns").hidden = false;
  part("fields").replaceChildren();
  part("card").focus({ preventScroll: true });
}

export function typed() {
  return [...part("fields").querySelectorAll("textarea")].map((text) => ({ role: text.dataset.role, content: text.value }));
}

function grow(text) {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

// The profile's check of what is typed, once the typing pauses; an answer to an older text is thrown away.
function soon(check) {
  clearTimeout(timer);
  const mine = (asked += 1);
  timer = setTimeout(async () => {
    try {
      const { faults, may_be_kept: may } = await check(typed());
      if (mine === asked) showFaults(faults, may);
    } catch (error) {
      if (mine === asked) showFaults([{ message: error.message }], true);
    }
  }, CHECK_AFTER_MS);
}

export function showFaults(faults, maySave) {
  part("faults").replaceChildren(...faults.map(({ message }) => {
    const line = document.createElement("p");
    line.className = maySave ? "notice" : "notice bad";
    line.textContent = message;
    return line;
  }));
  part("save").disabled = !maySave;
}
