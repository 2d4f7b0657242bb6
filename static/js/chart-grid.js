// A chart for each key of a run, in groups by what stands before the first slash. One is read and drawn when it is
// scrolled to, one a frame; those that nobody sees are only marked as stale.
import { CurveChart } from "./curve-chart.js";
import { count, figure } from "./format.js";

const PINNED = ["eval_loss", "learning_rate", "grad_norm", "tokens_per_second"];
const FIRST = "Pinned", WITHOUT_PREFIX = "train";
const OPEN_UP_TO = 24;
const RETRY_MS = 3000;

export function groupOf(key) {
  if (PINNED.includes(key)) return FIRST;
  const cut = key.indexOf("/");
  if (cut > 0) return key.slice(0, cut);
  return key.startsWith("eval_") ? "eval" : WITHOUT_PREFIX;
}

const NUMBERED = new Intl.Collator("en", { numeric: true });

function inOrder(one, other) {
  const places = [one, other].map((key) => (PINNED.includes(key) ? PINNED.indexOf(key) : PINNED.length));
  return places[0] - places[1] || NUMBERED.compare(one, other);
}

const frame = () => new Promise((next) => requestAnimationFrame(next));

export class ChartGrid {
  // `shared`: what all charts have (curves, axis, view, onZoom, onHover); `without`: keys that are drawn elsewhere.
  constructor(root, shared, { without = [], api, say }) {
    Object.assign(this, { root, shared, without, api, say });
    this.cards = new Map();
    this.groups = new Map();
    this.queue = new Set();
    this.long = new Set(); // keys of too many points: they are read again, thinned
    this.isBusy = false;
    this.wanted = "";
    this.zoom = null;
    this.watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) this.seen(target.card, isIntersecting);
    }, { rootMargin: "250px 0px" });
  }

  get curves() { return this.shared.curves; }

  get drawn() {
    return [...this.cards.values()].filter((card) => card.chart.isDrawn);
  }

  // Cards for the keys that have none yet, none for those that went with a rewind; what they say of all.
  update() {
    for (const card of [...this.cards.values()]) if (!this.curves.metrics.has(card.key)) this.drop(card);
    const keys = [...this.curves.metrics.keys()].filter((key) => !this.without.includes(key)).sort(inOrder);
    const isOpen = keys.length <= OPEN_UP_TO;
    const last = new Map(); // a group to its card before
    for (const key of keys) {
      const group = this.group(groupOf(key), isOpen);
      if (!this.cards.has(key)) this.addCard(key, group, last.get(group));
      last.set(group, this.cards.get(key).element);
    }
    for (const { group, element, names } of this.groups.values()) {
      names.textContent = `${group} (${count(element.querySelectorAll(".curve-card").length)})`;
    }
    for (const key of keys) this.describe(key);
    this.search(this.wanted);
  }

  group(group, isOpen) {
    if (this.groups.has(group)) return this.groups.get(group);
    const element = document.getElementById("curve-group").content.firstElementChild.cloneNode(true);
    const found = { group, element, names: element.querySelector("[data-group]"), grid: element.querySelector(".curve-grid") };
    element.open = isOpen || group === FIRST;
    this.groups.set(group, found);
    const names = [...this.groups.keys()].sort((one, other) => (other === FIRST) - (one === FIRST) || one.localeCompare(other, "en"));
    const next = this.groups.get(names[names.indexOf(group) + 1]);
    this.root.insertBefore(element, next?.element ?? null);
    return found;
  }

  addCard(key, { grid }, before) {
    const element = document.getElementById("curve-card").content.firstElementChild.cloneNode(true);
    const place = element.querySelector(".chart");
    place.id = `chart-${key.replace(/[^A-Za-z0-9-]+/g, "-")}`;
    if (document.getElementById(place.id)) place.removeAttribute("id");
    element.querySelector("[data-name]").textContent = key;
    element.querySelector("summary").setAttribute("aria-label", `Save ${key}`);
    element.querySelector("[data-save=csv]").href = `${this.api}/metrics.csv?${new URLSearchParams({ keys: key })}`;
    const card = { key, element, isSeen: false, isStale: true, chart: new CurveChart(place, key, this.shared) };
    place.card = card;
    this.cards.set(key, card);
    if (before) before.after(element);
    else grid.prepend(element);
    this.watcher.observe(place);
    for (const button of element.querySelectorAll("button[data-save]")) button.addEventListener("click", () => card.chart.save(button.dataset.save, key.replace(/[^A-Za-z0-9.-]+/g, "_")));
  }

  drop(card) {
    this.cards.delete(card.key);
    this.queue.delete(card);
    this.watcher.unobserve(card.chart.element);
    card.element.remove();
  }

  describe(key) {
    const card = this.cards.get(key), metric = this.curves.metrics.get(key);
    if (!metric) return; // everything is being read anew
    const { count: points, last, min, max } = metric;
    if (!card) return; // a key that has just come: its card is on its way
    const words = `${figure(last)} · ${figure(min)} to ${figure(max)} · ${count(points)} point${points === 1 ? "" : "s"}`;
    card.element.querySelector("[data-summary]").textContent = words;
    card.element.querySelector(".chart").setAttribute("aria-label", `${key} by ${this.shared.axis.title}: last, least to most, how many: ${words}`);
    if (card.chart.isDrawn) card.chart.tell();
  }

  seen(card, isSeen) {
    card.isSeen = isSeen;
    if (isSeen) this.describe(card.key);
    if (isSeen && card.isStale) this.soon(card);
  }

  // Everything is drawn anew, what is seen at once.
  redraw() {
    for (const card of this.cards.values()) {
      card.isStale = true;
      if (card.isSeen) this.soon(card);
    }
  }

  soon(card) {
    this.queue.add(card);
    if (!this.isBusy) this.work();
  }

  async work() {
    this.isBusy = true;
    try {
      while (this.queue.size) await this.step();
      this.say("");
    } catch (error) {
      this.say(`The curves can't be read: ${error.message} Trying again.`);
      setTimeout(() => { if (!this.isBusy) this.work(); }, RETRY_MS);
    }
    this.isBusy = false;
  }

  async step() {
    await frame(); // all that came into sight at once is read at once
    const batch = [...this.queue]; // what comes into sight while these are read has its turn afterwards
    const missing = batch.filter((card) => !this.curves.has(card.key)).map((card) => card.key);
    if (missing.length) await this.curves.load(missing);
    for (const card of batch) {
      this.queue.delete(card);
      if (this.cards.get(card.key) !== card) continue; // dropped meanwhile
      card.isStale = false;
      try {
        if (this.zoom && card.chart.zoom !== this.zoom) await card.chart.zoomTo(this.zoom);
        else await card.chart.draw();
      } catch (error) {
        this.note(card, error);
      }
      await frame();
    }
  }

  // One chart that fails stops no other; it is tried again when it comes into sight again.
  note(card, error) {
    card.isStale = true;
    const place = card.element.querySelector("[data-broken]");
    place.textContent = `This curve can't be drawn: ${error.message}`;
    place.hidden = false;
    console.info(card.key, error);
  }

  // `fresh` rows of a key are new.
  extend(key, fresh) {
    const card = this.cards.get(key);
    if (!card) return;
    if (card.isSeen) this.describe(key);
    if (card.isSeen && card.chart.isDrawn && !card.isStale) card.chart.extend(key, fresh);
    else card.isStale = true;
    if (!this.curves.hasGrownTooLong(key) || this.curves.coming.has(key)) return;
    if (!this.long.size) queueMicrotask(() => this.thin()); // once for all keys of a message
    this.long.add(key);
  }

  // Other charts draw by these rows, too (evaluations, tokens): they stay until the thinned ones are there.
  async thin() {
    const keys = [...this.long];
    this.long.clear();
    try { await this.curves.load(keys); } catch { return; } // the next point asks again
    for (const card of keys.map((key) => this.cards.get(key)).filter(Boolean)) {
      card.isStale = true;
      if (card.isSeen) this.soon(card);
    }
  }

  // One zoom for all; null is the whole again.
  zoomTo(range) {
    this.zoom = range;
    for (const card of this.cards.values()) {
      if (!range) card.chart.forgetZoom();
      card.isStale = true;
      if (card.isSeen) this.soon(card);
    }
  }

  search(text) {
    this.wanted = text;
    const words = text.toLowerCase().trim();
    let found = 0;
    for (const { element } of this.groups.values()) {
      let here = 0;
      for (const card of element.querySelectorAll(".curve-card")) {
        const fits = card.querySelector(".chart").dataset.key.toLowerCase().includes(words);
        card.hidden = !fits;
        here += fits;
      }
      element.hidden = !here;
      if (words && here) element.open = true;
      found += here;
    }
    return found;
  }
}
