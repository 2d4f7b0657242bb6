// What is chosen for all curves of a run at once, kept in the address: the axis, how much they are smoothed, a log scale,
// whether cursor and zoom move together, and which keys are looked for.

const AXES = ["step", "time", "tokens"];
const MOST = 0.99;

const bar = document.getElementById("curve-bar");

function kept() {
  const asked = new URLSearchParams(location.search), smoothing = Number(asked.get("smooth"));
  return {
    axis: AXES.includes(asked.get("axis")) ? asked.get("axis") : "step",
    smoothing: smoothing > 0 && smoothing <= MOST ? smoothing : 0,
    log: asked.get("log") === "1", link: asked.get("link") === "1", keys: asked.get("curves") ?? "",
  };
}

function keep(view) {
  const address = new URL(location.href);
  const values = { axis: view.axis === "step" ? "" : view.axis, smooth: view.smoothing || "", log: view.log ? "1" : "", link: view.link ? "1" : "", curves: view.keys };
  for (const [name, value] of Object.entries(values)) {
    if (value) address.searchParams.set(name, value); else address.searchParams.delete(name);
  }
  history.replaceState(history.state, "", address);
}

function show(view) {
  for (const button of bar.querySelectorAll("[data-axis]")) button.setAttribute("aria-pressed", String(button.dataset.axis === view.axis));
  bar.querySelector("[data-log]").setAttribute("aria-pressed", String(view.log));
  bar.querySelector("[data-link]").setAttribute("aria-pressed", String(view.link));
  bar.querySelector("#curve-smoothing").value = view.smoothing;
  bar.querySelector("output").textContent = view.smoothing ? view.smoothing.toFixed(2) : "off";
}

// Returns the view, and calls back: `change()` when curves are to be drawn otherwise, `find(text)`, `save(format)`.
export function controls({ change, find, save }) {
  const view = kept(), search = document.getElementById("curve-search");
  const take = (values) => { Object.assign(view, values); keep(view); show(view); };
  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if ("axis" in button.dataset) take({ axis: button.dataset.axis });
    else if ("log" in button.dataset) take({ log: !view.log });
    else if ("link" in button.dataset) return take({ link: !view.link });
    else if ("save" in button.dataset) return save(button.dataset.save);
    else return;
    change();
  });
  bar.querySelector("#curve-smoothing").addEventListener("input", ({ target }) => { take({ smoothing: Number(target.value) }); change(); });
  search.value = view.keys;
  search.addEventListener("input", () => { take({ keys: search.value }); find(search.value); });
  show(view);
  return view;
}
