// What every page has.
import "./connection.js";
import "./fragments.js";
import "./progress.js";
import "./dialogs.js";
import "./palette.js";
import "./shortcuts.js";
import "./time.js";
import "./toasts.js";
import "./alerts.js";
import "./ended.js";
import "./places.js";
import "./scrollers.js";
import "./busy.js";
import "./press.js";

function showTheme() {
  const chosen = window.pilothouseTheme.choice();
  for (const button of document.querySelectorAll("[data-theme-choice][aria-pressed]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeChoice === chosen));
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-theme-choice]");
  if (button) { window.pilothouseTheme.choose(button.dataset.themeChoice); showTheme(); }
});
showTheme();

// The first fault of a form is where one goes on.
document.querySelector("[aria-invalid=true]")?.focus();

// On a phone there is no room for all tabs: the one that is open must be among those that are seen.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
