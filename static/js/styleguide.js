// The page of the design: each token's value and contrast as they are now, and toasts on a click.
import { toast } from "./toasts.js";

const ENOUGH = 3;

function channel(part) {
  const share = part / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
}

function luminance(colour) {
  const [red, green, blue] = [1, 3, 5].map((start) => channel(Number.parseInt(colour.slice(start, start + 2), 16)));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((first, second) => first - second);
  return (high + 0.05) / (low + 0.05);
}

function show() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  for (const row of document.querySelectorAll("[data-token]")) {
    const colour = value(row.dataset.token);
    row.querySelector("[data-value]").textContent = colour;
    for (const place of row.querySelectorAll("[data-on]")) {
      const found = contrast(colour, value(place.dataset.on));
      place.textContent = found.toFixed(1);
      place.toggleAttribute("data-low", found < ENOUGH);
    }
  }
}

document.addEventListener("themechange", show);
document.addEventListener("click", ({ target }) => {
  const said = target.closest("[data-say]")?.dataset;
  if (said) toast(said.words, said.say);
});
document.addEventListener("submit", (event) => { if ("nowhere" in event.target.dataset) event.preventDefault(); });
show();
