// Parts of a page that the server draws anew when something was announced: data-fragment is their address,
// data-refresh the "topic:kind"s that they listen to, data-only the id that must be meant. A phase or a progress alone
// draws nothing anew: those are moved in place.
import { on } from "./live.js";
import { draw } from "./draw.js";

const WAIT_MS = 150, RETRY_MS = 5000;
const MOVED_IN_PLACE = new Set(["phase", "progress", "statistics"]);

function signature(data) {
  return JSON.stringify(Object.entries(data).filter(([name]) => !MOVED_IN_PLACE.has(name)));
}

function refresher(element) {
  let timer = 0, busy = false, again = false;
  const drawNow = async () => {
    timer = 0;
    if (busy) { again = true; return; }
    busy = true;
    try {
      await draw(element, element.dataset.fragment);
    } catch (error) {
      if (error instanceof TypeError) setTimeout(ask, RETRY_MS); // nobody answers: the banner says so
      else console.warn(error.message);
    }
    busy = false;
    if (again) { again = false; ask(); }
  };
  const ask = () => { if (!timer) timer = setTimeout(drawNow, WAIT_MS); };
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
  const known = new Map();
  for (const [topic, kinds] of wanted) {
    on(topic, ({ kind, data }) => {
      if (!kinds.has(kind)) return;
      if (data.id !== undefined) {
        const about = `${topic} ${kind} ${data.id}`, now = signature(data);
        if (known.get(about) === now) return;
        known.set(about, now);
      }
      if (element.dataset.only && kind !== "reset" && String(data.id) !== element.dataset.only) return;
      ask();
    });
  }
  element.addEventListener("refresh", ask);
}
