// What this browser remembers of who uses it. A private window forgets, and works all the same.

export function preference(name, otherwise) {
  try { return localStorage.getItem(name) ?? otherwise; } catch { return otherwise; }
}

export function prefer(name, value) {
  try { localStorage.setItem(name, value); } catch { /* it holds for this page */ }
  document.dispatchEvent(new CustomEvent("preference", { detail: { name, value } }));
}

// Segments of the settings: data-preference is the name, the pressed button's value what is chosen.
export function showPreferences() {
  for (const group of document.querySelectorAll("[data-preference]")) {
    const chosen = preference(group.dataset.preference, group.dataset.otherwise);
    for (const button of group.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === chosen));
  }
}

document.addEventListener("preference", showPreferences);
showPreferences();
