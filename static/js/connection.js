// Says whether the page is live: in the navigation's foot, and by a banner when it isn't. The data stays and greys out.
import { onState } from "./live.js";

const WORDS = { live: ["ok", "live"], connecting: ["idle", "connecting"], lost: ["bad", "not connected"], out: ["bad", "logged out"] };

onState((state) => {
  const [tone, word] = WORDS[state];
  for (const place of document.querySelectorAll("[data-connection]")) {
    place.firstElementChild.className = `dot ${tone}`;
    place.lastElementChild.textContent = word;
  }
  document.body.classList.toggle("is-stale", state === "lost" || state === "out");
  document.body.dataset.liveState = state;
  const banner = document.getElementById("lost");
  if (!banner) return;
  if (state === "out") {
    const link = document.createElement("a");
    link.href = `/login?next=${encodeURIComponent(location.pathname)}`;
    link.textContent = "Log in again";
    banner.replaceChildren("You are logged out, so nothing here moves any more. ", link);
  } else if (state === "lost") {
    banner.querySelector("[data-lost-since]").textContent = new Date().toLocaleTimeString();
  }
  banner.hidden = state !== "lost" && state !== "out";
});
