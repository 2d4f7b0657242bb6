// A choice that is pressed shows at once. The server's answer confirms it or tells who refused; where none comes, it is
// taken back, and the corner says why.

const undone = new WeakMap(); // a form to what takes its press back

function press(form, button) {
  const choices = [...button.closest(".segment").querySelectorAll("[aria-pressed]")];
  const state = form.parentElement.querySelector("[data-press-state]");
  const before = choices.map((choice) => choice.getAttribute("aria-pressed"));
  const words = state && [...state.childNodes];
  for (const choice of choices) choice.setAttribute("aria-pressed", String(choice === button));
  button.setAttribute("aria-busy", "true");
  state?.replaceChildren("asked, not yet confirmed");
  undone.set(form, (why) => {
    choices.forEach((choice, place) => choice.setAttribute("aria-pressed", before[place]));
    button.removeAttribute("aria-busy");
    state?.replaceChildren(...(why ? [why] : words));
  });
}

document.addEventListener("htmx:beforeRequest", ({ detail }) => {
  const button = detail.requestConfig.triggeringEvent?.submitter;
  if (button?.matches(".segment [aria-pressed]")) press(detail.elt, button);
});

const takeBack = (why) => ({ detail }) => { undone.get(detail.elt)?.(why); undone.delete(detail.elt); };
document.addEventListener("htmx:sendError", takeBack("not set: the server can't be reached"));
document.addEventListener("htmx:timeout", takeBack("not confirmed: the server didn't answer in time"));
document.addEventListener("htmx:responseError", takeBack("not set: see the message in the corner"));
