// Where a message is typed: Enter sends, Esc and Stop end what is being answered, and the page stays at its end.

const part = (id) => document.getElementById(id);
const text = part("chat-text");
let isBusy = false;

// `say(typed)` promises whether it was taken: what wasn't comes back to be sent again.
export function listen(say, stop) {
  const send = async (event) => {
    event.preventDefault();
    const typed = text.value.trim();
    if (!typed || isBusy) return;
    write("");
    if (!(await say(typed)) && !text.value) write(typed);
  };
  part("composer").addEventListener("submit", send);
  text.addEventListener("input", grow);
  text.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) stop(); });
  part("chat-stop").addEventListener("click", stop);
}

// `why`: the obstacle to asking, if there is one.
export function show(why, busy) {
  isBusy = busy;
  part("chat-send").hidden = busy;
  part("chat-send").disabled = Boolean(why);
  part("chat-send").title = why;
  part("chat-stop").hidden = !busy;
  text.disabled = Boolean(why);
  text.placeholder = why || "Message";
}

export const focus = () => text.focus();

function write(words) {
  text.value = words;
  grow();
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, 220)}px`;
}

export const atEnd = () => document.documentElement.scrollHeight - innerHeight - scrollY < 120;

export function follow(sticks) {
  if (sticks) scrollTo({ top: document.documentElement.scrollHeight });
}
