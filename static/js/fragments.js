// Parts of a page that the server draws anew when something was announced: data-fragment is their address,
// data-refresh the "topic:kind"s that they listen to, data-only the id that must be meant.
import { on } from "./live.js";

const WAIT_MS = 150;
const FOCUSABLE = "a[href], button, input, select, textarea";

function refresher(element) {
  let timer = 0, busy = false, again = false;
  const draw = async () => {
    timer = 0;
    if (busy) { again = true; return; }
    busy = true;
    const focused = [...element.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
    try {
      await window.htmx.ajax("GET", element.dataset.fragment, { target: element, swap: "innerHTML" });
      if (focused >= 0) element.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
    } finally {
      busy = false;
      if (again) { again = false; ask(); }
    }
  };
  const ask = () => { if (!timer) timer = setTimeout(draw, WAIT_MS); };
  return ask;
}

for (const element of document.querySelectorAll("[data-fragment]")) {
  const ask = refresher(element);
  const wanted = new Map();
  for (const word of element.dataset.refresh.split(" ")) {
    const cut = word.lastIndexOf(":");
    const topic = word.slice(0, cut);
    if (!wanted.has(topic)) wanted.set(topic, new Set(["reset"]));
    wanted.get(topic).add(word.slice(cut + 1));
  }
  for (const [topic, kinds] of wanted) {
    on(topic, ({ kind, data }) => {
      if (!kinds.has(kind)) return;
      if (element.dataset.only && kind !== "reset" && String(data.id) !== element.dataset.only) return;
      ask();
    });
  }
  element.addEventListener("refresh", ask);
}
