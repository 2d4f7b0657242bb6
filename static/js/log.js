// A job's log: its end first, older lines as one scrolls up, new ones as they come; filtered and searched by the server.
// What is shown is what lies between two bytes of the file. A line without an end is drawn anew with the next answer.
import { on } from "./live.js";
import { send } from "./csrf.js";
import { count, filesize } from "./format.js";

const MOST_LINES = 4000, NEAR = 40;
const SOON_MS = 1000, LATE_MS = 5000, TYPED_MS = 300;

class LogView {
  constructor(root) {
    this.root = root;
    this.box = this.part("lines");
    this.following = true;
    this.reading = 0; // only the newest reading may draw
    this.busy = false;
    this.timer = 0;
    this.wait = SOON_MS;
    this.filter = { attempt: "", level: "", search: "" };
    this.recall();
    this.listen();
    this.load();
  }

  part(name) { return this.root.querySelector(`[data-log-${name}]`); }

  get isFiltered() { return Boolean(this.filter.level || this.filter.search); }

  get isAtEnd() { return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < NEAR; }

  // --- The filters --------------------------------------------------------------------------------------------------

  recall() {
    if (!("keepsAddress" in this.root.dataset)) return;
    const asked = new URLSearchParams(location.search);
    for (const name of Object.keys(this.filter)) this.filter[name] = asked.get(name) || "";
  }

  remember() {
    this.part("attempt").value = this.filter.attempt;
    if (this.part("search").value.trim() !== this.filter.search) this.part("search").value = this.filter.search;
    for (const button of this.root.querySelectorAll("[data-log-level]")) {
      button.setAttribute("aria-pressed", String(button.dataset.logLevel === this.filter.level));
    }
    const chosen = this.query(this.filter.attempt ? { attempt: this.filter.attempt } : {});
    this.part("download").href = `${this.root.dataset.log}/download${chosen}`;
    if ("keepsAddress" in this.root.dataset) history.replaceState(history.state, "", `${location.pathname}${this.query(this.filter)}`);
  }

  query(values) {
    const text = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value != null)).toString();
    return text ? `?${text}` : "";
  }

  change(values) {
    Object.assign(this.filter, values);
    this.load();
  }

  // --- Reading ------------------------------------------------------------------------------------------------------

  async ask(place) {
    const mine = this.reading;
    const answer = await (await send(`${this.root.dataset.log}${this.query({ ...this.filter, ...place })}`)).json();
    return mine === this.reading ? answer : null;
  }

  // From the end of the log; with a line, from there on. What can't be read leaves an empty box, and is tried again.
  async load(line = null) {
    const mine = (this.reading += 1);
    Object.assign(this, { isLoaded: false, sought: line });
    clearTimeout(this.timer);
    this.remember();
    this.setFollowing(line === null);
    await this.read(line ? { after: line.start, number: line.number } : {}, (page) => {
      this.box.replaceChildren(...page.lines.map((item) => this.drawn(item)));
      Object.assign(this, { start: page.start, end: page.end, number: page.number, endNumber: page.end_number });
      this.box.scrollTop = line ? 0 : this.box.scrollHeight;
      if (line) this.box.firstElementChild?.classList.add("is-sought");
      Object.assign(this, { isLoaded: true, wait: SOON_MS });
    });
    if (mine !== this.reading) return undefined;
    if (!this.isLoaded) return this.loadLater();
    if (line) this.box.focus();
    return this.fill();
  }

  loadLater() {
    this.box.replaceChildren();
    Object.assign(this, { start: undefined, end: undefined, number: undefined, endNumber: undefined });
    this.wait = Math.min(LATE_MS, this.wait * 1.5);
    this.timer = setTimeout(() => (document.hidden ? this.loadLater() : this.load(this.sought)), this.wait);
  }

  async older() {
    if (this.busy || !this.start) return;
    await this.read({ before: this.start, number: this.number, attempt: this.attempt }, (page) => { // none that began meanwhile
      const height = this.box.scrollHeight - this.box.scrollTop;
      this.box.prepend(...page.lines.map((item) => this.drawn(item)));
      Object.assign(this, { start: page.start, number: page.number });
      while (this.box.childElementCount > MOST_LINES) this.forget(this.box.lastElementChild);
      this.box.scrollTop = this.box.scrollHeight - height;
    });
  }

  async newer() {
    if (this.busy) return this.later();
    if (!this.isLoaded) return this.load(this.sought);
    const before = this.end;
    await this.read({ after: this.end, number: this.endNumber }, (page) => {
      const stays = this.following || this.isAtEnd;
      if (this.box.lastElementChild?.classList.contains("is-open")) this.box.lastElementChild.remove();
      this.box.append(...page.lines.map((item) => this.drawn(item)));
      Object.assign(this, { end: page.end, endNumber: page.end_number });
      while (this.following && this.box.childElementCount > MOST_LINES) this.forgetFirst();
      if (stays && this.following) this.box.scrollTop = this.box.scrollHeight;
    });
    if (this.busy) return undefined; // it is read anew
    this.wait = this.end > before ? SOON_MS : Math.min(LATE_MS, this.wait * 1.5);
    return this.later();
  }

  async read(place, show) {
    this.busy = true;
    const mine = this.reading;
    try {
      const page = await this.ask(place);
      if (page && "after" in place && this.attempt && page.attempt !== this.attempt) return this.load(); // another began
      if (page) {
        Object.assign(this, { size: page.size, ended: page.ended, attempt: page.attempt });
        this.showAttempts(page.attempts);
        show(page);
        this.tell();
      }
    } catch (error) {
      if (mine === this.reading) this.part("state").textContent = `The log can't be read: ${error.message} Trying again.`;
    }
    if (mine === this.reading) this.busy = false;
    return undefined;
  }

  // A search that has found little yet goes on by itself until the box is full or the log is through.
  async fill() {
    const mine = this.reading;
    while (mine === this.reading && this.following && this.start && this.box.scrollHeight <= this.box.clientHeight) {
      const before = this.start;
      await this.older();
      if (this.start === before) break;
      this.box.scrollTop = this.box.scrollHeight;
    }
    if (mine === this.reading) this.later();
  }

  later() {
    clearTimeout(this.timer);
    const isThrough = this.ended && this.end >= this.size;
    if (this.following && !isThrough) this.timer = setTimeout(() => (document.hidden ? this.later() : this.newer()), this.wait);
  }

  // --- Drawing ------------------------------------------------------------------------------------------------------

  drawn(item) {
    const line = document.createElement("div");
    line.className = `log-line ${item.level}${item.open ? " is-open" : ""}`;
    line.dataset.start = item.start;
    line.dataset.number = item.number;
    const number = document.createElement(this.isFiltered ? "button" : "span");
    number.className = "log-number";
    number.textContent = count(item.number);
    if (this.isFiltered) Object.assign(number, { type: "button", title: "Show the whole log from this line on" });
    const text = document.createElement("span");
    text.className = "log-text";
    this.mark(text, item.text);
    if (item.cut_bytes) {
      const cut = document.createElement("span");
      cut.className = "log-cut";
      cut.textContent = ` … ${filesize(item.cut_bytes)} more of this line: they are in the download.`;
      text.append(cut);
    }
    line.append(number, text);
    return line;
  }

  mark(place, text) {
    const sought = this.filter.search.toLowerCase(), lower = text.toLowerCase();
    let from = 0, found = sought && lower.length === text.length ? lower.indexOf(sought) : -1;
    while (found >= 0) {
      const mark = document.createElement("mark");
      mark.textContent = text.slice(found, found + sought.length);
      place.append(text.slice(from, found), mark);
      from = found + sought.length;
      found = lower.indexOf(sought, from);
    }
    place.append(text.slice(from));
  }

  forget(last) {
    Object.assign(this, { end: Number(last.dataset.start), endNumber: Number(last.dataset.number) });
    last.remove();
    this.setFollowing(false);
  }

  forgetFirst() {
    this.box.firstElementChild.remove();
    const { start, number } = this.box.firstElementChild.dataset;
    Object.assign(this, { start: Number(start), number: Number(number) });
  }

  showAttempts(attempts) {
    const select = this.part("attempt");
    select.hidden = attempts.length < 2;
    if (select.options.length - 1 === attempts.length) return;
    const made = attempts.map(({ number }) => new Option(`attempt ${number}`, number));
    select.replaceChildren(select.options[0], ...made);
    select.value = this.filter.attempt;
  }

  tell() {
    const lines = this.box.childElementCount, place = this.part("state");
    const whole = `${filesize(this.size)}${this.ended ? "" : ", growing"}`;
    if (this.attempt === null) place.textContent = "No attempt has been started yet: the log begins with the first.";
    else if (!this.size) place.textContent = this.ended ? "Nothing was written, or it was cleaned away." : "Nothing has been written yet.";
    else if (this.isFiltered) {
      const range = this.start ? `back to line ${count(this.number)}; scroll up to go on` : "in all of it";
      place.textContent = `${count(lines)} line${lines === 1 ? "" : "s"} found ${range} · ${whole}`;
    } else {
      const last = this.endNumber - 1 + (this.box.lastElementChild?.classList.contains("is-open") ? 1 : 0);
      place.textContent = `lines ${count(this.number)} to ${count(last)}${this.end < this.size ? "" : ", the last"} · ${whole}`;
    }
  }

  setFollowing(follows) {
    this.following = follows;
    this.part("follow").setAttribute("aria-pressed", String(follows));
  }

  // --- Controls -----------------------------------------------------------------------------------------------------

  listen() {
    let typed = 0;
    this.part("search").addEventListener("input", () => {
      clearTimeout(typed);
      typed = setTimeout(() => this.change({ search: this.part("search").value.trim() }), TYPED_MS);
    });
    this.part("attempt").addEventListener("change", (event) => this.change({ attempt: event.target.value }));
    this.part("follow").addEventListener("click", () => (this.following && this.isLoaded ? this.setFollowing(false) : this.load()));
    this.root.addEventListener("click", (event) => {
      const level = event.target.closest("[data-log-level]"), number = event.target.closest("button.log-number");
      if (level) this.change({ level: level.dataset.logLevel });
      if (!number) return;
      const { start, number: sought } = number.parentElement.dataset;
      Object.assign(this.filter, { level: "", search: "" });
      this.load({ start: Number(start), number: Number(sought) });
    });
    this.box.addEventListener("scroll", () => this.scrolled());
    on("jobs", ({ kind, data }) => {
      if (kind !== "status" || String(data.id) !== this.root.dataset.job || this.busy) return;
      if (this.following && !this.filter.attempt && data.attempts !== this.attempt) this.load();
      else if (this.following) this.newer();
    });
  }

  scrolled() {
    if (this.box.scrollTop < NEAR && this.box.scrollHeight > this.box.clientHeight) this.older();
    if (this.busy || !this.isLoaded) return;
    if (!this.isAtEnd) this.setFollowing(false);
    else if (this.end < this.size) this.newer();
    else if (!this.following) { this.setFollowing(true); this.later(); }
  }
}

for (const root of document.querySelectorAll("[data-log]")) new LogView(root);
