// Curves of a run drawn by Plotly. Points are appended as they come, at most once a frame.
import { withoutSketch } from "./sketch.js";

const COLORS = ["--series-1", "--series-2", "--series-3", "--series-4", "--ink", "--muted", "--line", "--surface", "--font"];

export function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLORS.map((name) => [name.slice(2), style.getPropertyValue(name).trim()]));
}

export function layout(colors, { xTitle, total, log, low = "tozero", flags = false, tickFormat = "", powers = false }) {
  const axis = {
    gridcolor: colors.line, linecolor: colors.line, zeroline: false, tickfont: { color: colors.muted, size: 12 },
    title: { font: { color: colors.muted, size: 12 }, standoff: 8 }, automargin: true, fixedrange: false,
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: colors.font, color: colors.ink, size: 12 },
    margin: { l: 44, r: 12, t: 10, b: 34 }, showlegend: false, hovermode: "x", dragmode: "zoom", uirevision: "kept",
    hoverlabel: { bgcolor: colors.surface, bordercolor: colors.line, font: { family: colors.font, color: colors.ink, size: 12 } },
    xaxis: { ...axis, showgrid: false, title: { ...axis.title, text: xTitle }, rangemode: "tozero", ...(total ? { range: [0, total], autorange: false } : { autorange: true }) },
    yaxis: { ...axis, nticks: 6, tickformat: tickFormat, ...(powers ? { exponentformat: "e" } : {}), type: log ? "log" : "linear", autorange: true, ...(log ? {} : { rangemode: low }) },
    ...(flags ? { yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true } } : {}),
  };
}

export const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "reset", showTips: false };

// Scripts of a page may come before Plotly, which is large: their data is on its way while it is read.
export function plotly() {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  return new Promise((found) => document.addEventListener("DOMContentLoaded", () => found(window.Plotly), { once: true }));
}

// A Plotly plot that can be grown. `element.data` is Plotly's own and holds what is drawn.
export class Plot {
  constructor(element, everyMs = 0) {
    this.element = element;
    this.everyMs = everyMs;
    this.pending = new Map();
    this.frame = 0;
    this.ready = false;
    new ResizeObserver(() => { if (this.ready && element.clientWidth) window.Plotly.Plots.resize(element); }).observe(element);
  }

  async draw(traces, described) {
    this.pending.clear();
    this.ready = false;
    await (await plotly()).react(this.element, traces, described, CONFIG);
    withoutSketch(this.element);
    this.ready = true;
  }

  // Adds points [[x, y, customdata]] to the trace of that number.
  extend(index, points) {
    if (!points.length) return;
    if (!this.pending.has(index)) this.pending.set(index, []);
    this.pending.get(index).push(...points);
    if (this.frame) return;
    const flush = () => requestAnimationFrame(() => this.flush());
    this.frame = this.everyMs ? setTimeout(flush, this.everyMs) : flush();
  }

  flush() {
    this.frame = 0;
    if (!this.ready || !this.pending.size) return;
    const indices = [...this.pending.keys()];
    const x = indices.map((index) => this.pending.get(index).map((point) => point[0]));
    const y = indices.map((index) => this.pending.get(index).map((point) => point[1]));
    this.pending.clear();
    window.Plotly.extendTraces(this.element, { x, y }, indices);
  }
}
