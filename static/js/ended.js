// Jobs that ended: said to the ear, counted in the title and the icon while nobody looks, and told by the browser where
// the settings say so. All of it comes over the page's one websocket.
import { on } from "./live.js";
import { preference, prefer } from "./preferences.js";

const ENDS = { done: "is done", failed: "has failed" };
const UNTOLD = new Set(["serve", "generate"]); // engines have alerts, a generation is for who asked alone
const ANSWER_MS = 300; // so long another tab has to say that it is in front
const title = document.title;
const icon = document.querySelector('link[rel="icon"]');
const plain = icon?.href;
const said = document.getElementById("said"); // has the addresses, too
const known = new Set();
let unseen = 0;

const inFront = () => document.visibilityState === "visible" && document.hasFocus();

// Of several tabs the one that is in front answers those that ask: what it shows isn't told by them.
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("ended") : null;
const waiting = new Map(); // what has ended to what an answer does

tabs?.addEventListener("message", ({ data }) => {
  if (data.asked && inFront()) tabs.postMessage({ seen: data.asked });
  waiting.get(data.seen)?.(true);
});

function isSeenElsewhere(about) {
  if (!tabs) return Promise.resolve(false);
  const answer = new Promise((found) => {
    waiting.set(about, found);
    setTimeout(() => { waiting.delete(about); found(false); }, ANSWER_MS);
  });
  tabs.postMessage({ asked: about });
  return answer;
}

function show() {
  document.title = unseen ? `(${unseen}) ${title}` : title;
  if (icon) icon.href = unseen ? icon.dataset.unseen : plain;
}

function page({ id, kind, run_id: run }) {
  const [address, number] = run ? [said.dataset.runPage, run] : [said.dataset[`${kind}Page`] ?? said.dataset.queuePage, id];
  return address.replace(/0(?=\/?$)/, number);
}

function tell(job, words) {
  if (preference("notify", "off") === "off" || !("Notification" in window) || Notification.permission !== "granted") return;
  try {
    const note = new Notification(words, { body: job.error?.message ?? "", tag: `job-${job.id}-${job.attempts}`, icon: plain });
    note.addEventListener("click", () => { window.focus(); location.assign(page(job)); note.close(); });
  } catch (error) {
    console.info(error); // browsers of phones have the word and refuse the thing
  }
}

on("jobs", async ({ kind, data }) => {
  if (kind !== "status" || !(data.status in ENDS) || UNTOLD.has(data.kind)) return;
  const about = `${data.id} ${data.attempts} ${data.status}`;
  if (known.has(about)) return;
  known.add(about);
  if (data.created_by !== document.body.dataset.person && preference("notify", "off") !== "all") return;
  const words = `${data.title} ${ENDS[data.status]}`;
  if (said) said.textContent = words;
  if (inFront() || (await isSeenElsewhere(about)) || inFront()) return;
  unseen += 1;
  show();
  tell(data, words);
});

function seen() {
  if (!unseen || !inFront()) return;
  unseen = 0;
  show();
}
addEventListener("focus", seen);
document.addEventListener("visibilitychange", seen);

// The switch in the settings: the browser is asked for its permission on this click alone.
const state = document.getElementById("notify-state");

function explain() {
  if (!state) return;
  if (!("Notification" in window)) state.textContent = "This browser can't, or not without https.";
  else if (Notification.permission === "denied") state.textContent = "The browser refuses them for this address. Allow notifications beside the address, then choose again.";
  else if (preference("notify", "off") !== "off" && Notification.permission === "granted") state.textContent = "They come while no page of Pilothouse is in front, as long as one is open.";
  else state.textContent = "Nothing is told outside of these pages.";
}

document.addEventListener("preference", async ({ detail }) => {
  if (detail.name !== "notify") return;
  if (detail.value !== "off" && "Notification" in window && Notification.permission === "default") {
    const answer = await Notification.requestPermission();
    if (answer !== "granted") prefer("notify", "off");
  }
  explain();
});
explain();
