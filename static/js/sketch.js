// A first sight of a curve from the points that came with the page. Plotly is large, and a browser that reads it for the
// first time is busy with it for a second or more; its chart takes the sketch's place.
import { timePath } from "./format.js";

const SIZE = 1000;
const SVG = "http://www.w3.org/2000/svg";

// `x` and `value` are equally long, x rises; `end`: how far the axis will reach.
export function sketch(element, x, value, end) {
  const numbers = value.filter((one) => one !== null);
  if (numbers.length < 2) return;
  const drawing = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  drawing.setAttribute("class", "sketch");
  drawing.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  const range = { width: SIZE, height: SIZE, low: Math.min(0, ...numbers), gap: Infinity };
  path.setAttribute("d", timePath(x.map((place, index) => [place, value[index]]), 0, end, range));
  drawing.append(path);
  element.append(drawing);
}

export function withoutSketch(element) {
  element.querySelector(".sketch")?.remove();
}
