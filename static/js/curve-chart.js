// One curve of a run with what belongs to it: its mean, what is no number, evaluations as rings, checkpoints as flags,
// resumptions as hairlines. Zooming asks the server for that part and puts the detail in; a double click goes back.
import { Plot, layout, palette, plotly } from "./chart.js";
import { smoothed } from "./curves.js";
import { count } from "./format.js";

const LINE = 0, SMOOTH = 1, EVAL = 3; // between them what is no number, behind them the checkpoints
const SIGNS = { NaN: ["x-thin", 0.03], "-Infinity": ["triangle-down", 0.03], Infinity: ["triangle-up", 0.97] };
const EVERY_MS = 500; // a screenful of small charts grows at this pace, the large one at each frame
const RINGS_UP_TO = 300; // more would hide each other, and the loss
const EXPORT_SIZE = { width: 1200, height: 600 };

// `extras` has the checkpoints where the chart shows them, `companion` is the key that is drawn as rings.
export class CurveChart {
  constructor(element, key, { curves, axis, view, onZoom, onHover, companion = null, extras = null }) {
    Object.assign(this, { element, key, curves, axis, view, companion, extras, onZoom, onHover });
    this.plot = new Plot(element, companion ? 0 : EVERY_MS);
    this.zoom = null;
    this.detail = new Map();
    this.drawing = 0;
    this.isDrawn = false;
    element.dataset.key = key;
  }

  rows(key = this.key) {
    return this.detail.get(key) || this.curves.get(key);
  }

  async draw() {
    const mine = (this.drawing += 1), colors = palette();
    await this.plot.draw(this.traces(colors), this.layout(colors));
    if (mine !== this.drawing) return;
    this.element.dataset.points = this.rows().step.length;
    if (!this.isDrawn) this.listen();
    this.isDrawn = true;
    this.tell();
  }

  traces(colors) {
    const rows = this.rows(), x = this.axis.of(rows), { smoothing } = this.view;
    const hover = "%{fullData.name} %{y:.4~g}<extra></extra>";
    const name = escaped(shortened(this.key));
    const traces = [
      { type: "scatter", mode: rows.step.length > 1 ? "lines" : "markers", name, x, y: rows.value.slice(), connectgaps: false, hovertemplate: hover, opacity: smoothing ? 0.3 : 1, line: { color: colors["series-1"], width: 1.7 }, marker: { color: colors["series-1"], size: 6 } },
      { type: "scatter", mode: "lines", name: "smoothed", visible: Boolean(smoothing), x, y: smoothing ? smoothed(rows.value, smoothing) : rows.value.slice(), connectgaps: false, hovertemplate: hover, line: { color: colors["series-1"], width: 2 } },
      this.brokenTrace(rows, x, colors),
    ];
    if (!this.companion) return traces;
    const evaluated = this.rows(this.companion), flags = this.extras.checkpoints;
    traces.push(
      { type: "scatter", mode: evaluated.step.length > RINGS_UP_TO ? "lines" : "markers", name: this.companion, cliponaxis: false, x: this.axis.of(evaluated), y: evaluated.value.slice(), hovertemplate: hover, line: { color: colors["series-2"], width: 1.7 }, marker: { symbol: "circle", size: 9, color: colors.surface, line: { color: colors["series-2"], width: 2 } } },
      { type: "scatter", mode: "markers", name: "checkpoints", yaxis: "y2", x: flags.map((row) => this.axis.at(row.step, rows)), y: flags.map(() => 0.96), cliponaxis: false, hovertemplate: "checkpoint at step %{text}<extra></extra>", text: flags.map((row) => count(row.step)), marker: { symbol: "triangle-right", size: 10, color: colors["series-3"] } },
    );
    return traces;
  }

  // What is no number has no height: it is marked at the edge.
  brokenTrace(rows, x, colors) {
    const places = rows.value.flatMap((value, index) => (value === null && SIGNS[rows.raw[index]] ? [index] : []));
    const signs = places.map((index) => SIGNS[rows.raw[index]]);
    return {
      type: "scatter", mode: "markers", name: "no number", yaxis: "y2", cliponaxis: false,
      x: places.map((index) => x[index]), y: signs.map(([, height]) => height),
      text: places.map((index) => `${rows.raw[index].replace("Infinity", "∞")} at step ${count(rows.step[index])}`), hovertemplate: "%{text}<extra></extra>",
      marker: { symbol: signs.map(([symbol]) => symbol), size: 8, color: colors.bad, line: { color: colors.bad, width: 2 } },
    };
  }

  layout(colors) {
    const metric = this.curves.metrics.get(this.key);
    const total = this.axis.kind === "step" && this.axis.total >= (metric?.last_step ?? 0) ? this.axis.total : null;
    const high = Math.max(Math.abs(metric?.max ?? 0), Math.abs(metric?.min ?? 0));
    const described = layout(colors, {
      xTitle: this.axis.title, total, log: this.view.log, flags: true, low: this.companion && !this.zoom ? "tozero" : "normal", powers: high < 1e-2 || high >= 1e6,
    });
    if (this.zoom) described.xaxis = { ...described.xaxis, range: this.zoom, autorange: false };
    described.xaxis.unifiedhovertitle = { text: this.axis.hover };
    described.yaxis.fixedrange = true;
    return { ...described, hovermode: "x unified", uirevision: undefined, shapes: this.hairlines(colors) };
  }

  hairlines(colors) {
    const font = { size: 11, color: colors.muted };
    return this.curves.resumed.map(({ step }) => {
      const x = this.axis.at(step, this.curves.get(this.key));
      const label = this.companion ? { label: { text: `resumed at step ${count(step)}`, textposition: "end", textangle: 0, xanchor: "left", yanchor: "top", padding: 4, font } } : {};
      return { type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: colors.muted, width: 1, dash: "dot" }, ...label };
    }).filter(({ x0 }) => x0 !== null);
  }

  // `fresh` of the last rows are new.
  extend(key, fresh) {
    if (!fresh || !this.isDrawn) return;
    this.element.dataset.points = this.rows().step.length;
    if (this.zoom) return; // the part that is looked at stays as it is
    const rows = this.curves.get(key);
    const x = this.axis.of(rows).slice(-fresh), value = rows.value.slice(-fresh);
    const points = x.map((place, index) => [place, value[index]]);
    if (key === this.companion) return void this.plot.extend(EVAL, points);
    if (value.includes(null) || rows.step.length - fresh < 2) return void this.draw(); // a mark, or the first line
    this.plot.extend(LINE, points);
    if (!this.view.smoothing) return;
    const mean = smoothed(rows.value, this.view.smoothing).slice(-fresh);
    this.plot.extend(SMOOTH, x.map((place, index) => [place, mean[index]]));
  }

  // How many values are no number, in words beside the chart.
  tell() {
    const place = this.element.parentElement.querySelector("[data-broken]"), broken = this.curves.metrics.get(this.key)?.broken;
    if (!place) return;
    place.hidden = !broken;
    place.textContent = broken ? `${count(broken)} value${broken > 1 ? "s are" : " is"} NaN or infinite: marked at the edge` : "";
  }

  // --- Zoom ---------------------------------------------------------------------------------------------------------

  listen() {
    this.element.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
      if (from !== undefined && to !== undefined) this.onZoom(this, [from, to]);
    });
    this.element.on("plotly_doubleclick", () => { this.onZoom(this, null); return false; });
    // Only what a hand does moves the others: what they are told would come back otherwise.
    this.element.on("plotly_hover", ({ xvals, event }) => { if (event?.isTrusted) this.onHover(this, xvals?.[0]); });
    this.element.on("plotly_unhover", ({ event }) => { if (event?.isTrusted) this.onHover(this, null); });
  }

  // Back to the whole curve, at the next drawing.
  forgetZoom() {
    this.zoom = null;
    this.asked = null;
    this.detail.clear();
    delete this.element.dataset.zoomed;
  }

  async zoomTo(range) {
    const before = new Map(this.detail);
    this.forgetZoom();
    if (!range) return this.draw();
    const asked = (this.asked = Symbol("zoom"));
    this.zoom = range;
    await this.loadDetail(range, before, asked);
    if (asked !== this.asked) return undefined;
    this.element.dataset.zoomed = "";
    return this.draw();
  }

  async loadDetail(range, before, asked) {
    for (const key of [this.key, this.companion]) {
      const rows = key ? this.curves.get(key) : null;
      if (!rows?.step.length || rows.count <= rows.step.length) continue; // every point is here already
      const near = before.get(key); // its points lie closer together: the edges are met better
      const known = near && this.axis.covers(near, range) ? near : rows;
      const found = await this.curves.detail(key, ...this.axis.steps(known, range));
      if (asked !== this.asked) return;
      if (found.step.length) this.detail.set(key, found);
    }
  }

  // --- Cursor and files -----------------------------------------------------------------------------------------------

  point(x) {
    if (!this.isDrawn) return;
    if (x === null || x === undefined) window.Plotly.Fx.unhover(this.element);
    else window.Plotly.Fx.hover(this.element, { xval: x });
  }

  async save(format, name) {
    const colors = palette(), described = this.layout(colors);
    const figure = {
      data: this.traces(colors),
      layout: { ...described, paper_bgcolor: colors.surface, plot_bgcolor: colors.surface, title: { text: escaped(shortened(this.key)), font: { size: 15 } }, margin: { l: 60, r: 24, t: 48, b: 48 } },
    };
    return (await plotly()).downloadImage(figure, { format, filename: name, ...EXPORT_SIZE });
  }
}

// Plotly reads a few tags in texts: a key is shown as it is.
export function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function shortened(key) {
  return key.length > 60 ? `${key.slice(0, 59)}…` : key;
}
