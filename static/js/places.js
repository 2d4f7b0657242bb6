// On a phone most places lie under "More": the counts of the navigation are shown there too, whenever it is drawn anew.
const places = document.getElementById("places");

document.addEventListener("drawn", ({ detail }) => {
  if (detail !== places) return;
  for (const shown of document.querySelectorAll("[data-count-of]")) {
    const count = places.querySelector(`[data-count="${shown.dataset.countOf}"]`)?.textContent ?? "";
    shown.firstElementChild.textContent = count;
    shown.hidden = !count;
  }
});
