// Keeps "3 min ago" true. The exact time stands in the title.
import { ago } from "./format.js";

function refresh() {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const text = ago(new Date(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
  }
}

setInterval(refresh, 10000);
document.addEventListener("visibilitychange", refresh);
document.addEventListener("drawn", refresh);
refresh();
