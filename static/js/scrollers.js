// What scrolls can be scrolled by keys: it takes the focus while it is wider or taller than its box.

const SCROLLERS = ".table-box, .scroll-box, .run-aside, .log, pre";

function look() {
  for (const box of document.querySelectorAll(SCROLLERS)) {
    const beyond = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (beyond && !box.hasAttribute("tabindex")) {
      box.tabIndex = 0;
      box.dataset.scrolls = "";
    } else if (!beyond && "scrolls" in box.dataset) {
      box.removeAttribute("tabindex");
      delete box.dataset.scrolls;
    }
  }
}

let waiting = 0;
function soon() {
  if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; look(); });
}

addEventListener("resize", soon);
addEventListener("load", soon);
document.addEventListener("drawn", soon);
document.addEventListener("toggle", soon, true);
look();
