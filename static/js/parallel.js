// Parallel axes: each is an upright line, and each run crosses it at its value's height. Drawn with lines and points:
// Plotly's own kind of this plot wants eval.
import { layout } from "./chart.js";

const NARROW = 600;

// Where the value of a line lies on an axis, from 0 to 1; null where it has none.
export function height(axis, value) {
  return value === null || value === undefined ? null : (axis.at(value) - axis.low) / (axis.high - axis.low);
}

// `axes` [{title, at, low, high, ticks, values: one a line}], `lines` [{hover, color, width, opacity, dash}].
export async function drawParallel(plot, colors, axes, lines) {
  const traces = lines.map((line, place) => ({
    type: "scatter", mode: "lines+markers", x: axes.map((_axis, index) => index), y: axes.map((axis) => height(axis, axis.values[place])),
    hovertext: line.hover, hoverinfo: "text", opacity: line.opacity, line: { color: line.color, width: line.width, dash: line.dash || "solid" }, marker: { size: 5 },
  }));
  const isNarrow = plot.element.clientWidth < NARROW;
  const whole = layout(colors, { xTitle: "", total: null, log: false });
  whole.hovermode = "closest";
  Object.assign(whole.xaxis, { range: [-0.3, axes.length - 0.5], autorange: false, tickvals: axes.map((_axis, index) => index), ticktext: axes.map((axis) => (isNarrow ? axis.title.replaceAll(" ", "<br>") : axis.title)), tickangle: 0, side: "top", showline: false });
  Object.assign(whole.yaxis, { range: [0, 1], autorange: false, visible: false });
  whole.margin = { ...whole.margin, t: isNarrow ? 60 : 30, b: 10, l: 12 };
  whole.shapes = axes.map((_axis, index) => ({ type: "line", x0: index, x1: index, y0: 0, y1: 1, line: { color: colors.line, width: 1 } }));
  whole.annotations = axes.flatMap((axis, index) => axis.ticks.map(([place, words]) => ({ x: index, y: (place - axis.low) / (axis.high - axis.low), text: words, showarrow: false, xanchor: "left", xshift: 6, font: { size: 11, color: colors.muted } })));
  await plot.draw(traces, whole);
}
