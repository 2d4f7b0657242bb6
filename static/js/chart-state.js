// What a page of one chart says while there is nothing to draw, or when it can't be read: in #chart-state.

export function say(words) {
  const place = document.getElementById("chart-state");
  if (!place) return;
  place.textContent = words;
  place.hidden = !words;
}
