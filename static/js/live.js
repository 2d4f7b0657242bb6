// The one websocket of a page. Nothing is polled: what is missed while it is down is asked for by number afterwards.
//
// The server renders where the page stands on each topic (meta live-topics: {topic: seq}). on(topic, handler) gets each
// message {topic, kind, seq, data} once and in order; kind "reset" means: read everything again. It returns what ends it.

const BACK_OFF_MS = [300, 700, 1500, 3000, 6000, 12000];
const LOST_AFTER_MS = 1500;
const ANSWER_WITHIN_MS = 6000;
const CLOSE_NOT_LOGGED_IN = 4401;

const seen = new Map(Object.entries(JSON.parse(document.querySelector("meta[name=live-topics]")?.content || "{}")));
const handlers = new Map();
const watchers = new Set();
const asked = new Map();
let isBegun = document.readyState === "complete"; // before, a message would find only some of its handlers
let socket = null, failures = 0, lostTimer = 0, retryTimer = 0, deafTimer = 0, state = "connecting";

export function on(topic, handler) {
  if (!handlers.has(topic)) handlers.set(topic, new Set());
  handlers.get(topic).add(handler);
  if (isOpen()) subscribe([topic]);
  else connect();
  return () => off(topic, handler);
}

// A page may have so many topics at once: one that nobody listens to any more is given back.
function off(topic, handler) {
  const left = handlers.get(topic);
  if (!left?.delete(handler) || left.size) return;
  for (const known of [handlers, seen, asked]) known.delete(topic);
  if (isOpen()) socket.send(JSON.stringify({ unsubscribe: [topic] }));
}

export function onState(watcher) {
  watchers.add(watcher);
  watcher(state);
}

function isOpen() {
  return socket !== null && socket.readyState === WebSocket.OPEN;
}

function topics() {
  return [...new Set([...seen.keys(), ...handlers.keys()])];
}

function subscribe(names) {
  if (!names.length) return;
  const after = {};
  for (const name of names) if (seen.has(name)) after[name] = seen.get(name);
  socket.send(JSON.stringify({ subscribe: names, after }));
}

function connect() {
  if (!isBegun || (socket && socket.readyState <= WebSocket.OPEN)) return;
  clearTimeout(retryTimer);
  const url = new URL("/ws/live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.addEventListener("open", () => subscribe(topics()));
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", closed);
}

function closed(event) {
  clearTimeout(deafTimer);
  if (event.code === CLOSE_NOT_LOGGED_IN) return tell("out");
  if (!lostTimer && state !== "lost") lostTimer = setTimeout(() => tell("lost"), LOST_AFTER_MS);
  const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)];
  failures += 1;
  retryTimer = setTimeout(connect, wait * (0.75 + Math.random() / 2));
}

function alive() {
  failures = 0;
  clearTimeout(lostTimer);
  clearTimeout(deafTimer);
  lostTimer = 0;
  if (state !== "live") tell("live");
}

function tell(next) {
  state = next;
  for (const watcher of watchers) watcher(next);
}

function receive(message) {
  alive();
  const { topic, kind, seq } = message;
  if (!seen.has(topic) && !handlers.has(topic)) return; // no topic, or one that was given back meanwhile
  const last = seen.get(topic);
  if (kind === "subscribed") {
    if (last === undefined || seq > last) seen.set(topic, seq);
    return;
  }
  if (typeof seq === "number" && last !== undefined) {
    if (kind !== "reset" && seq <= last) return;
    if (kind !== "reset" && seq > last + 1 && asked.get(topic) !== last) {
      asked.set(topic, last);
      return subscribe([topic]);
    }
  }
  if (typeof seq === "number") seen.set(topic, seq);
  for (const handler of handlers.get(topic) || []) {
    try { handler(message); } catch (error) { console.error(error); }
  }
}

// A laptop that was closed may hold a socket that is dead without knowing: asking once more finds out.
function woken() {
  if (document.visibilityState !== "visible" || state === "out") return;
  if (!socket || socket.readyState > WebSocket.OPEN) {
    failures = 0;
    return connect();
  }
  if (isOpen() && topics().length) {
    subscribe(topics());
    clearTimeout(deafTimer);
    deafTimer = setTimeout(() => socket.close(), ANSWER_WITHIN_MS);
  }
}

document.addEventListener("visibilitychange", woken);
addEventListener("online", woken);
addEventListener("pageshow", (event) => { if (event.persisted) woken(); });
addEventListener("pagehide", () => { clearTimeout(lostTimer); clearTimeout(retryTimer); });

function begin() {
  isBegun = true;
  if (topics().length) connect();
}

if (isBegun) begin();
else for (const [place, event] of [[document, "DOMContentLoaded"], [window, "load"]]) place.addEventListener(event, begin, { once: true });
