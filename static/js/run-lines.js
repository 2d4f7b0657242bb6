// The lines of a comparison: which run looks how, which are hidden, and what of the page's choices stands in its address.

import { shown } from "./axes.js";

const asked = new URLSearchParams(location.search);
export const state = { hidden: new Set((asked.get("hide") || "").split(",").filter(Boolean)) };

export const lines = [...document.querySelectorAll("[data-line]")].map((button) => ({
  id: button.dataset.line, label: shown(button.dataset.label), colour: button.dataset.colour, dash: button.dataset.dash, button,
}));

// Plotly's words for what the legend shows.
export function look(line, colors) {
  return { color: colors[`series-${line.colour}`], dash: line.dash ? line.dash.split(" ").map((length) => `${length}px`).join(",") : "solid" };
}

// Writes a choice into the address; an empty one goes.
export function remember(name, value) {
  const now = new URLSearchParams(location.search);
  now.delete(name);
  for (const one of [value].flat()) if (one !== "" && one !== null) now.append(name, one);
  history.replaceState(history.state, "", `?${now}`);
}
