// Puts a part of the page, drawn anew by the server, in its place. `drawn` on the document says that something was.
//
// Not htmx.ajax: calls without an element of their own share one queue there, which drops all but the last.

const FOCUSABLE = "a[href], button, input, select, textarea";

// Replaces the content of `element` (or, with `whole`, itself) by what `url` answers. A failure changes nothing.
export async function draw(element, url, { whole = false } = {}) {
  const answer = await fetch(url, { credentials: "same-origin", headers: { "HX-Request": "true" } });
  if (!answer.ok || answer.redirected) throw new Error(`${url} answered ${answer.status}`);
  const text = await answer.text();
  const focused = [...element.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  let target = element;
  if (whole) {
    const template = document.createElement("template");
    template.innerHTML = text;
    target = template.content.firstElementChild;
    element.replaceWith(target);
  } else {
    element.innerHTML = text;
  }
  window.htmx.process(target);
  if (focused >= 0) target.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
  document.dispatchEvent(new CustomEvent("drawn", { detail: target }));
}

document.addEventListener("htmx:afterSwap", ({ target }) => document.dispatchEvent(new CustomEvent("drawn", { detail: target })));
