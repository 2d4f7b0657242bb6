// Colours before the first paint. A classic script in the head, so that no page flashes in the wrong ones.
(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const choice = () => {
    try { return localStorage.getItem("theme") || "system"; } catch { return "system"; }
  };
  const apply = () => {
    const chosen = choice();
    const theme = chosen === "light" || chosen === "dark" ? chosen : dark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = theme;
    document.documentElement.dataset.bsTheme = theme;
    document.dispatchEvent(new CustomEvent("themechange", { detail: { choice: chosen, theme } }));
  };
  window.pilothouseTheme = {
    choice,
    choose(name) {
      try { localStorage.setItem("theme", name); } catch { /* a private window: it holds for this page */ }
      apply();
    },
  };
  dark.addEventListener("change", apply);
  apply();
})();
