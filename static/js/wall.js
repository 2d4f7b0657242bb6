// The wall: the time, losses of what runs, a screen that stays awake when asked to. Everything else is drawn by the
// server when something was announced. After an update of the product the page loads itself anew.
import "./run-sparks.js";
import "./served.js";

const box = document.getElementById("wall");

// --- An update of the product ---------------------------------------------------------------------------------------

document.addEventListener("drawn", () => {
  const made = box.querySelector("[data-made-by]")?.dataset.madeBy;
  if (made && made !== box.dataset.version) location.reload();
});

// --- The clock ------------------------------------------------------------------------------------------------------

const clock = document.getElementById("wall-clock");
const tick = () => { clock.textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }); };
setInterval(tick, 5000);
tick();

// --- The screen -----------------------------------------------------------------------------------------------------

const awake = document.getElementById("wall-awake"), full = document.getElementById("wall-full");
const said = document.getElementById("wall-awake-state");
let wanted = false;

async function hold() {
  if (!wanted || document.visibilityState !== "visible") return;
  try {
    await navigator.wakeLock.request("screen");
    said.textContent = "The screen stays awake.";
  } catch {
    wanted = false;
    said.textContent = "The system lets the screen sleep: its battery is low, or it forbids it.";
  }
  awake.setAttribute("aria-pressed", String(wanted));
}

awake.hidden = !("wakeLock" in navigator);
awake.addEventListener("click", () => { wanted = true; hold(); });
document.addEventListener("visibilitychange", hold);
full.hidden = !document.fullscreenEnabled;
full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()));
